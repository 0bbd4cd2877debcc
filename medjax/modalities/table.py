"""What 4M knows of each modality: one table, one entry each.

Names and numbers are those of apple/ml-4m, `fourm/data/modality_info.py`. "tok_rgb@448" is
"tok_rgb" of images of 448 pixels.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from medjax import records
from medjax.errors import UserError

PATCHES = "patches"
IMAGE_TOKENS = "image_tokens"
SEQUENCE = "sequence"
SEQUENCE_TOKENS = "sequence_tokens"
SEQUENCE_EMBEDDINGS = "sequence_embeddings"
KINDS = (PATCHES, IMAGE_TOKENS, SEQUENCE, SEQUENCE_TOKENS, SEQUENCE_EMBEDDINGS)

# What a value is in the data, and so how it is transformed and shown (`transforms`, `display`).
IMAGE = "image"
LABELS = "labels"
TEXT = "text"
BOXES = "boxes"
IDS = "ids"
EMBEDDINGS = "embeddings"


@dataclasses.dataclass(frozen=True)
class Modality:
    """One modality.

    Attributes:
      name: under which its data come; also its name in checkpoints.
      kind: "patches" (of an image, projected), "image_tokens" (ids on a grid, all predicted at
        once), "sequence" (of ids, predicted from left to right), "sequence_tokens" (a sequence
        whose ids a tokenizer made of something else than text), or "sequence_embeddings" (vectors,
        projected).
      vocab_size: V, number of ids; None of patches and embeddings.
      image_size: side of the image, pixels. patch_size: side of what becomes one token, pixels.
      max_length: of a sequence, tokens.
      channels: of a patch's pixels; the width of a sequence's embeddings.
      learned_positions: whether positions are learned; else they are sines and cosines.
      content: what a value is: "image" (pixels), "labels" (a class for each pixel), "text", "boxes"
        (with labels), "ids" (what the model reads), "embeddings" (vectors), or a name in
        `transforms.TRANSFORMS`.
      classes: of labels, the names of the classes from 0 on.
      source: the name of the value that it is made of, if that is not its own: the image that a
        tokenizer makes the tokens of.
      min_tokens: floor of its budgets, tokens; their cap is its length.
      input_alphas, target_alphas: concentrations of its share of the input and of the target, one
        for each component of a mixture. keep: of a sequence; see `medjax_kernels.masking`.
    """

    name: str
    kind: str
    vocab_size: int | None = None
    image_size: int | None = None
    patch_size: int | None = None
    max_length: int | None = None
    channels: int | None = None
    learned_positions: bool = False
    content: str = IDS
    classes: tuple[str, ...] = ()
    source: str = ""
    min_tokens: int = 0
    input_alphas: tuple[float, ...] = (1.0,)
    target_alphas: tuple[float, ...] = (1.0,)
    keep: tuple[str, ...] = ()

    def __post_init__(self):
        where = f"modality {self.name!r}"
        if self.kind not in KINDS:
            raise UserError(f"{where}: kind {self.kind!r} is none of {', '.join(KINDS)}")
        needed = ["vocab_size"] if self.has_ids else ["channels"]
        needed += ["image_size", "patch_size"] if self.is_image else ["max_length"]
        for field in ("vocab_size", "channels", "image_size", "patch_size", "max_length"):
            value = getattr(self, field)
            if (field in needed) != (value is not None) or (value is not None and value < 1):
                wanted = "a number above 0" if field in needed else "nothing"
                raise UserError(f"{where}: {field} is {value!r}; {self.kind} need {wanted} there")
        if self.classes and self.content != LABELS:
            raise UserError(f"{where}: classes are of labels, and its content is {self.content!r}")
        if self.image_size is not None and self.image_size % (self.patch_size or 1):
            raise UserError(
                f"{where}: image_size {self.image_size} is no multiple of patch_size "
                f"{self.patch_size}"
            )

    @property
    def value(self) -> str:
        """The name of the value in the data that it is made of."""
        return self.source or self.name

    @property
    def is_image(self) -> bool:
        """Whether its tokens lie on a grid."""
        return self.kind in (PATCHES, IMAGE_TOKENS)

    @property
    def has_ids(self) -> bool:
        """Whether its tokens are ids of a vocabulary; such a modality can be predicted."""
        return self.kind in (IMAGE_TOKENS, SEQUENCE, SEQUENCE_TOKENS)

    @property
    def side(self) -> int:
        """Tokens on one side of an image's grid."""
        return (self.image_size or 0) // (self.patch_size or 1)

    @property
    def length(self) -> int:
        """The greatest number of tokens."""
        return self.side**2 if self.is_image else self.max_length or 0

    @property
    def features(self) -> int:
        """Width of what is projected: a patch, flattened as (y, x, channel), or an embedding."""
        return (self.channels or 0) * (self.patch_size or 1) ** 2

    @property
    def id(self) -> int:
        """The number that the original knows it by: 15 bits of its name's SHA-256."""
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 2**15


def _image(
    name: str, vocab_size: int, content: str = IDS, *, patch_size: int = 16, learned: bool = False
) -> Modality:
    return Modality(
        name, IMAGE_TOKENS, vocab_size, image_size=224, patch_size=patch_size,
        learned_positions=learned, content=content,
        source="" if content == IDS else name.removeprefix("tok_"),
    )  # fmt: skip


def _text(name: str, max_length: int, content: str = TEXT) -> Modality:
    return Modality(name, SEQUENCE, 30_000, max_length=max_length, content=content)


_ENTRIES = (
    Modality("rgb", PATCHES, image_size=224, patch_size=16, channels=3, content=IMAGE),
    _text("caption", 256),
    _text("det", 256, BOXES),
    _image("tok_rgb", 16_384, IMAGE),
    _image("tok_depth", 8192, IMAGE),
    _image("tok_normal", 8192, IMAGE),
    _image("tok_semseg", 4096, LABELS),
    _image("tok_clip", 8192),
    Modality("t5_caption", SEQUENCE_EMBEDDINGS, max_length=77, channels=4096, content=EMBEDDINGS),
    _text("metadata", 40),
    _text("human_poses", 263),
    _text("color_palette", 23),
    _text("sam_instance", 290),
    _image("tok_canny_edge", 8192, IMAGE),
    _image("tok_sam_edge", 8192, IMAGE),
    _image("tok_dinov2", 8192, patch_size=14),
    _image("tok_imagebind", 8192, patch_size=14),
    _image("tok_dinov2_global", 8192, patch_size=56, learned=True),
    _image("tok_imagebind_global", 8192, patch_size=56, learned=True),
)
MODALITIES: dict[str, Modality] = {entry.name: entry for entry in _ENTRIES}


def lookup(
    name: str,
    modalities: Mapping[str, Modality] = MODALITIES,
    image_size: int | None = None,
    *,
    where: str = "",
) -> Modality:
    """The modality of a name, which may say its images' size behind an `@`.

    Args:
      modalities: the table; whole names go before names without their `@`.
      image_size: of an image whose name does not say it; the table's own if None.
      where: the name stands, for messages.

    Raises:
      UserError: a name that the table does not have, or a size that is no number.
    """
    base, at, size = name.partition("@")
    what = f"{where}: modality {name!r}" if where else f"modality {name!r}"
    entry = modalities.get(name) or modalities.get(base)
    if entry is None:
        raise UserError(f"{what} is none of {', '.join(modalities)}")
    if at and not size.isdecimal():
        raise UserError(f"{what}: {size!r} is no size in pixels, such as {base}@224")
    if name in modalities and at:
        return entry
    if entry.is_image:
        pixels = int(size) if at else image_size or entry.image_size
        return dataclasses.replace(entry, name=name, image_size=pixels)
    if at:
        raise UserError(f"{what}: {base} is no image and has no size")
    return entry


def with_entries(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Modality]:
    """The table with entries of one's own, which may take the place of others.

    Args:
      entries: by name, the fields of `Modality`. Of a name that the table has, those that are not
        given are the table's.

    Raises:
      UserError: a field that there is not, or values that `Modality` refuses.
    """
    table = dict(MODALITIES)
    for name, entry in entries.items():
        known = dataclasses.asdict(table[name]) if name in table else {}
        data = {**known, **entry, "name": name}
        table[name] = records.from_dict(Modality, data, f"modalities.{name}")
    return table
