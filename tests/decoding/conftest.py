"""Tiny models and prompts, and the slow way to continue a prompt: the whole forward pass."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.decoding import Decoder
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.paligemma import PaliGemma

PATCH, IMAGE = 4, 8


class Prompts(NamedTuple):
    image: np.ndarray
    tokens: np.ndarray
    mask_ar: np.ndarray
    mask_input: np.ndarray


@pytest.fixture(scope="session")
def make_model():
    def make(generation: int = 1, vocab_size: int = 40, seed: int = 0, **dtypes) -> PaliGemma:
        gemma2 = dict(
            num_kv_heads=2, post_norms=True, attn_logits_softcap=5.0, final_logits_softcap=6.0
        )
        llm = dict(width=16, depth=2, mlp_dim=32, num_heads=4, num_kv_heads=1, head_dim=8)
        config = PaliGemmaConfig(
            image_size=IMAGE,
            img=SigLIPConfig(width=16, depth=1, mlp_dim=16, num_heads=2, patch_size=PATCH),
            llm=GemmaConfig(vocab_size=vocab_size, **llm | (gemma2 if generation == 2 else {})),
        )
        model = PaliGemma(config, rngs=nnx.Rngs(seed), **dtypes)
        # A tied embedding makes a fresh model repeat what it read; a mixed-up norm does not.
        scale = model.language_model.final_norm.scale
        noise = jax.random.normal(jax.random.key(seed), scale.shape, scale.dtype)
        scale.set_value(3.0 * noise - 1.0)
        return model

    return make


@pytest.fixture(scope="session")
def decoder_for(make_model):
    """Decoders of the one tiny Gemma 1 model; equal settings share what was compiled."""

    @functools.cache
    def get(config, eos_id, pad_id=0) -> Decoder:
        return Decoder(make_model(), config, eos_id=eos_id, pad_id=pad_id)

    return get


@pytest.fixture(scope="session")
def make_prompts():
    def make(lengths: list[int], total: int, vocab_size: int = 40, seed: int = 0) -> Prompts:
        """Random prompts; the last token of every prompt of 4 or more is causal."""
        rng = np.random.default_rng(seed)
        batch = len(lengths)
        position, length = np.arange(total), np.asarray(lengths)[:, None]
        valid = position < length
        tokens = rng.integers(3, vocab_size, (batch, total))
        causal = (position == length - 1) & (length >= 4)
        return Prompts(
            rng.uniform(-1, 1, (batch, IMAGE, IMAGE, 3)).astype(np.float32),
            np.where(valid, tokens, 0).astype(np.int32),
            (causal | ~valid).astype(np.int32),
            valid.astype(np.int32),
        )

    return make


@pytest.fixture(scope="session")
def next_logits():
    """A function (model, prompts, added [B, m]) -> logits [B, m + 1, V] after each added token.

    It knows no cache: it puts `added` behind each prompt and runs the model over everything.
    """

    @nnx.jit
    def forward(model, image, tokens, mask_ar):
        return model(image, tokens, mask_ar)

    def run(model, prompts: Prompts, added: np.ndarray) -> np.ndarray:
        batch, count = added.shape
        lengths = prompts.mask_input.sum(axis=1)
        tokens = np.pad(prompts.tokens * prompts.mask_input, ((0, 0), (0, count)))
        mask_ar = np.pad(prompts.mask_ar, ((0, 0), (0, count)), constant_values=1)
        for b in range(batch):
            tokens[b, lengths[b] : lengths[b] + count] = added[b]
            mask_ar[b, lengths[b] :] = 1
        logits = np.asarray(forward(model, prompts.image, tokens, mask_ar))
        where = lengths[:, None] - 1 + np.arange(count + 1)
        return np.take_along_axis(logits, where[..., None], axis=1)

    return run


@pytest.fixture(scope="session")
def log_softmax():
    return lambda x: np.asarray(jax.nn.log_softmax(jnp.asarray(x), axis=-1))
