"""Low-rank adapters around linear layers (Hu et al., arXiv:2106.09685), with PEFT's semantics.

    y = base(x) + (alpha / rank) * dropout(x) @ A @ B

A starts random and B zero, so that a new adapter changes nothing. Adapters are float32 whatever the
base's dtype, and are `nnx.LoRAParam`, by which training, checkpoints and export find them.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from medjax.errors import UserError
from medjax.models.layers import Linear

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# PaliGemma's parts, and 4M's.
TOWERS = ("language_model", "vision_tower", "encoder", "decoder")


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """What is adapted, and how.

    Attributes:
      rank: R. alpha: the update is scaled by alpha / rank. dropout: rate on the adapter's input.
      targets: names of linear layers. towers: in which parts of the model they are looked for.
      init: of A: "kaiming" (uniform within 1 / sqrt(in), PEFT's default) or "normal" (deviation
        1 / rank, PEFT's "gaussian").
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] = TARGETS
    towers: tuple[str, ...] = ("language_model",)
    init: str = "kaiming"

    def __post_init__(self):
        if self.rank < 1:
            raise UserError(f"lora.rank {self.rank} must be at least 1")
        if not 0.0 < self.alpha < math.inf:
            raise UserError(f"lora.alpha {self.alpha} must be a number above 0")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"lora.dropout {self.dropout} is not in [0, 1)")
        if self.init not in ("kaiming", "normal"):
            raise UserError(f"lora.init {self.init!r} is none of kaiming, normal")
        if not (self.targets and self.towers):
            raise UserError("lora.targets and lora.towers must name at least one each")
        for tower in self.towers:
            if tower not in TOWERS:
                raise UserError(f"lora.towers: {tower!r} is none of {', '.join(TOWERS)}")

    @property
    def scaling(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


class DropoutKey(nnx.Variable):
    """The random key of one adapter's dropout; the train step sets it from (seed, step)."""


class LoRALinear(nnx.Module):
    """A linear layer with an adapter; the layer may be a stack of layers.

    base: the wrapped layer, kernel [..., in, out]; lora_a: [..., in, R]; lora_b: [..., R, out].
    """

    def __init__(self, base: Linear, config: LoRAConfig, *, rngs: nnx.Rngs):
        *stack, inputs, outputs = base.kernel.shape
        axes = base.kernel.axes
        self.base = base
        self.scaling = config.scaling
        self.dropout = config.dropout
        self.deterministic = True
        self.merged = False
        shape = (*stack, inputs, config.rank)
        if config.init == "kaiming":
            bound = 1.0 / math.sqrt(inputs)
            a = jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
        else:
            a = jax.random.normal(rngs.params(), shape, jnp.float32) / config.rank
        self.lora_a = nnx.LoRAParam(a, axes=(axes[0], "rank"))
        self.lora_b = nnx.LoRAParam(
            jnp.zeros((*stack, config.rank, outputs), jnp.float32), axes=("rank", axes[1])
        )
        self.dropout_key = (
            DropoutKey(jax.random.split(rngs.params(), tuple(stack))) if config.dropout else None
        )

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        y = self.base(x)
        if self.merged:
            return y
        x = x.astype(self.base.dtype)
        if self.dropout_key is not None and not self.deterministic:
            keep = 1.0 - self.dropout
            kept = jax.random.bernoulli(self.dropout_key.get_value(), keep, x.shape)
            x = jnp.where(kept, x / keep, 0).astype(x.dtype)
        a, b = (p.get_value().astype(x.dtype) for p in (self.lora_a, self.lora_b))
        return y + (x @ a @ b) * self.scaling

    def delta(self) -> Float[Array, "*L I O"]:
        """What the adapter adds to the base's kernel, float32."""
        product = jnp.matmul(
            self.lora_a.get_value(), self.lora_b.get_value(), precision=jax.lax.Precision.HIGHEST
        )
        return product * self.scaling


def apply(model: nnx.Module, config: LoRAConfig, *, rngs: nnx.Rngs) -> list[str]:
    """Wraps the targeted layers of `model` in place.

    Returns:
      The paths that were wrapped, "language_model/layers/self_attn/q_proj" and so on.

    Raises:
      UserError: a target that no layer of the chosen towers bears, or a model with adapters.
    """
    if any(True for _ in adapters(model)):
        raise UserError("the model has adapters already; merge them before adding others")
    found = [
        (path, parent, name, layer)
        for path, parent, name, layer in _children(model)
        if name in config.targets and path.split("/")[0] in config.towers
    ]
    unmatched = set(config.targets) - {name for _, _, name, _ in found}
    if unmatched:
        raise UserError(
            f"lora.targets: no layer of {', '.join(config.towers)} is called "
            f"{', '.join(sorted(unmatched))}"
        )
    for _, parent, name, layer in found:
        setattr(parent, name, LoRALinear(layer, config, rngs=rngs))
    return [path for path, *_ in found]


def _children(model: nnx.Module) -> list[tuple[str, nnx.Module, str, Linear]]:
    """(path, parent, attribute, layer) of every linear layer, adapted ones not included."""
    return [
        ("/".join(map(str, (*path, name))), module, name, child)
        for path, module in nnx.iter_modules(model)
        if not isinstance(module, LoRALinear)
        for name, child in vars(module).items()
        if isinstance(child, Linear)
    ]


def adapters(model: nnx.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Every adapted layer with its path."""
    for path, module in nnx.iter_modules(model):
        if isinstance(module, LoRALinear):
            yield "/".join(map(str, path)), module


def _shift(model: nnx.Module, merged: bool, sign: float) -> None:
    for path, layer in adapters(model):
        if layer.merged == merged:
            raise UserError(f"{path} is {'merged already' if merged else 'not merged'}")
        kernel = layer.base.kernel
        value = kernel.get_value()
        kernel.set_value((value.astype(jnp.float32) + sign * layer.delta()).astype(value.dtype))
        layer.merged = merged


def merge(model: nnx.Module) -> None:
    """Adds every adapter to its base's kernel, in float32; the adapters stay but sleep."""
    _shift(model, merged=True, sign=1.0)


def unmerge(model: nnx.Module) -> None:
    """Undoes `merge`, up to the rounding of the base's dtype."""
    _shift(model, merged=False, sign=-1.0)


def fold(model: nnx.Module) -> None:
    """Merges every adapter and removes the wrappers: a plain model is left."""
    if any(not layer.merged for _, layer in adapters(model)):
        merge(model)
    for _, module in list(nnx.iter_modules(model)):
        for name, child in list(vars(module).items()):
            if isinstance(child, LoRALinear):
                setattr(module, name, child.base)


def set_dropout_keys(state: nnx.State, key: jax.Array) -> nnx.State:
    """The DropoutKey leaves of `state`, drawn anew from `key` (one key per adapter and layer)."""
    leaves, treedef = jax.tree.flatten(state)
    keys = jax.random.split(key, max(1, len(leaves)))
    fresh = [jax.random.split(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=False)]
    return jax.tree.unflatten(treedef, fresh)


def targets_of(paths: Sequence[str]) -> tuple[str, ...]:
    """The last parts of layer paths, each once, sorted."""
    return tuple(sorted({path.rsplit("/", 1)[-1] for path in paths}))
