#!/usr/bin/env python
"""Draws who may attend to whom under each kind of mask, and which tiles are computed for it.

Each square is a query (row) and a key (column); dark means allowed. Outlined tiles are computed,
those outside of the outlines never. Needs the extra `report`.
"""

import argparse
import io
import json
import pathlib

import jax.numpy as jnp
import numpy as np
from medjax_kernels.attention import Tokens, allowed, up_to
from medjax_kernels.attention.tiles import ranges
from medjax_kernels.attention.tokens import with_positions

from medjax import cli
from medjax.errors import UserError
from medjax.files import write_whole

LENGTH = 16
TILE = 4


def _runs(*lengths: int) -> jnp.ndarray:
    """[1, T]: 0 for the first length, 1 for the next, ..."""
    return jnp.asarray(np.repeat(np.arange(len(lengths)), lengths)[None], jnp.int32)


_CAUSAL = jnp.arange(LENGTH, dtype=jnp.int32)[None]
_PREFIX = jnp.maximum(_CAUSAL - 6, 0)  # seven tokens of image and question, then the answer

# What is drawn: queries, keys, window.
MASKS: dict[str, tuple[Tokens, Tokens, int | None]] = {
    "full\nTokens()": (Tokens(), Tokens(), None),
    "causal\nblock = 0, 1, 2, ...": (Tokens(block=_CAUSAL), Tokens(block=_CAUSAL), None),
    "prefix-LM (PaliGemma)\nblock = 0, 0, 0, ..., 1, 2, ...": (
        Tokens(block=_PREFIX), Tokens(block=_PREFIX), None,
    ),
    "sliding window (Gemma 2)\nblock = 0, 1, 2, ...; window = 5": (
        Tokens(block=_CAUSAL), Tokens(block=_CAUSAL), 5,
    ),
    "packed samples\nsegment = 0, 0, ..., 1, 1, ...; causal block": (
        Tokens(block=_CAUSAL, segment=_runs(7, 5, 4)),
        Tokens(block=_CAUSAL, segment=_runs(7, 5, 4)),
        None,
    ),
    "separated decoder (4M)\nmodality; block = 0 in images, 1, 2, ... in text": (
        Tokens(modality=_runs(6, 4, 6), block=jnp.maximum(_CAUSAL - 9, 0)),
        Tokens(modality=_runs(6, 4, 6), block=jnp.maximum(_CAUSAL - 9, 0)),
        None,
    ),
    "cross attention to a padded input\nkeys.valid": (
        Tokens(), Tokens(valid=up_to(jnp.array([11]), LENGTH)), None,
    ),
    "decoding, one query a row of the batch\nkeys.valid = up_to([9, 3, 14, 0], 16)": (
        Tokens(), Tokens(valid=up_to(jnp.array([9, 3, 14, 0]), LENGTH)), None,
    ),
}  # fmt: skip


def squares(queries: Tokens, keys: Tokens, window: int | None, rows: int) -> np.ndarray:
    """bool [rows, LENGTH]; where each row of the batch has one query, these are the rows."""
    may = allowed(queries, keys, window)
    if may is None:
        return np.ones((rows, LENGTH), bool)
    return np.broadcast_to(may, (len(may), rows if len(may) == 1 else 1, LENGTH)).reshape(
        -1, LENGTH
    )


def draw(path: pathlib.Path) -> dict[str, dict[str, int]]:
    """Writes the picture; returns how many pairs are allowed and how many are computed."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("a picture needs matplotlib: pip install 'medjax[report]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    figure, axes = plt.subplots(2, 4, figsize=(15, 8), layout="constrained")
    counts = {}
    for axis, (title, (queries, keys, window)) in zip(axes.flat, MASKS.items(), strict=True):
        queries, keys = with_positions(queries, LENGTH), with_positions(keys, LENGTH)
        rows = LENGTH if keys.valid is None or len(keys.valid) == 1 else 1
        may = squares(queries, keys, window, rows)
        axis.imshow(may, cmap="Blues", vmin=-0.25, vmax=1.4, aspect="equal")
        first, last = ranges(queries, keys, window, (rows, LENGTH), (min(TILE, rows), TILE))[0]
        height = len(may) // first.size
        computed = 0
        for index, (begin, end) in enumerate(zip(np.ravel(first), np.ravel(last), strict=True)):
            for tile in range(begin, end):
                corner = (tile * TILE - 0.5, index * height - 0.5)
                axis.add_patch(
                    Rectangle(corner, TILE, height, fill=False, edgecolor="tab:red", linewidth=1.2)
                )
                computed += TILE * height
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(0, LENGTH, TILE))
        axis.set_yticks(range(0, len(may), min(TILE, height)))
        axis.set_xlabel("key")
        axis.set_ylabel("query" if rows > 1 else "row of the batch")
        counts[title.split("\n")[0]] = {"allowed": int(may.sum()), "computed": computed}
    picture = io.BytesIO()
    figure.savefig(picture, dpi=80, format="png")
    plt.close(figure)
    try:
        write_whole(path, picture.getvalue())
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror}") from error
    return counts


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default="kernels/docs/masks.png")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    args = parser.parse_args()
    counts = draw(args.out)
    if args.json:
        print(json.dumps({"picture": str(args.out), "pairs": counts}))
        return
    for name, pairs in counts.items():
        print(f"{name:36} {pairs['allowed']:4} pairs allowed, {pairs['computed']:4} computed")
    print(args.out)


if __name__ == "__main__":
    cli.run(main)
