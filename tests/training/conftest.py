"""A tiny model with adapters, ragged batches, and trainers of them."""

import jax
import numpy as np
import pytest
from flax import nnx

from medjax import config as config_lib
from medjax.models import lora
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.paligemma import PaliGemma
from medjax.scaling import sharding
from medjax.training import optimizers
from medjax.training.loop import Trainer
from medjax.training.objectives.paligemma import Answers

CONFIG = PaliGemmaConfig(
    image_size=8,
    img=SigLIPConfig(width=16, depth=1, mlp_dim=16, num_heads=2, patch_size=4),
    llm=GemmaConfig(
        width=16, depth=2, mlp_dim=24, num_heads=2, num_kv_heads=1, head_dim=8, vocab_size=40
    ),
)


@pytest.fixture(scope="session")
def make_model():
    def make(
        rank: int = 2, dropout: float = 0.0, targets=("q_proj", "down_proj"), **dtypes
    ) -> PaliGemma:
        model = PaliGemma(CONFIG, rngs=nnx.Rngs(0), **dtypes)
        if rank:
            config = lora.LoRAConfig(rank, alpha=3.0 * rank, dropout=dropout, targets=targets)
            lora.apply(model, config, rngs=nnx.Rngs(1))
            rng = np.random.default_rng(0)
            for _, layer in lora.adapters(model):  # B is not zero, or A would have no gradient
                shape = layer.lora_b.get_value().shape
                layer.lora_b.set_value(rng.normal(0, 0.1, shape).astype(np.float32))
        return model

    return make


@pytest.fixture(scope="session")
def make_batch():
    def make(answers=(1, 5, 2, 7, 3, 3, 6, 1), length: int = 12, seed: int = 0):
        """A batch whose answers have these numbers of tokens; 0 is no answer, and no loss."""
        rng = np.random.default_rng(seed)
        batch, question = len(answers), 4
        place, last = np.arange(length), question + np.asarray(answers)[:, None]
        answer = (place >= question) & (place < last)
        tokens = np.where(place < last, rng.integers(3, 40, (batch, length)), 0)
        return {
            "image": rng.uniform(-1, 1, (batch, 8, 8, 3)).astype(np.float32),
            "tokens": tokens.astype(np.int32),
            "mask_ar": np.broadcast_to(place >= question, answer.shape).astype(np.int32),
            "mask_loss": answer.astype(np.int32),
        }

    return make


@pytest.fixture(scope="session")
def make_trainer():
    def make(
        model, *, objective=None, dtype="float32", learning_rate=0.01, optimizer=None, **kwargs
    ) -> Trainer:
        config = config_lib.defaults().optimizer
        config.schedule, config.learning_rate = "constant", learning_rate
        return Trainer(
            model,
            objective or Answers(),
            optimizer or optimizers.create(config, 100),
            mesh=sharding.make_mesh({"data": 1}, jax.devices()[:1]),
            dtype=np.dtype(dtype),
            **kwargs,
        )

    return make
