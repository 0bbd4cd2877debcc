"""How well an image tokenizer, or the mask codec, gives back what it was given.

In figures, `reconstruction.json`, and a picture, `reconstruction.png`.
"""

import dataclasses
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from medjax.cli import say
from medjax.evaluation.fourm.scores import MAIN_METRIC, dice, score
from medjax.evaluation.picture import FAINT, INK, PAPER
from medjax.evaluation.table import metric_name
from medjax.files import write_whole
from medjax.modalities import display
from medjax.modalities.table import IMAGE, LABELS, Modality
from medjax.models.mask_codec import NUM_CODES, MaskCodec
from medjax.models.tokenizers import ImageTokenizer
from medjax.models.tokenizers.metrics import codebook_use, perplexity

_SIDE, _GAP, _MARGIN, _LABEL, _LINE = 128, 8, 24, 74, 22


@dataclasses.dataclass(frozen=True)
class Reconstructions:
    """What came back.

    Attributes:
      content: image or labels.
      true, made: images [H, W, C] in [-1, 1], or labels [H, W].
      counts: how often each code occurs.
    """

    content: str
    true: Sequence[np.ndarray]
    made: Sequence[np.ndarray]
    counts: np.ndarray

    def scores(self, classes: Sequence[str] = ()) -> list[dict[str, float]]:
        """Of each image; see `scores.score`."""
        pairs = zip(self.made, self.true, strict=True)
        return [score(self.content, made, true, classes) for made, true in pairs]

    def figures(self, classes: Sequence[str] = ()) -> dict[str, Any]:
        """Mean scores, the share of codes that occur, their perplexity, and how many images."""
        scores = self.scores(classes)
        means = {key: float(np.mean([s[key] for s in scores])) for key in scores[0]}
        return {
            "images": len(self.true),
            **means,
            "codebook_use": float(codebook_use(jnp.asarray(self.counts))),
            "perplexity": float(perplexity(jnp.asarray(self.counts))),
            "codes": len(self.counts),
        }


@dataclasses.dataclass(frozen=True)
class Masks(Reconstructions):
    """Of masks of one class each: labels that hold that class, and 0.

    Attributes:
      names: of each mask's class.
    """

    names: Sequence[str] = ()

    def scores(self, classes: Sequence[str] = ()) -> list[dict[str, float]]:
        """Dice and intersection over union of each mask."""
        del classes
        found = [
            float(dice((made > 0).astype(int), (true > 0).astype(int), 2)[0])
            for made, true in zip(self.made, self.true, strict=True)
        ]
        return [{"dice": value, "iou": value / (2 - value)} for value in found]

    def figures(self, classes: Sequence[str] = ()) -> dict[str, Any]:
        """Also the mean Dice of each class's masks, as "dice/<its name>"."""
        scores, names = self.scores(), np.array(self.names)
        values = np.array([s["dice"] for s in scores])
        of_class = {f"dice/{n}": float(values[names == n].mean()) for n in dict.fromkeys(names)}
        return super().figures() | of_class


def measure(model: ImageTokenizer, rows: Sequence[np.ndarray], batch_size: int) -> Reconstructions:
    """Encodes and decodes images, as `ImageTokenizer.encode` takes them."""
    made, counts = _there_and_back(model, rows, batch_size, model.config.vocab_size)
    if model.config.kind == "mask":
        labels = [logits.argmax(-1).astype(np.int32) for logits in made]
        return Reconstructions(LABELS, rows, labels, counts)
    return Reconstructions(IMAGE, rows, made, counts)


def measure_masks(
    codec: MaskCodec,
    rows: Sequence[np.ndarray],
    batch_size: int,
    labels: Sequence[int],
    names: Sequence[str],
) -> Masks:
    """Encodes and decodes masks, [64, 64] in [0, 1]; what is half within or more is in the mask.

    Args:
      labels: of each mask, the number of its class. names: and what it is called.
    """
    made, counts = _there_and_back(codec, rows, batch_size, NUM_CODES)
    return Masks(
        LABELS,
        [label * (mask >= 0.5) for mask, label in zip(rows, labels, strict=True)],
        [label * (mask >= 0.0) for mask, label in zip(made, labels, strict=True)],
        counts,
        names,
    )


def _there_and_back(
    model: Any, rows: Sequence[np.ndarray], batch_size: int, num_codes: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """What is decoded of each row's ids, and how often each id occurs."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def there_and_back(state, images):
        merged = nnx.merge(graphdef, state)
        ids = merged.encode(images)
        return ids, merged.decode(ids)

    made: list[np.ndarray] = []
    counts = np.zeros(num_codes)
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, desc="reconstructions", unit="batch", disable=len(starts) < 4):
        batch = np.stack(rows[start : start + batch_size])
        # One shape: the last batch is filled up.
        full = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
        ids, decoded = (np.asarray(x)[: len(batch)] for x in there_and_back(state, full))
        counts += np.bincount(ids.ravel(), minlength=num_codes)
        made += list(decoded)
    return made, counts


def sheet(modality: Modality, found: Reconstructions, title: str, *, count: int = 8) -> Image.Image:
    """Draws evenly spaced images, what came back of them below, and its score."""
    count = min(count, len(found.true))
    places = [(2 * i + 1) * len(found.true) // (2 * count) for i in range(count)]
    metric = MAIN_METRIC[found.content]
    scores = found.scores(modality.classes)
    width = 2 * _MARGIN + _LABEL + count * (_SIDE + _GAP) - _GAP
    height = 2 * _MARGIN + 2 * _LINE + 2 * (_SIDE + _GAP) + _LINE
    picture = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    draw.text((_MARGIN, _MARGIN), title, fill=INK, font=ImageFont.load_default(17))
    top = _MARGIN + 2 * _LINE
    for row, (label, images) in enumerate((("true", found.true), ("returned", found.made))):
        y = top + row * (_SIDE + _GAP)
        draw.text((_MARGIN, y + _SIDE // 2 - 8), label, fill=FAINT, font=font)
        for column, place in enumerate(places):
            shown = Image.fromarray(display.picture(modality, images[place]))
            x = _MARGIN + _LABEL + column * (_SIDE + _GAP)
            picture.paste(shown.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (x, y))
    y = top + 2 * (_SIDE + _GAP)
    draw.text((_MARGIN, y), metric_name(metric), fill=FAINT, font=font)
    for column, place in enumerate(places):
        x = _MARGIN + _LABEL + column * (_SIDE + _GAP)
        draw.text((x, y), f"{scores[place][metric]:.3g}", fill=INK, font=font)
    return picture


def write(
    folder: pathlib.Path, modality: Modality, found: Reconstructions, *, name: str, part: str
) -> None:
    """Writes figures and picture into a stage's folder, each whole or not at all, and says them.

    Args:
      name: of the stage. part: of the data that the images are of.
    """
    figures = {"part": part, **found.figures(modality.classes)}
    write_whole(folder / "reconstruction.json", (json.dumps(figures, indent=2) + "\n").encode())
    data, path = io.BytesIO(), folder / "reconstruction.png"
    sheet(modality, found, f"{name}, {part}").save(data, "png", optimize=True)
    write_whole(path, data.getvalue())
    told = ", ".join(f"{key} {x:.4g}" for key, x in figures.items() if isinstance(x, float))
    say(f"{name}: {part}: {told}; {path}")
