"""Masks of labels: each class of a sample by itself, cut out and made a small square.

That is how PaliGemma's `<seg>` tokens say a mask: what lies in the tight box around it, resized to
64 x 64 (google-research/big_vision, `pp/proj/paligemma/segmentation.py: get_refcoco_mask2str`).
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float32

from medjax.data.augment import Augment
from medjax.data.image import resize_floats
from medjax.data.motion import extent
from medjax.data.samples.sample import UNKNOWN, Sample, SampleSource
from medjax.data.samples.vary import vary
from medjax.data.streams import Row
from medjax.modalities.table import LABELS

# In `Sample.extra`: the class that a sample is the mask of, as a number, and what it is called.
CLASS, CLASS_NAME = "class", "class_name"


def crop(mask: Bool[np.ndarray, "H W"], size: int) -> Float32[np.ndarray, "size size"]:
    """The tight box around a mask as a square; in [0, 1], a fraction where its border passes.

    Raises:
      ValueError: the mask is empty.
    """
    (top, left), (bottom, right) = (corner.astype(int) for corner in extent(mask))
    if top == bottom:
        raise ValueError("an empty mask has no box")
    box = mask[top:bottom, left:right, None].astype(np.float32)
    return resize_floats(box, size)[..., 0]


class MaskSamples:
    """A source's labels, one sample for each class but 0 that fills enough of them.

    All labels are read once, to see which classes they hold.

    Attributes:
      names: the labels' name alone.
      faults: the source's.
    """

    def __init__(
        self, samples: SampleSource, value: str, classes: Sequence[str] = (), *, min_pixels: int = 1
    ):
        """Reads a source.

        Args:
          value: the name of its labels.
          classes: names of the classes from 0 on; where there are none, their numbers are said.
          min_pixels: what fills fewer is left out.
        """
        self.names: tuple[str, ...] = (value,)
        self.faults: Mapping[str, int] = samples.faults
        self._samples, self._classes = samples, tuple(classes)
        found = []
        for index in range(len(samples)):
            counts = np.bincount(samples[index].value(value).ravel(), minlength=UNKNOWN + 1)
            counts[[0, UNKNOWN]] = 0
            found += [(index, label) for label in np.flatnonzero(counts >= max(1, min_pixels))]
        # An array takes less memory than a list, where there are millions.
        self._places = np.array(found, np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        number, label = map(int, self._places[index])
        sample, (value,) = self._samples[number], self.names
        name = self._classes[label] if self._classes else str(label)
        extra = {**sample.extra, CLASS: label, CLASS_NAME: name}
        values = {value: functools.partial(sample.value, value)}
        return Sample(f"{sample.id}/{name}", values, extra, sample.where)


class MaskTransform:
    """Maps a sample of `MaskSamples`, or a random variation of it, to the row of a batch."""

    def __init__(self, name: str, size: int, augment: Augment | None = None):
        """name: of the masks in the row. size: their side, pixels. augment: see `vary`."""
        self.name, self.size, self.augment = name, size, augment

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Row:
        """A row with the mask, float32 [size, size] in [0, 1]; `id`, and `truncated`, false."""
        (value,) = sample.values
        labels, label = sample.value(value), sample.extra[CLASS]
        if rng is not None and self.augment:
            varied = vary({value: labels}, {value: LABELS}, self.augment, rng)[value]
            if (varied == label).any():  # a few pixels may be lost when labels are turned
                labels = varied
        mask = crop(labels == label, self.size)
        return {self.name: mask, "id": np.asarray(sample.id), "truncated": np.asarray(False)}
