"""The weights of a stage: where it begins, its model on the mesh, and the folder of its result."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medjax.checkpoints import adapters, convert, formats, model_folder, tensors
from medjax.checkpoints.adapters import Base
from medjax.checkpoints.hashes import remembered_hash
from medjax.checkpoints.tensors import Checkpoint
from medjax.cli import say
from medjax.errors import UserError
from medjax.models import build, params
from medjax.models.families import ModelConfig
from medjax.pipelines.fit import lora_config
from medjax.scaling import precision


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights that a stage begins with.

    Attributes:
      checkpoint: the weights, adapters merged.
      origin: the file or folder that they come from; `hashed` adds its hash.
      outside: whether these very weights lie there, outside of the run, so that an adapter can be
        saved without them.
    """

    checkpoint: Checkpoint
    origin: Base
    outside: bool = False

    @property
    def base(self) -> Base | None:
        """What an adapter's folder names instead of holding the weights."""
        return self.origin if self.outside else None


def open_start(init: str, config: ModelConfig | None) -> Start:
    """The weights that a config's `init` names.

    Args:
      config: what the model is, for files that do not say it.

    Raises:
      UserError: there is nothing of the kind.
    """
    path = pathlib.Path(init).expanduser()
    if not path.exists():
        raise UserError(f"init {path} does not exist; give an npz file or a model's folder")
    if path.is_dir() and model_folder.has_adapter(path):
        return open_result(path)  # merged: no file holds the weights that it begins with
    checkpoint = formats.open_any_model(path, config)
    return Start(checkpoint, Base(str(path.absolute())), outside=True)


def open_result(folder: pathlib.Path) -> Start:
    """The result of an earlier stage, its adapter merged."""
    source = convert.open_source(convert.Request("medjax", "medjax", folder, folder))
    checkpoint = source.checkpoint
    if source.adapter is not None:
        checkpoint = adapters.merged(checkpoint, source.adapter)
    return Start(checkpoint, Base(str(folder.absolute())))


def hashed(start: Start) -> Start:
    """The start with its origin's content hash, which takes time for large files that are new."""
    say(f"weights: {start.origin.path}")
    origin = dataclasses.replace(start.origin, sha256=remembered_hash(start.origin.path))
    return dataclasses.replace(start, origin=origin)


def make_model(
    config: ConfigDict,
    model: ModelConfig,
    start: Start | None,
    mesh: Mesh,
    ordered_ids: range | None = None,
) -> tuple[Any, np.dtype]:
    """The stage's model with its adapters, on the mesh, and the dtype of its matmuls."""
    dtype = precision.resolve(config.dtype)
    adapted = lora_config(config)
    stored = config.param_dtype
    if adapted is None:
        stored = "float32"  # what trains is float32, whatever it is computed in
    stored_dtype = dtype if stored == "auto" else precision.resolve(stored)
    result = build.build(
        model,
        mesh=mesh,
        weights=None if start is None else iter(start.checkpoint),
        source="" if start is None else start.checkpoint.where,
        lora_config=adapted,
        dtype=dtype,
        param_dtype=stored_dtype,
        remat=config.remat,
        ordered_ids=ordered_ids,
        seed=config.seed,
    )
    return result, dtype


def save(
    folder: pathlib.Path,
    config: ConfigDict,
    model: nnx.Module,
    start: Start | None,
    tokenizer_path: pathlib.Path | None,
) -> None:
    """Writes a stage's result; an adapter on weights of the user's own is saved without them."""
    named = params.flatten(model)
    adapted = lora_config(config)
    base = start.base if start is not None and adapted is not None else None
    if base is not None:  # the base is the user's own and large: it is named, not copied
        named = adapters.split(named)[1]
    if jax.process_index() == 0:
        model_folder.save_model(
            folder,
            model.config,  # type: ignore[attr-defined]
            named,
            tokenizer_path=tokenizer_path,
            lora_config=adapted,
            base=base,
        )


def load_result(folder: pathlib.Path, dtype: jnp.dtype, mesh: Mesh | None = None) -> Any:
    """The model of a stage's folder, adapters beside the base, computing in `dtype`.

    Weights that did not train are held in it, too, as in training. It lies on `mesh`, or on the
    first device.

    Raises:
      UserError: the folder is none, or an adapter's base is not the one that it was trained on.
    """
    request = convert.Request("medjax", "medjax", folder, folder)
    source = convert.open_source(request)
    if source.adapter is None:
        return tensors.build(source.checkpoint, mesh=mesh, dtype=dtype)
    return adapters.build_adapted(
        source.checkpoint, source.adapter, mesh=mesh, dtype=dtype, param_dtype=dtype
    )
