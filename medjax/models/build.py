"""Models with real parameters, laid out on a mesh: drawn at random or read from a checkpoint."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from medjax.models import families, lora, params
from medjax.models.families import ModelConfig
from medjax.models.layers import Dtype
from medjax.models.paligemma import PaliGemma
from medjax.scaling import sharding

_BASE = nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam))


def build(
    config: ModelConfig,
    *,
    mesh: Mesh,
    weights: Iterable[tuple[str, Any]] | None = None,
    source: str = "weights",
    lora_config: lora.LoRAConfig | None = None,
    dtype: Dtype = jnp.float32,
    param_dtype: Dtype = jnp.float32,
    remat: str = "none",
    ordered_ids: range | None = None,
    seed: int = 0,
) -> Any:
    """A PaliGemma or 4M on `mesh`; no device ever holds more of it than its share.

    Args:
      weights: (name, array) of the model without adapters, one at a time; random if None.
      source: what error messages call the weights.
      lora_config: adapters to add.
      ordered_ids: token ids whose random embeddings are made to know their order; of PaliGemma.
      seed: of whatever is random.

    Raises:
      UserError: weights that do not fit, or adapters that do not.
    """

    def create() -> nnx.Module:
        rngs = nnx.Rngs(params=seed)
        model = families.of(config).create(
            config, dtype=dtype, param_dtype=param_dtype, remat=remat, rngs=rngs
        )
        if ordered_ids is not None:
            assert isinstance(model, PaliGemma)
            table = model.language_model.embed_tokens
            rows = ordered_rows(len(ordered_ids), table.shape[1]).astype(param_dtype)
            table.set_value(table.get_value().at[jnp.asarray(ordered_ids)].set(rows))
        if lora_config is not None:
            lora.apply(model, lora_config, rngs=nnx.Rngs(params=seed + 1))
        return model

    if weights is None:
        return fresh(create, mesh)
    graphdef, abstract = nnx.split(nnx.eval_shape(create))
    layouts = sharding.shardings(abstract, mesh)
    base = sharding.laid_out(nnx.split_state(abstract, _BASE, ...)[0], mesh)
    _, fresh_layouts = nnx.split_state(layouts, _BASE, ...)
    params.assign(base, weights, source)
    added = jax.jit(
        lambda: nnx.split_state(nnx.state(create()), _BASE, ...)[1], out_shardings=fresh_layouts
    )()
    return nnx.merge(graphdef, base, added)


def fresh(create: Callable[[], Any], mesh: Mesh) -> Any:
    """A module with random parameters on `mesh`, each made where it will lie."""
    graphdef, abstract = nnx.split(nnx.eval_shape(create))
    layouts = sharding.shardings(abstract, mesh)
    return nnx.merge(graphdef, jax.jit(lambda: nnx.state(create()), out_shardings=layouts)())


def ordered_rows(count: int, width: int) -> jax.Array:
    """Embeddings of the numbers 0 .. count - 1 in which neighbours are alike, float32.

    Sines and cosines of geometrically spaced wavelengths, from 8 numbers to 4 * count, in the way
    of sinusoidal positions (arXiv:1706.03762), scaled to the deviation of other embeddings
    (width ** -0.5). A model that answers with such tokens need not learn their order first.
    """
    half = (width + 1) // 2
    wavelengths = np.geomspace(8.0, 4.0 * count, half)
    angles = 2 * np.pi * np.arange(count)[:, None] / wavelengths
    rows = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width]
    return jnp.asarray(rows * (2.0 / width) ** 0.5, jnp.float32)
