"""LoRA adapters on disk, whatever their format, and merging them into a checkpoint."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from medjax.checkpoints.tensors import Checkpoint, LazyArray, check_specs, filled
from medjax.errors import UserError
from medjax.models import families, lora, params
from medjax.models.families import ModelConfig
from medjax.models.lora import LoRAConfig


@dataclasses.dataclass(frozen=True)
class Base:
    """The weights that an adapter was trained on: their path and `files.content_hash`."""

    path: str
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: iterating yields (name, array), one at a time.

    Attributes:
      where: what error messages call it, usually its path.
      config: rank, alpha, targets, towers.
      arrays: "language_model/layers/self_attn/q_proj/lora_a" -> [L, in, R], ".../lora_b" ->
        [L, R, out], float32.
      base: what it was trained on, if that is known.
    """

    where: str
    config: LoRAConfig
    arrays: Mapping[str, LazyArray]
    base: Base | None = None

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, array in self.arrays.items():
            yield name, array.read()

    def check(self, model: ModelConfig) -> None:
        """Raises UserError unless this adapts exactly the layers that its config names."""
        check_specs(self.where, self.arrays, adapter_specs(model, self.config))


def _abstract(model: ModelConfig, config: LoRAConfig, **kwargs: Any) -> nnx.Module:
    def create() -> nnx.Module:
        module = families.of(model).create(model, rngs=nnx.Rngs(0), **kwargs)
        lora.apply(module, dataclasses.replace(config, dropout=0.0), rngs=nnx.Rngs(0))
        return module

    return nnx.eval_shape(create)


def adapter_specs(model: ModelConfig, config: LoRAConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every array of an adapter, by name."""
    state = nnx.state(_abstract(model, config), nnx.LoRAParam)
    return {name: tuple(leaf.shape) for name, leaf in params.flatten(state).items()}


def build_adapted(
    checkpoint: Checkpoint, adapter: Adapter, *, mesh: Mesh | None = None, **kwargs: Any
) -> Any:
    """The model of a checkpoint with its adapter beside it, not merged; without dropout.

    `mesh` and `kwargs` are those of `tensors.build`.
    """
    adapter.check(checkpoint.config)
    model = _abstract(checkpoint.config, adapter.config, **kwargs)
    arrays = itertools.chain(checkpoint, adapter)
    return filled(model, arrays, f"{checkpoint.where} with {adapter.where}", mesh)


def merged(checkpoint: Checkpoint, adapter: Adapter, dtype: np.dtype | None = None) -> Checkpoint:
    """The checkpoint with the adapter added to its kernels in float32, then rounded to `dtype`.

    Args:
      dtype: of the result; by default every parameter keeps its own.

    Raises:
      UserError: the adapter does not fit the model.
    """
    adapter.check(checkpoint.config)
    arrays = {name: array.astype(dtype) for name, array in checkpoint.arrays.items()}
    for path in {name.rsplit("/", 1)[0] for name in adapter.arrays}:
        a, b = adapter.arrays[f"{path}/lora_a"], adapter.arrays[f"{path}/lora_b"]
        name = f"{path}/kernel"
        kernel = checkpoint.arrays[name]
        arrays[name] = _sum(kernel, a, b, adapter.config.scaling, dtype or kernel.dtype)
    return dataclasses.replace(checkpoint, arrays=arrays)


def _sum(
    kernel: LazyArray, a: LazyArray, b: LazyArray, scaling: float, dtype: np.dtype
) -> LazyArray:
    def read() -> np.ndarray:
        # Layer by layer, so that only the result is as large as the stack.
        base, left, right = (x.read().reshape(-1, *x.shape[-2:]) for x in (kernel, a, b))
        out = np.empty(base.shape, dtype)
        for layer in range(len(out)):
            delta = left[layer].astype(np.float32) @ right[layer].astype(np.float32)
            out[layer] = base[layer].astype(np.float32) + np.float32(scaling) * delta
        return out.reshape(kernel.shape)

    return LazyArray(kernel.shape, dtype, read)


def split(named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters under the plain model's names, adapter arrays) of `params.flatten(model)`."""
    is_adapter = {name: name.endswith(("/lora_a", "/lora_b")) for name in named}
    base = {params.base_name(name): value for name, value in named.items() if not is_adapter[name]}
    return base, {name: value for name, value in named.items() if is_adapter[name]}


def check_base(adapter: Adapter, sha256: str, where: str) -> None:
    """Raises UserError if the adapter is known to be trained on other weights than these."""
    if adapter.base is not None and adapter.base.sha256 not in (None, sha256):
        raise UserError(
            f"{adapter.where} was trained on {adapter.base.path} (sha256 "
            f"{adapter.base.sha256[:12]}...), not on {where} (sha256 {sha256[:12]}...); merged "
            "with other weights it would compute something else"
        )
