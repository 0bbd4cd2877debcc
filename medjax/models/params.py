"""Parameters by name: flat dictionaries between models and checkpoints, and their counts."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from medjax.errors import UserError

Named = dict[str, Any]


class Carried(nnx.Variable):
    """What a step of training changes without a gradient, such as a codebook."""


def flatten(state: nnx.State | nnx.Module) -> Named:
    """{"language_model/layers/mlp/up_proj/kernel": array, ...} of a state (or a model's Params)."""
    if isinstance(state, nnx.Module):
        state = nnx.state(state, nnx.Param)
    return {
        "/".join(map(str, path)): variable.get_value()
        for path, variable in nnx.to_flat_state(state)
    }


def base_name(name: str) -> str:
    """The name that a wrapped layer's parameter has in the plain model."""
    return name.replace("/base/", "/")


def assign(
    state: nnx.State, arrays: Iterable[tuple[str, Any]] | Mapping[str, Any], source: str
) -> None:
    """Fills `state` (abstract or real, in place) from named arrays, one at a time.

    Each array is cast to its target's dtype and laid out by its target's sharding.

    Raises:
      UserError: a name that the state lacks, a name of the state that never came, or a shape that
        differs; the message names `source`, and how many more there are.
    """
    targets = {base_name("/".join(map(str, p))): v for p, v in nnx.to_flat_state(state)}
    left = dict(targets)
    pairs = arrays.items() if isinstance(arrays, Mapping) else arrays
    for name, array in pairs:
        if name not in left:
            known = "twice" if name in targets else "unexpectedly"
            raise UserError(f"{source}: parameter {name} comes {known}")
        variable = left.pop(name)
        target = variable.get_value()
        if tuple(target.shape) != tuple(array.shape):
            raise UserError(
                f"{source}: {name} has shape {tuple(array.shape)}, the model has {target.shape}"
            )
        if isinstance(array, np.ndarray):
            array = array.astype(target.dtype)
        sharding = getattr(target, "sharding", None)
        placed = jax.device_put(array, sharding) if sharding is not None else jax.device_put(array)
        variable.set_value(placed.astype(target.dtype))
    if left:
        missing = sorted(left)
        raise UserError(
            f"{source}: {len(missing)} parameters are missing, among them {', '.join(missing[:5])}"
        )


def count(model: nnx.Module, *filters) -> int:
    """Number of parameters (of those that the filters select; all by default)."""
    state = nnx.state(model, *(filters or (nnx.Param,)))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state))


def trainable_share(model: nnx.Module) -> str:
    """PEFT's sentence: how many parameters train, of how many, in per cent."""
    trainable, total = count(model, trainable_filter(model)), count(model)
    return f"{trainable:,} trainable of {total:,} parameters ({100 * trainable / total:.3f} %)"


def trainable_names(model: nnx.Module) -> list[str]:
    """Names of the parameters that `trainable_filter` selects."""
    return list(flatten(nnx.state(model, trainable_filter(model))))


def trainable_filter(model: nnx.Module) -> type[nnx.Variable]:
    """`nnx.LoRAParam` if the model has adapters, else `nnx.Param`."""
    return nnx.LoRAParam if jax.tree.leaves(nnx.state(model, nnx.LoRAParam)) else nnx.Param
