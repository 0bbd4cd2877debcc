"""One random question about a random image, to compare what two checkpoints compute.

Of 4M, a few random tokens of every modality: `fourm_probe`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from medjax.checkpoints import fourm_probe
from medjax.checkpoints.adapters import Adapter, build_adapted
from medjax.checkpoints.fourm_probe import FourMProbe
from medjax.checkpoints.tensors import Checkpoint, build
from medjax.models.config import PaliGemmaConfig
from medjax.models.families import ModelConfig
from medjax.models.fourm import FourMConfig
from medjax.models.paligemma import PaliGemma
from medjax.models.variants import VOCAB_SIZE


class Probe(NamedTuple):
    """Input of one forward pass; see `PaliGemma.__call__`."""

    image: Float[np.ndarray, "B Y X 3"]
    tokens: Int[np.ndarray, "B T"]
    mask_ar: Int[np.ndarray, "B T"]

    def ask(self, model: PaliGemma) -> Float[Array, "B T V"]:
        """The model's logits."""
        return model(*map(jnp.asarray, self))


def any_probe(config: ModelConfig) -> Probe | FourMProbe:
    """A probe for a model of either family."""
    return fourm_probe.make(config) if isinstance(config, FourMConfig) else make(config)


def make(config: PaliGemmaConfig, *, prefix: int = 6, suffix: int = 4, seed: int = 0) -> Probe:
    """A probe with `prefix` bidirectional and `suffix` causal tokens."""
    rng = np.random.default_rng(seed)
    side = config.image_size
    tokens = rng.integers(3, min(config.llm.vocab_size, VOCAB_SIZE), (1, prefix + suffix))
    return Probe(
        image=rng.uniform(-1, 1, (1, side, side, 3)).astype(np.float32),
        tokens=tokens.astype(np.int32),
        mask_ar=np.array([[0] * prefix + [1] * suffix], np.int32),
    )


def run(model: nnx.Module, probe: Probe | FourMProbe) -> Float[np.ndarray, "B T V"]:
    """What a model says to the probe, with full-precision matmuls."""
    graphdef, state = nnx.split(model)

    @jax.jit
    def forward(state, probe):
        return probe.ask(nnx.merge(graphdef, state))

    with jax.default_matmul_precision("highest"):
        return np.asarray(forward(state, probe))


def logits(
    checkpoint: Checkpoint,
    probe: Probe | FourMProbe,
    adapter: Adapter | None = None,
    *,
    mesh: Mesh | None = None,
) -> Float[np.ndarray, "B T V"]:
    """What a checkpoint says to the probe, its adapter not merged; computed in float32.

    The model lies on `mesh`, or on the first device.
    """
    if adapter is None:
        return run(build(checkpoint, mesh=mesh), probe)
    return run(build_adapted(checkpoint, adapter, mesh=mesh), probe)


def difference(a: Float[np.ndarray, "B T V"], b: Float[np.ndarray, "B T W"]) -> float:
    """Largest absolute difference over the rows that both vocabularies have."""
    rows = min(a.shape[-1], b.shape[-1])
    return float(np.abs(a[..., :rows] - b[..., :rows]).max())
