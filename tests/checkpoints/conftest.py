"""A tiny 4M that the official format cannot say all of, its parameters, and adapters for it."""

import dataclasses

import numpy as np
import pytest

from medjax.checkpoints import adapters, tensors
from medjax.models.fourm import FourMConfig, Modality
from medjax.models.lora import LoRAConfig

FOURM = FourMConfig(
    width=16, encoder_depth=2, decoder_depth=3, num_heads=4, num_kv_heads=2, gated=True,
    activation="silu", qk_norm=True, num_register_tokens=2, mlp_ratio=2.5,
    modalities=(
        Modality("t1", "patches", image_size=8, patch_size=4, channels=1, content="image"),
        Modality("tissue", "image_tokens", 9, image_size=12, patch_size=4, content="labels",
                 source="segmentation", min_tokens=2, input_alphas=(0.5, 2.0)),
        Modality("report", "sequence", 300, max_length=8, content="text", keep=("random", "all")),
        Modality("prior", "sequence_embeddings", max_length=3, channels=5),
        Modality("tok_global", "image_tokens", 7, image_size=8, patch_size=4,
                 learned_positions=True, target_alphas=(0.0,)),
    ),
    inputs=("t1", "tissue", "report", "prior"), targets=("tissue", "report", "tok_global"),
)  # fmt: skip
# Of all kinds: stacked layers of both towers, and one that is not stacked.
LORA = LoRAConfig(
    rank=3, alpha=12, dropout=0.1, targets=("q_proj", "k_proj", "gate_proj", "context_proj"),
    towers=("encoder", "decoder"),
)  # fmt: skip


def random(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: (0.3 * rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}


@pytest.fixture(scope="session")
def fourm_config():
    """Makes the config; keyword arguments change fields."""
    return lambda **changes: dataclasses.replace(FOURM, **changes)


@pytest.fixture(scope="session")
def fourm_params():
    """{name: array} of the model of a config."""
    return lambda config, seed=0: random(tensors.specs(config), seed)


@pytest.fixture(scope="session")
def fourm_adapter():
    """Makes an adapter of a config's model, and what it was trained on."""

    def make(config: FourMConfig, base: adapters.Base | None = None) -> adapters.Adapter:
        arrays = random(adapters.adapter_specs(config, LORA), 1)
        lazy = {name: tensors.lazy(array) for name, array in arrays.items()}
        return adapters.Adapter("random", LORA, lazy, base)

    return make
