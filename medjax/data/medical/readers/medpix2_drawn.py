"""MedPix 2.0's files with drawn content: for trying things without the real data."""

import dataclasses
import functools

from medjax.data.medical import drawn
from medjax.data.medical.readers import medpix2

DATASET = dataclasses.replace(
    medpix2.DATASET,
    name="medpix2_drawn",
    title="Drawn cases in the form of MedPix 2.0",
    licence="That of the ICBM 152 template, see medjax/data/datasets/mni152_vqa/builder.py",
    source="Drawn by medjax on slices of the ICBM 152 template; no patient is shown",
    make=functools.partial(drawn.write, cases=300),
)
