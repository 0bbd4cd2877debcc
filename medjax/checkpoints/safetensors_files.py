"""Safetensors files, read as views and written in any order, never whole in memory.

The format: eight bytes (little-endian) give the length of a JSON header, which gives every tensor's
dtype, shape and place in the bytes that follow (huggingface/safetensors, README). Read here because
the library's NumPy interface knows no bfloat16 before 0.8; written here because it wants a whole
file's tensors at once.
"""

import json
import math
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import BinaryIO

import ml_dtypes
import numpy as np

from medjax.checkpoints.tensors import LazyArray
from medjax.errors import UserError

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_HEADER_LIMIT = 100_000_000  # bytes; the library's own limit


def open_file(path: str | os.PathLike[str]) -> dict[str, LazyArray]:
    """The tensors of a file; reading one gives a view of the file.

    Raises:
      UserError: no such file, one that is damaged or cut short, or a tensor that is no float.
    """
    path = pathlib.Path(path)
    start, header, size = _open(path)
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        try:
            dtype_name, shape = entry["dtype"], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: the header's entry {name} is damaged") from error
        if dtype_name not in _DTYPES:
            raise UserError(f"{path}: {name} is {dtype_name}, medjax reads {', '.join(_DTYPES)}")
        dtype = _DTYPES[dtype_name]
        if end - begin != math.prod(shape) * dtype.itemsize or start + end > size:
            raise UserError(f"{path}: {name} is cut short or damaged; copy the file again")
        arrays[name] = LazyArray(shape, dtype, _view(path, start + begin, dtype, shape))
    return arrays


def metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a file says about itself, by names of its writer's choice.

    Raises:
      UserError: no such file, or one that is damaged.
    """
    path = pathlib.Path(path)
    found = _open(path)[1].get("__metadata__", {})
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise UserError(f"{path}: the header's metadata are damaged")
    return found


def _open(path: pathlib.Path) -> tuple[int, dict, int]:
    """(where the tensors' bytes start, the parsed header, the file's size)."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return *_header(file, path, size), size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _header(file: BinaryIO, path: pathlib.Path, size: int) -> tuple[int, dict]:
    """(where the tensors' bytes start, the parsed header)."""
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
    if length > min(_HEADER_LIMIT, size - 8):
        raise UserError(f"{path} is no safetensors file, or is cut short")
    try:
        header = json.loads(file.read(length))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is no safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise UserError(f"{path} is no safetensors file: its header is no JSON object")
    return 8 + length, header


def _view(path: pathlib.Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]):
    def read() -> np.ndarray:
        if 0 in shape:
            return np.empty(shape, dtype)
        # A map of bytes: NumPy's memmap takes no extension dtype such as bfloat16.
        count = math.prod(shape) * dtype.itemsize
        raw = np.memmap(path, np.uint8, mode="r", offset=offset, shape=(count,))
        return np.asarray(raw).view(dtype).reshape(shape)

    return read


class Writer:
    """Writes one file, tensor by tensor, in any order.

    Args:
      path: to write; the caller makes it appear atomically.
      tensors: (shape, dtype) of all that will come.
    """

    def __init__(self, path: pathlib.Path, tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]]):
        header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, (shape, dtype) in tensors.items():
            end = offset + math.prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": _NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._tensors = dict(tensors)
        self._left = set(tensors)
        self._offsets = {n: 8 + len(text) + header[n]["data_offsets"][0] for n in tensors}
        self._file = path.open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)
        self._file.truncate(8 + len(text) + offset)

    def write(self, name: str, array: np.ndarray) -> None:
        """Writes one tensor.

        Raises:
          ValueError: it was not announced so, or comes twice.
        """
        if name not in self._left or (array.shape, array.dtype) != self._tensors[name]:
            raise ValueError(f"{name} {array.shape} {array.dtype} was not announced so")
        self._left.remove(name)
        self._file.seek(self._offsets[name])
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, *unused) -> None:
        self._file.close()
        if kind is None and self._left:
            raise ValueError(f"{len(self._left)} tensors never came, {sorted(self._left)[:3]}")


def write_file(path: pathlib.Path, arrays: Mapping[str, LazyArray]) -> None:
    """Writes arrays under their names, reading one at a time."""
    tensors = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    with Writer(path, tensors) as writer:
        for name, array in arrays.items():
            writer.write(name, array.read())
