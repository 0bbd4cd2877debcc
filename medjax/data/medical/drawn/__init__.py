"""A data set in the form of MedPix 2.0 that is drawn: for trying things out, never for medicine."""

from medjax.data.medical.drawn.folder import write as write
