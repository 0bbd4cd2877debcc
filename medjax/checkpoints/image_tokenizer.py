"""Folders of image tokenizers: config.json and model.safetensors, by medjax's own names.

The config holds how images are normalised; the weights hold the codebook and its counts, so that
training can go on.
"""

import json
import os
import pathlib

import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from medjax import records
from medjax.checkpoints.files import new_folder
from medjax.checkpoints.safetensors_files import open_file, write_file
from medjax.checkpoints.tensors import check_specs, filled, lazy
from medjax.models.layers import Dtype
from medjax.models.params import flatten
from medjax.models.tokenizers import ImageTokenizer, ImageTokenizerConfig
from medjax.models.tokenizers import config as tokenizer_config

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def write_folder(
    model: ImageTokenizer, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Writes a folder, whole or not at all.

    Raises:
      UserError: `path` may not be overwritten.
    """
    text = json.dumps(tokenizer_config.to_dict(model.config), indent=2) + "\n"
    arrays = {name: lazy(array) for name, array in flatten(nnx.state(model)).items()}
    with new_folder(path, markers=(CONFIG,), overwrite=overwrite) as folder:
        (folder / CONFIG).write_text(text)
        write_file(folder / WEIGHTS, arrays)


def open_folder(
    path: str | os.PathLike[str],
    *,
    dtype: Dtype = jnp.float32,
    param_dtype: Dtype = jnp.float32,
    mesh: Mesh | None = None,
) -> ImageTokenizer:
    """Reads a folder that `write_folder` wrote.

    Args:
      dtype, param_dtype: see `ImageTokenizer`. mesh: see `tensors.build`.

    Raises:
      UserError: files are missing or damaged, or names or shapes are not those of the config.
    """
    path = pathlib.Path(path)
    config = read_config(path / CONFIG)
    kwargs = dict(dtype=dtype, param_dtype=param_dtype)
    model = nnx.eval_shape(lambda: ImageTokenizer(config, rngs=nnx.Rngs(0), **kwargs))
    shapes = {name: tuple(x.shape) for name, x in flatten(nnx.state(model)).items()}
    where = str(path / WEIGHTS)
    arrays = open_file(path / WEIGHTS)
    check_specs(where, arrays, shapes)
    return filled(model, ((name, array.read()) for name, array in arrays.items()), where, mesh)


def read_config(path: pathlib.Path) -> ImageTokenizerConfig:
    """Reads a config.json.

    Raises:
      UserError: no such file, or one that is no image tokenizer's.
    """
    return tokenizer_config.from_dict(records.read_object(path), str(path))
