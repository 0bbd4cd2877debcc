"""big_vision's npz checkpoints of PaliGemma, read and written.

Names and layouts as in google-research/big_vision `models/vit.py` and `models/ppp/gemma.py`: layers
are stacked on axis 0; query heads come before the model's width; keys and values share one array
(queries too, where every query head has its own), as do the gate and the up projection.
"""

import dataclasses
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable

import ml_dtypes
import numpy as np

from medjax.checkpoints.files import new_file
from medjax.checkpoints.tensors import Checkpoint, LazyArray
from medjax.errors import UserError
from medjax.models.config import PaliGemmaConfig
from medjax.models.variants import PADDED_VOCAB_SIZE, VOCAB_SIZE

PREFIX = "params/"
_EMBEDDING = "llm/embedder/input_embedding"


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One array of big_vision and the parameters of medjax that it holds.

    Attributes:
      shape: big_vision's.
      names: medjax's; several lie along axis 1.
      shapes: medjax's, one each.
      order: transposes one parameter's part of the array before it is reshaped to medjax's shape.
    """

    shape: tuple[int, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    order: tuple[int, ...] | None = None

    def split(self, array: np.ndarray, index: int) -> np.ndarray:
        part = array if len(self.names) == 1 else array[:, index]
        return (part if self.order is None else part.transpose(self.order)).reshape(
            self.shapes[index]
        )

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        shape = self.shape if len(parts) == 1 else self.shape[:1] + self.shape[2:]
        if self.order is not None:
            inverse = tuple(int(i) for i in np.argsort(self.order))
            parts = [p.reshape([shape[i] for i in self.order]).transpose(inverse) for p in parts]
        parts = [part.reshape(shape) for part in parts]
        return parts[0] if len(parts) == 1 else np.stack(parts, axis=1)


def _entries(config: PaliGemmaConfig) -> dict[str, _Entry]:
    """Every array of a big_vision checkpoint, without the prefix `params/`."""
    return _image_entries(config) | _text_entries(config)


def _image_entries(config: PaliGemmaConfig) -> dict[str, _Entry]:
    img, out = config.img, {}
    width, depth, mlp, heads, patch = (
        img.width, img.depth, img.mlp_dim, img.num_heads, img.patch_size,
    )  # fmt: skip

    def add(theirs: str, shape: tuple, ours: str, our_shape: tuple | None = None):
        out[f"img/{theirs}"] = _Entry(shape, (ours,), (our_shape or shape,))

    block, layers = "Transformer/encoderblock", "vision_tower/layers"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    head = width // heads
    for theirs, ours in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        ours = f"{layers}/self_attn/{ours}"
        kernel, square = (depth, width, heads, head), (depth, width, width)
        add(f"{attention}/{theirs}/kernel", kernel, f"{ours}/kernel", square)
        add(f"{attention}/{theirs}/bias", (depth, heads, head), f"{ours}/bias", (depth, width))
    ours = f"{layers}/self_attn/out_proj"
    add(f"{attention}/out/kernel", (depth, heads, head, width), f"{ours}/kernel", square)
    add(f"{attention}/out/bias", (depth, width), f"{ours}/bias")
    for i, (inputs, outputs) in enumerate(((width, mlp), (mlp, width))):
        dense, fc = f"{block}/MlpBlock_0/Dense_{i}", f"{layers}/mlp/fc{i + 1}"
        add(f"{dense}/kernel", (depth, inputs, outputs), f"{fc}/kernel")
        add(f"{dense}/bias", (depth, outputs), f"{fc}/bias")
    for leaf in ("scale", "bias"):
        for i in (0, 1):
            ours = f"{layers}/layer_norm{i + 1}/{leaf}"
            add(f"{block}/LayerNorm_{i}/{leaf}", (depth, width), ours)
        add(f"Transformer/encoder_norm/{leaf}", (width,), f"vision_tower/post_layernorm/{leaf}")
    ours = "vision_tower/patch_embedding"
    flat = (3 * patch * patch, width)
    add("embedding/kernel", (patch, patch, 3, width), f"{ours}/kernel", flat)
    add("embedding/bias", (width,), f"{ours}/bias")
    patches = config.num_patches
    ours = "vision_tower/position_embedding"
    add("pos_embedding", (1, patches, width), ours, (patches, width))
    add("head/kernel", (width, config.llm.width), "multi_modal_projector/kernel")
    add("head/bias", (config.llm.width,), "multi_modal_projector/bias")
    return out


def _text_entries(config: PaliGemmaConfig) -> dict[str, _Entry]:
    llm, out = config.llm, {}
    width, depth, mlp = llm.width, llm.depth, llm.mlp_dim
    heads, kv_heads, head = llm.num_heads, llm.num_kv_heads, llm.head_dim
    layers = "language_model/layers"

    def add(theirs: str, shape: tuple, *ours: str, shapes: tuple = (), order=None):
        out[f"llm/{theirs}"] = _Entry(shape, ours, shapes or (shape,), order)

    def projection(theirs: str, names: tuple[str, ...], number: int):
        """[L, (several,) heads, D, H], which medjax has as [L, D, heads * H]."""
        several = (len(names),) if len(names) > 1 else ()
        add(
            f"layers/attn/{theirs}/w",
            (depth, *several, number, width, head),
            *(f"{layers}/self_attn/{name}/kernel" for name in names),
            shapes=((depth, width, number * head),) * len(names),
            order=(0, 2, 1, 3),
        )

    add("embedder/input_embedding", (llm.vocab_size, width), "language_model/embed_tokens")
    add("final_norm/scale", (width,), "language_model/final_norm/scale")
    if kv_heads == heads:
        projection("qkv_einsum", ("q_proj", "k_proj", "v_proj"), heads)
    else:
        projection("q_einsum", ("q_proj",), heads)
        projection("kv_einsum", ("k_proj", "v_proj"), kv_heads)
    add(
        "layers/attn/attn_vec_einsum/w", (depth, heads, head, width),
        f"{layers}/self_attn/o_proj/kernel", shapes=((depth, heads * head, width),),
    )  # fmt: skip
    add(
        "layers/mlp/gating_einsum", (depth, 2, width, mlp),
        f"{layers}/mlp/gate_proj/kernel", f"{layers}/mlp/up_proj/kernel",
        shapes=((depth, width, mlp),) * 2,
    )  # fmt: skip
    add("layers/mlp/linear", (depth, mlp, width), f"{layers}/mlp/down_proj/kernel")
    norms = ["pre_attention_norm", "pre_ffw_norm"]
    norms += ["post_attention_norm", "post_ffw_norm"] if llm.post_norms else []
    for norm in norms:
        add(f"layers/{norm}/scale", (depth, width), f"{layers}/{norm}/scale")
    return out


def open_npz(path: str | os.PathLike[str], config: PaliGemmaConfig) -> Checkpoint:
    """A checkpoint of big_vision, with or without the prefix `params/`.

    Args:
      path: an npz file of float32, bfloat16 or float16 arrays; others (an optimizer's state, which
        big_vision keeps under `opt/`) are refused.
      config: of the model; where its vocabulary and the checkpoint's differ by Gemma's padding
        alone (257,152 or 257,216 rows), the checkpoint's counts.

    Raises:
      UserError: the file is damaged, or its names or shapes are not those of `config`.
    """
    where = str(path)
    found = _members(path)
    llm, rows = config.llm, _rows(found, where)
    if rows != llm.vocab_size and {rows, llm.vocab_size} == {VOCAB_SIZE, PADDED_VOCAB_SIZE}:
        config = dataclasses.replace(config, llm=dataclasses.replace(llm, vocab_size=rows))
    entries = _entries(config)
    missing, unexpected = sorted(set(entries) - set(found)), sorted(set(found) - set(entries))
    if missing or unexpected:
        raise UserError(
            f"{where}: its arrays are not those of the model config: {len(missing)} missing "
            f"{missing[:4]}, {len(unexpected)} unexpected {unexpected[:4]}"
        )
    arrays = {}
    for theirs, entry in entries.items():
        array = found[theirs]
        if array.shape != entry.shape:
            raise UserError(
                f"{where}: {theirs} has shape {array.shape}, the model config asks for "
                f"{entry.shape}{_hint(theirs, array.shape, config)}"
            )
        for index, name in enumerate(entry.names):
            read = _part(array, entry, index)
            arrays[name] = LazyArray(entry.shapes[index], array.dtype, read)
    return Checkpoint(where, config, arrays)


def _part(array: LazyArray, entry: _Entry, index: int) -> Callable[[], np.ndarray]:
    return lambda: entry.split(array.read(), index)


def _hint(name: str, shape: tuple[int, ...], config: PaliGemmaConfig) -> str:
    if name == "img/pos_embedding" and len(shape) == 3:
        side = round(shape[1] ** 0.5) * config.img.patch_size
        return f"; it was made for images of {side} pixels, not of {config.image_size}"
    if name == _EMBEDDING:
        return "; correct llm.vocab_size"
    return ""


def vocab_rows(path: str | os.PathLike[str]) -> int:
    """Rows of the checkpoint's embedding, read from its headers.

    Raises:
      UserError: the file is damaged or holds no embedding.
    """
    return _rows(_members(path), str(path))


def _rows(found: dict[str, LazyArray], where: str) -> int:
    if _EMBEDDING not in found:
        raise UserError(f"{where}: {PREFIX}{_EMBEDDING} is missing; it is no PaliGemma checkpoint")
    return found[_EMBEDDING].shape[0]


def _members(path: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """The arrays of an npz file, `params/` cut off; uncompressed ones are read as views."""
    path = pathlib.Path(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy").removeprefix(PREFIX)
                if name in arrays:
                    raise UserError(f"{path}: {name} comes twice")
                arrays[name] = _member(archive, info, path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UserError(f"{path} is no npz file, or is damaged: {error}") from error
    return arrays


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: pathlib.Path) -> LazyArray:
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{info.filename} is npy version {version}")
        read_header = np.lib.format.read_array_header_1_0
        if version == (2, 0):
            read_header = np.lib.format.read_array_header_2_0
        shape, fortran, stored = read_header(member)
        header = member.tell()
    dtype = stored
    if stored.kind == "V" and stored.itemsize == 2:
        # NumPy saves bfloat16 as nameless two-byte records (google-research/big_vision#107).
        dtype = np.dtype(ml_dtypes.bfloat16)
    elif stored.kind != "f":
        raise UserError(f"{path}: {info.filename} is {stored}, not a floating-point array")

    def read() -> np.ndarray:
        try:
            if info.compress_type == zipfile.ZIP_STORED and 0 not in shape:
                values = _stored(path, info)[header:].view(dtype)
                return values.reshape(shape, order="F" if fortran else "C")
            with zipfile.ZipFile(path) as again, again.open(info) as member:
                return np.lib.format.read_array(member, allow_pickle=False).view(dtype)
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
            raise UserError(
                f"{path}: {info.filename} is damaged ({error}); copy the file again"
            ) from error

    return LazyArray(tuple(shape), dtype, read)


def _stored(path: pathlib.Path, info: zipfile.ZipInfo) -> np.ndarray:
    """A view of a member that is not compressed, behind its local header, name and extra field."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = np.frombuffer(file.read(4), "<u2")
    offset = info.header_offset + 30 + int(name) + int(extra)
    raw = np.asarray(np.memmap(path, np.uint8, mode="r", offset=offset, shape=(info.file_size,)))
    if zlib.crc32(raw.data) != info.CRC:
        raise zipfile.BadZipFile("its checksum is wrong")
    return raw


def unpadded(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without Gemma's vocabulary padding, which big_vision's models do not have."""
    if checkpoint.config.llm.vocab_size == PADDED_VOCAB_SIZE:
        return checkpoint.with_vocabulary(VOCAB_SIZE)
    return checkpoint


def write_npz(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    prefix: str = PREFIX,
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint that big_vision loads; one array in memory at a time.

    Gemma's vocabulary loses its padding (`unpadded`). bfloat16 is stored as NumPy does, as two-byte
    records.

    Raises:
      UserError: `path` exists and may not be overwritten.
    """
    path = pathlib.Path(path)
    checkpoint = unpadded(checkpoint)
    if path.suffix != ".npz":
        raise UserError(f"output {path}: a big_vision checkpoint's name ends in .npz")
    with new_file(path, overwrite=overwrite) as temporary, zipfile.ZipFile(temporary, "w") as out:
        for theirs, entry in _entries(checkpoint.config).items():
            array = entry.join([checkpoint.arrays[name].read() for name in entry.names])
            if array.dtype == ml_dtypes.bfloat16:
                array = array.view("V2")
            with out.open(f"{prefix}{theirs}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
