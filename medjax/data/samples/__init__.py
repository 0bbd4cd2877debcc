"""What 4M learns from: samples, their sources, and batches of them."""

from medjax.data.samples.open import DATASETS, open_samples
from medjax.data.samples.sample import UNKNOWN, Box, Sample, SampleSource

__all__ = ["DATASETS", "UNKNOWN", "Box", "Sample", "SampleSource", "open_samples"]
