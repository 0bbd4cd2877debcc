"""One map of what an encoder makes of every modality, and a number that says what the map shows.

Features are compared by their direction alone (cosine), which no layer's scale changes. A map of
two dimensions shows which points lie near each other; it cannot keep distances (t-SNE: van der
Maaten and Hinton, JMLR 9, 2008). So `agreement` measures in the space of the features itself
whether things of the same level lie together across modalities.
"""

import dataclasses
import io
import os
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from medjax.errors import UserError
from medjax.files import write_whole

METHODS = ("tsne", "pca")
MIN_POINTS = 8

# Okabe and Ito's palette, which all kinds of colour vision tell apart, with grey for its black.
MODALITY_COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C",
)  # fmt: skip
# Matplotlib's markers; their number has no factor in common with the colours', so that 35
# modalities look different.
MARKERS = ("o", "s", "^", "D", "v")
# Viridis at equal steps: as dark to light for every kind of colour vision.
_VIRIDIS = np.array(
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float64
)


@dataclasses.dataclass(frozen=True)
class Points:
    """What is mapped, one entry a point.

    Attributes:
      features: float [n, D].
      modalities: their names.
      levels: what the second panel is coloured by; numbers or texts, few different ones.
      ids: of the samples; points of the same sample have the same.
      thumbnails: what is shown of each: uint8 [H, W, 3], a data URI of an image, or a text.
    """

    features: Float[np.ndarray, "n D"]
    modalities: Sequence[str]
    levels: Sequence[Hashable]
    ids: Sequence[str]
    thumbnails: Sequence[np.ndarray | str]

    def __post_init__(self):
        if np.ndim(self.features) != 2:
            raise ValueError(f"features have the shape {np.shape(self.features)}, not [n, D]")
        others = (self.modalities, self.levels, self.ids, self.thumbnails)
        if any(len(other) != len(self.features) for other in others):
            raise ValueError(f"{len(self.features)} features, but {[len(x) for x in others]} names")

    @property
    def modality_names(self) -> list[str]:
        """The modalities that there are, in order of appearance."""
        return list(dict.fromkeys(self.modalities))

    @property
    def level_names(self) -> list[Any]:
        """The levels that there are: numbers in their order, then texts in theirs."""
        return sorted(
            dict.fromkeys(self.levels), key=lambda x: (isinstance(x, str), x)
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well neighbours across modalities share their level.

    Attributes:
      k: how many neighbours a point has.
      precision: the mean share of them that have the point's level.
      chance: what that would be if neighbours were drawn blindly.
      pairs: (precision, chance) of the points of one modality and their neighbours in another.
    """

    k: int
    precision: float
    chance: float
    pairs: dict[tuple[str, str], tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "k": self.k,
            "precision": self.precision,
            "chance": self.chance,
            "pairs": {
                f"{a} -> {b}": {"precision": precision, "chance": chance}
                for (a, b), (precision, chance) in self.pairs.items()
            },
        }


def directions(points: Points, *, centred: bool = False) -> Float[np.ndarray, "n D"]:
    """The features at unit length, float64.

    Args:
      centred: takes each modality's mean off first, which otherwise tells modalities apart before
        anything else does (arXiv:2203.02053).

    Raises:
      UserError: features that are not finite.
    """
    features = np.asarray(points.features, np.float64)
    if not np.isfinite(features).all():
        raise UserError(
            "the encoder's features are not all finite numbers; was its training stable?"
        )
    if centred:
        names = np.asarray(points.modalities)
        features = features.copy()
        for name in points.modality_names:
            features[names == name] -= features[names == name].mean(0)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0.0, lengths, 1.0)


def project(
    features: Float[np.ndarray, "n D"], method: str = "tsne", seed: int = 0
) -> Float[np.ndarray, "n 2"]:
    """Lays points out in a plane.

    Args:
      features: finite, such as `directions` gives.
      method: "tsne" (scikit-learn's, perplexity 30 or less for few points) or "pca".
      seed: equal features and seeds give equal maps.

    Returns:
      float64 [n, 2], with the origin in their middle.

    Raises:
      UserError: an unknown method, too few points, points that are all equal, or scikit-learn is
        missing.
    """
    if method not in METHODS:
        raise UserError(f"method {method!r} is none of {', '.join(METHODS)}")
    if len(features) < MIN_POINTS:
        raise UserError(f"{len(features)} points make no map; it needs {MIN_POINTS} or more")
    if np.ptp(features, axis=0).max() == 0.0:
        raise UserError("the encoder gives the same features for everything; there is no map")
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise UserError("a map needs scikit-learn: pip install 'medjax[report]'") from error
    # Of several threads each waits for the last in a busy loop, at every step: where a core is
    # shared, that takes many times as long as one thread alone.
    with threadpool_limits(1):
        plane = PCA(n_components=2, svd_solver="full").fit_transform(features)
        if method == "tsne":
            start = plane / plane[:, 0].std() * 1e-4  # as scikit-learn scales its own
            perplexity = min(30.0, (len(features) - 1) / 3.0)
            tsne = TSNE(perplexity=perplexity, init=start, random_state=seed)
            plane = tsne.fit_transform(features)
    return np.asarray(plane - plane.mean(0), np.float64)


def agreement(points: Points, k: int = 5, *, centred: bool = False) -> Agreement:
    """Measures whether a point's neighbours in each other modality have its level.

    The point's own sample is no neighbour: else a modality that is made of another would count as
    one that knows the level.

    Args:
      k: neighbours of a point in each other modality; fewer where there are no more.
      centred: as in `directions`.

    Raises:
      UserError: features that are not finite, or fewer than two modalities or samples.
    """
    names = points.modality_names
    if len(names) < 2 or len(set(points.ids)) < 2:
        raise UserError("neighbours across modalities need two modalities and two samples or more")
    features = directions(points, centred=centred)
    modalities, ids = np.asarray(points.modalities), np.asarray(points.ids)
    levels = np.array([points.level_names.index(level) for level in points.levels])
    pairs: dict[tuple[str, str], tuple[float, float]] = {}
    every = []
    for a in names:
        for b in names:
            if a == b:
                continue
            ours, theirs = np.flatnonzero(modalities == a), np.flatnonzero(modalities == b)
            same = levels[ours][:, None] == levels[theirs]
            other = ids[ours][:, None] != ids[theirs]
            shares = _shares(features[ours] @ features[theirs].T, same, other, k)
            if len(shares):
                pairs[a, b] = float(shares[:, 0].mean()), float(shares[:, 1].mean())
                every.append(shares)
    precision, chance = np.concatenate(every).mean(0)
    return Agreement(k, float(precision), float(chance), pairs)


def _shares(
    similarity: Float[np.ndarray, "a b"],
    same: Bool[np.ndarray, "a b"],
    other: Bool[np.ndarray, "a b"],
    k: int,
) -> Float[np.ndarray, "a 2"]:
    """The share of the same level among the k nearest of the others, and among all of them."""
    order = np.argsort(np.where(other, -similarity, np.inf), axis=1, kind="stable")[:, :k]
    near, allowed = (np.take_along_axis(x, order, 1) for x in (same & other, other))
    some = other.any(1)
    near, allowed, same, other = near[some], allowed[some], same[some], other[some]
    return np.stack(
        [near.sum(1) / allowed.sum(1), (same & other).sum(1) / other.sum(1)], axis=1
    )  # fmt: skip


def level_colours(count: int) -> list[str]:
    """`count` colours in their order, dark to light, as "#rrggbb"."""
    places = np.linspace(0.0, len(_VIRIDIS) - 1.0, count) if count > 1 else np.array([2.0])
    channels = [np.interp(places, np.arange(len(_VIRIDIS)), column) for column in _VIRIDIS.T]
    return ["#" + "".join(f"{round(c):02x}" for c in rgb) for rgb in zip(*channels, strict=True)]


def modality_style(index: int) -> tuple[str, str]:
    """The colour and the marker of a modality."""
    return MODALITY_COLOURS[index % len(MODALITY_COLOURS)], MARKERS[index % len(MARKERS)]


def write_png(
    path: str | os.PathLike[str],
    points: Points,
    plane: Float[np.ndarray, "n 2"],
    *,
    title: str = "",
    level: str = "level",
) -> None:
    """Draws the map twice, coloured by modality and by level, and writes it whole or not at all.

    Args:
      plane: where the points lie (`project`).
      title: above both.
      level: what a level is called.

    Raises:
      UserError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("a picture needs matplotlib: pip install 'medjax[report]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 6), layout="constrained")
    modalities, levels = np.asarray(points.modalities), points.level_names
    colours = dict(zip(levels, level_colours(len(levels)), strict=True))
    of_level = np.array([colours[x] for x in points.levels])
    size = float(np.clip(9000.0 / len(plane), 8.0, 42.0))
    for index, name in enumerate(points.modality_names):
        colour, marker = modality_style(index)
        chosen = modalities == name
        style = {"s": size, "marker": marker, "linewidths": 0.3, "edgecolors": "white"}
        axes[0].scatter(*plane[chosen].T, c=colour, label=name, **style)
        axes[1].scatter(*plane[chosen].T, c=of_level[chosen], **style)
    for x in levels:
        axes[1].scatter([], [], s=42.0, c=colours[x], label=str(x))
    for axis, heading in zip(axes, ("modality", level), strict=True):
        axis.set_title(f"by {heading}", fontsize=11, loc="left")
        axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        axis.spines[:].set_color("#d4d7da")
        axis.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=6, frameon=False, fontsize=9,
            handletextpad=0.2, columnspacing=1.2,
        )  # fmt: skip
    if title:
        figure.suptitle(title, fontsize=13)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110, format="png", metadata={"Software": "medjax"})
    plt.close(figure)
    write_whole(path, picture.getvalue())
