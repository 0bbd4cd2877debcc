"""Dice of the masks that PaliGemma's answers spell with `<seg>` tokens.

An object is a box and 16 codes, which a mask codec makes a square mask of; that is put into its
box. Dice does not depend on how an image is stretched, so all is drawn on one square canvas.

The truth is the true answer's own codes, decoded alike: this measures agreement with what the codec
made of the true mask, not with the mask itself.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm

from medjax.data.loc_tokens import decode_masks
from medjax.evaluation.metrics import detection, masks
from medjax.evaluation.metrics.kinds import normalise
from medjax.evaluation.predictions import Prediction
from medjax.models.mask_codec import SIDE, MaskCodec

CANVAS = 512  # pixels
_BATCH = 32  # objects
_PROGRESS_FROM = 500  # answers
# A box, y1, x1, y2, x2 as fractions of the image, and its codes.
_Object = tuple[tuple[float, float, float, float], tuple[int, ...]]


def compared(predictions: Sequence[Prediction], codec: MaskCodec) -> list[Prediction]:
    """Predictions with the Dice of their masks in `extra`, which makes them of kind "segmentation".

    Masks are matched within each label (case and spaces aside), the best pair first, as boxes are
    in `detection.mean_iou`; a mask that is missing or too many counts 0. The Dice of a label is the
    mean over its masks, that of an answer the mean over its labels.

    Args:
      predictions: those whose true answer has no mask stay as they are.
      codec: that the answers' codes are of.
    """
    graphdef, state = nnx.split(codec)

    @jax.jit
    def draw(boxes, codes):
        return drawn(nnx.merge(graphdef, state).decode(codes), boxes)

    found = []
    bar = tqdm(predictions, desc="masks", unit="answer", disable=len(predictions) < _PROGRESS_FROM)
    for start in range(0, len(predictions), _BATCH):
        some = predictions[start : start + _BATCH]
        pairs = [(_by_label(p.generated), _by_label(p.truth)) for p in some]
        pairs = [(made, true) if true else ({}, {}) for made, true in pairs]
        wanted = dict.fromkeys(
            thing for pair in pairs for side in pair for of in side.values() for thing in of
        )
        canvas = _canvases(list(wanted), draw)
        for prediction, (made, true) in zip(some, pairs, strict=True):
            if true:
                extra = {**prediction.extra, **_dice(made, true, canvas)}
                # A task that the data does not name is called as the kind is.
                named = "task" in prediction.extra or prediction.task != prediction.kind
                task = prediction.task if named else "segmentation"
                prediction = dataclasses.replace(prediction, extra=extra, task=task)
            found.append(prediction)
        bar.update(len(some))
    bar.close()
    return found


def drawn(
    decoded: Float[Array, "B 64 64"], boxes: Float[Array, "B 4"]
) -> Bool[Array, "B canvas canvas"]:
    """Masks in their boxes.

    Args:
      decoded: as `MaskCodec.decode` gives them: above 0 inside.
      boxes: y1, x1, y2, x2 as fractions of the image, in [0, 1].

    Returns:
      For each point of a square canvas, whether it is inside: in the box, and where the decoded
      mask, read between its points linearly, is above 0. A box without area is empty.
    """
    y, x = (_places(boxes[:, i], boxes[:, i + 2]) for i in (0, 1))
    # Outside of a box all weights are 0, and so is the value.
    return jnp.einsum("byi,bij,bxj->byx", y, decoded, x, precision="highest") > 0


def _places(low: Float[Array, "B"], high: Float[Array, "B"]) -> Float[Array, "B canvas side"]:
    """The weights of a mask's rows (or columns) at each of the canvas's."""
    canvas = (jnp.arange(CANVAS) + 0.5) / CANVAS
    size = jnp.maximum(high - low, 1e-6)[:, None]
    place = (canvas - low[:, None]) / size * SIDE - 0.5
    inside = (canvas >= low[:, None]) & (canvas < high[:, None])
    near = jnp.clip(place, 0, SIDE - 1)[..., None] - jnp.arange(SIDE)
    return jnp.where(inside[..., None], jnp.maximum(1 - jnp.abs(near), 0), 0)


def _canvases(wanted: Sequence[_Object], draw) -> dict[_Object, Bool[np.ndarray, "pixels"]]:
    found: dict[_Object, Bool[np.ndarray, pixels]] = {}
    for start in range(0, len(wanted), _BATCH):
        some = wanted[start : start + _BATCH]
        padded = [*some, *[some[-1]] * (_BATCH - len(some))]  # one shape, compiled once
        boxes = np.array([box for box, _ in padded], np.float32)
        codes: Int[np.ndarray, "B 16"] = np.array([codes for _, codes in padded], np.int32)
        inside = np.asarray(draw(boxes, codes))[: len(some)]
        found |= dict(zip(some, inside.reshape(len(some), -1), strict=True))
    return found


def _dice(
    made: Mapping[str, Sequence[_Object]],
    true: Mapping[str, Sequence[_Object]],
    canvas: Mapping[_Object, Bool[np.ndarray, "pixels"]],
) -> dict[str, float]:
    """What `extra` says of an answer's masks."""
    of_labels = {}
    for label in sorted(made.keys() | true.keys()):
        ours, theirs = made.get(label, ()), true.get(label, ())
        of_pairs = np.array([[_of_pair(canvas[a], canvas[b]) for b in theirs] for a in ours])
        total = detection.greedy_sum(of_pairs) if ours and theirs else 0.0
        of_labels[label] = total / max(len(ours), len(theirs))
    return masks.facts(of_labels, sorted(true))


def _of_pair(one: Bool[np.ndarray, "pixels"], other: Bool[np.ndarray, "pixels"]) -> float:
    return float(masks.dice(one, other))


def _by_label(text: str) -> dict[str, list[_Object]]:
    found = collections.defaultdict(list)
    for box, codes, label in decode_masks(text):
        found[normalise(label) or "mask"].append((box, codes))
    return dict(found)
