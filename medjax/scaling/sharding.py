"""The one place that says which axis of which array lies on which axis of the device mesh.

The mesh has three axes: `data` (copies of the model), `fsdp` (parameters cut along the model
width, gathered when used; arXiv:2304.11277) and `tensor` (heads, MLP and vocabulary cut;
arXiv:1909.08053).
Parameters name their axes where they are made (`nnx.Param(..., axes=...)`); XLA inserts the
communication.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medjax.errors import UserError

AXES = ("data", "fsdp", "tensor")
RULES: dict[str | None, str | None] = {
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "norm": None,
    "rank": None,
    "layers": None,
    None: None,
}


def make_mesh(sizes: Mapping[str, int], devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices; a size of -1 takes what the others leave.

    Raises:
      UserError: an unknown axis, or sizes that do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    if set(sizes) - set(AXES):
        raise UserError(f"mesh has axes {', '.join(AXES)}, not {', '.join(sizes)}")
    shape = [sizes.get(axis, 1) for axis in AXES]
    known = math.prod(size for size in shape if size != -1)
    if shape.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        shape[shape.index(-1)] = len(devices) // known
    if any(size < 1 for size in shape) or math.prod(shape) != len(devices):
        wanted = " x ".join(f"{axis} {sizes.get(axis, 1)}" for axis in AXES)
        raise UserError(f"mesh {wanted} does not fit {len(devices)} devices")
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)


def parameter_sharding(variable: nnx.Variable, mesh: Mesh) -> NamedSharding:
    """The layout of one parameter. An axis that the mesh does not divide stays whole."""
    shape = variable.get_value().shape
    axes = variable.get_metadata().get("axes") or ()
    # Stacked layers have one more axis, in front; so have dropout keys, which name none.
    names = (None,) * (len(shape) - len(axes)) + tuple(axes)
    spec = [
        rule if (rule := RULES[name]) and size % mesh.shape[rule] == 0 else None
        for name, size in zip(names, shape, strict=True)
    ]
    return NamedSharding(mesh, PartitionSpec(*spec))


def shardings(state: nnx.State, mesh: Mesh) -> nnx.State:
    """The layouts of all variables of a state, in its own structure."""
    return jax.tree.map(
        lambda variable: variable.replace(parameter_sharding(variable, mesh)),
        state,
        is_leaf=lambda x: isinstance(x, nnx.Variable),
    )


def laid_out(state: nnx.State, mesh: Mesh) -> nnx.State:
    """An abstract state whose arrays say where on the mesh they will lie."""
    return jax.tree.map(
        lambda x, layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout),
        state,
        shardings(state, mesh),
    )


def mesh_of(state: nnx.State) -> Mesh | None:
    """The mesh that a model lies on, if it does."""
    for array in jax.tree.leaves(state):
        layout = getattr(array, "sharding", None)
        if isinstance(layout, NamedSharding) and isinstance(layout.mesh, Mesh):
            return layout.mesh
    return None


def optimizer_shardings(
    optimizer: optax.GradientTransformation, params: Mapping[str, jax.Array], mesh: Mesh
) -> optax.OptState:
    """The layouts of an optimizer's state, in its structure.

    What has a parameter's shape (moments) is cut as the parameter is; all else is copied.
    """
    whole = replicated(mesh)
    return optax.tree.map_params(
        optimizer,
        lambda x, param: param.sharding if x.shape == param.shape else whole,
        jax.eval_shape(optimizer.init, params),
        params,
        transform_non_params=lambda _: whole,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch are spread over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Moves this process's rows of a batch to its devices.

    Raises:
      UserError: the rows do not divide among the devices that share them.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = len(next(iter(batch.values()))) * jax.process_count()
    if rows % ways:
        raise UserError(
            f"batch_size {rows} is no multiple of mesh data x fsdp = {ways}; change one of them"
        )
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(array))
        for name, array in batch.items()
    }


def put_questions(arrays: Sequence[np.ndarray | jax.Array], mesh: Mesh) -> list[jax.Array]:
    """Spreads rows as `put_batch` does if there are as many as that needs, else copies them."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    divides = len(arrays[0]) % ways == 0
    layout = batch_sharding(mesh) if divides else replicated(mesh)
    return [jax.device_put(array, layout) for array in arrays]
