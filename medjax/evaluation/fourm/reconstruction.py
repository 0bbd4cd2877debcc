"""How well an image tokenizer gives back what it was given, in figures and a picture."""

import dataclasses
import io
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from medjax.evaluation.fourm.scores import MAIN_METRIC, score
from medjax.evaluation.picture import FAINT, INK, PAPER
from medjax.evaluation.table import metric_name
from medjax.files import write_whole
from medjax.modalities import display
from medjax.modalities.table import IMAGE, LABELS, Modality
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


def measure(model: ImageTokenizer, rows: Sequence[np.ndarray], batch_size: int) -> Reconstructions:
    """Encodes and decodes images, as `ImageTokenizer.encode` takes them."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def there_and_back(state, images):
        tokenizer = nnx.merge(graphdef, state)
        ids = tokenizer.encode(images)
        return ids, tokenizer.decode(ids)

    masks, made, counts = model.config.kind == "mask", [], np.zeros(model.config.vocab_size)
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, desc="reconstructions", unit="batch", disable=len(starts) < 4):
        batch = np.stack(rows[start : start + batch_size])
        # One shape: the last batch is filled up.
        full = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
        ids, decoded = (np.asarray(x)[: len(batch)] for x in there_and_back(state, full))
        counts += np.bincount(ids.ravel(), minlength=len(counts))
        made += list(decoded.argmax(-1).astype(np.int32) if masks else decoded)
    return Reconstructions(LABELS if masks else IMAGE, rows, made, counts)


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


def write_picture(
    path: str | os.PathLike[str], modality: Modality, found: Reconstructions, title: str
) -> None:
    """Writes a `sheet` as a PNG file, whole or not at all."""
    data = io.BytesIO()
    sheet(modality, found, title).save(data, "png", optimize=True)
    write_whole(path, data.getvalue())
