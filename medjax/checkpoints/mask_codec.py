"""The official weights of PaliGemma's mask codec, `vae-oid.npz`: names and layouts of PyTorch."""

import os
import pathlib
import zipfile

import numpy as np
from flax import nnx

from medjax.checkpoints.files import new_folder
from medjax.errors import UserError
from medjax.models import params
from medjax.models.mask_codec import MaskCodec

# The file in the folder of a stage's result.
FILE = "mask_codec.npz"

# A layer's place among the modules of an nn.Sequential that has activations in between.
_LAYERS = {
    **{f"down/{i}": f"encoder.{2 * i}" for i in range(4)},
    "to_code": "encoder.10",
    "from_code": "decoder.0",
    **{f"up/{i}": f"decoder.{4 + 2 * i}" for i in range(4)},
    "to_pixels": "decoder.12",
    **{
        f"{side}_blocks/{i}/conv{1 + j}": f"{side}.{first + i}.net.{2 * j}"
        for side, first in (("encoder", 8), ("decoder", 2))
        for i in range(2)
        for j in range(3)
    },
}
NAMES = {
    "codebook": "_vq_vae._embedding",
    **{f"{ours}/kernel": f"{theirs}.weight" for ours, theirs in _LAYERS.items()},
    **{f"{ours}/bias": f"{theirs}.bias" for ours, theirs in _LAYERS.items()},
}


def open_npz(path: str | os.PathLike[str]) -> MaskCodec:
    """Reads a codec.

    Args:
      path: of the file, or of a folder that `write_folder` wrote.

    Raises:
      UserError: no such file, no npz file, or arrays that are missing, unexpected or misshapen.
    """
    path = pathlib.Path(path)
    path = path / FILE if path.is_dir() else path
    ours = {theirs: name for name, theirs in NAMES.items()}
    try:
        with np.load(path) as arrays:
            found = {ours.get(name, name): _layout(arrays[name]) for name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as the mask codec's npz file: {error}") from error
    graphdef, state = nnx.split(nnx.eval_shape(lambda: MaskCodec(rngs=nnx.Rngs(0))))
    params.assign(state, found, str(path))
    return nnx.merge(graphdef, state)


def _layout(array: np.ndarray) -> np.ndarray:
    """[out, in, y, x] of a convolution, or [in, out, y, x] of a transposed one, the other way."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def write_folder(
    codec: MaskCodec, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Writes a folder with the codec's file, whole or not at all.

    Whatever else the codec holds, such as counts of its codes, is left out.

    Raises:
      UserError: `path` may not be overwritten.
    """
    found = params.flatten(nnx.state(codec))
    arrays = {theirs: _layout_back(np.asarray(found[ours])) for ours, theirs in NAMES.items()}
    with new_folder(path, markers=(FILE,), overwrite=overwrite) as folder:
        np.savez(folder / FILE, **arrays)  # type: ignore[arg-type]


def _layout_back(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
