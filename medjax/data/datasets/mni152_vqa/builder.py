"""The TFDS builder `mni152_vqa`: questions about brain MRI, made from files already installed.

The images are slices of the ICBM152 2009a nonlinear symmetric T1 template, an average of 152 young
adults' heads at 1 mm, skull stripped, with maps of grey and white matter (V. Fonov et al.,
NeuroImage 47, 2009, S102, and NeuroImage 54, 2011, 313-327; L. Collins et al. 1999). The nilearn
package carries it; nothing is downloaded. Its terms, which go with every copy:

    Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological
    Institute, McGill University. Permission to use, copy, modify, and distribute this software and
    its documentation for any purpose and without fee is hereby granted, provided that the above
    copyright notice appear in all copies. The authors and McGill University make no representations
    about the suitability of this software for any purpose. It is provided "as is" without express
    or implied warranty. The authors are not responsible for any data loss, equipment damage,
    property loss, or injury to subjects or patients resulting from the use or misuse of this
    software package.

Which slices, and how they are split: see `slabs`. What is asked of a slice (see `questions` for the
wordings), with regions, shares and boxes taken in the slice itself, at 1 mm, before any resizing:

- caption: plane, level, share, balance and fluid in one line.
- detect_brain, detect_white_matter: the tight box of voxels that are grey or white matter together,
  or white matter, with a probability above one half; asked where they fill at least 0.5 percent of
  the image.
- plane: axial, coronal or sagittal.
- level: the head's tissue (T1 above a tenth of its range) reaches from one slice to another along
  the plane's axis; five levels of equal thickness divide that. Axial slices are counted from the
  bottom, coronal ones from the back, sagittal ones from the midline. Each plane has words of its
  own, and the question names the direction.
- share: the share of the image's pixels that are grey matter, in three classes divided at 15 and
  23 percent.
- balance: whether grey matter has more than twice as many pixels as white matter.
- fluid: whether pixels that brain tissue encloses within the slice without being grey or white
  matter (mostly the ventricles) make up at least 0.5 percent of the image.

Beside its questions a slice has a map of tissue: 1 where a voxel is grey matter and 2 where it is
white matter with a probability above one half, else 0. Boxes are those of the questions, in parts
of the image's height and width: y1, x1, y2, x2. Its depth is how far along the head's tissue it
lies, in [0, 1), and its level 0 to 4.

The template is exactly left-right symmetric, so nothing is asked about sides, and sagittal slices
come from one half of the head. It is one (average) head: a score on the test split says that a
model has learnt to read slices between those that it saw, not that it reads other people's brains.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from medjax.data.datasets.mni152_vqa.questions import boxes, level_of, questions
from medjax.data.datasets.mni152_vqa.slabs import SPLITS, cuts
from medjax.data.datasets.mni152_vqa.volume import VOXEL_MM, load_template
from medjax.data.volumes import slice_for_display


class Mni152Vqa(tfds.core.GeneratorBasedBuilder):
    """One record a slice: its image, its tissue, where it comes from, and what is asked of it.

    Pictures go in as PNG files, so that writing and reading need no TensorFlow.
    """

    VERSION = tfds.core.Version("1.3.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "labels": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "plane": tfds.features.Text(),
                    "slice": np.int32,
                    "slab": tfds.features.Text(),
                    "depth": np.float32,
                    "level": np.int32,
                    "voxel_mm": np.float32,
                    "boxes": tfds.features.Sequence(
                        {
                            "label": tfds.features.Text(),
                            "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
                        }
                    ),
                    "questions": tfds.features.Sequence(
                        {
                            "task": tfds.features.Text(),
                            "phrasing": np.int32,
                            "prefix": tfds.features.Text(),
                            "suffix": tfds.features.Text(),
                        }
                    ),
                }
            ),
            # Records stay in the order of planes and positions.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        template = load_template()
        for number, cut in enumerate(cut for cut in cuts(template) if cut.split == split):
            labels = slice_for_display(template.labels, cut.plane, cut.index)
            image = slice_for_display(template.t1, cut.plane, cut.index)
            record = {
                "id": f"{cut.plane}-{cut.position:03d}",
                "image": _png(image),
                "labels": _png(labels),
                "plane": cut.plane,
                "slice": cut.index,
                "slab": cut.slab,
                "depth": cut.depth,
                "level": level_of(cut.depth),
                "voxel_mm": VOXEL_MM,
                "boxes": [
                    {"label": label, "box": np.divide(pixels, image.shape * 2, dtype=np.float32)}
                    for label, pixels in boxes(template, cut).items()
                ],
                "questions": [
                    {
                        "task": question.task,
                        "phrasing": question.phrasing,
                        "prefix": question.prefix,
                        "suffix": question.suffix,
                    }
                    for question in questions(template, cut)
                ],
            }
            yield number, record


def _png(image: UInt8[np.ndarray, "height width"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG")
    return buffer.getvalue()
