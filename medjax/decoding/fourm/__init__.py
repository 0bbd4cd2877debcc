"""4M: any modality generated from any others.

As in apple/ml-4m, `fourm/models/generate.py`: a schedule says what is made, one modality a step.
"""

from medjax.decoding.fourm.generator import Generator, sample_keys
from medjax.decoding.fourm.known import Known, features_of, full
from medjax.decoding.fourm.steps import SCHEMES, Step

__all__ = ["SCHEMES", "Generator", "Known", "Step", "features_of", "full", "sample_keys"]
