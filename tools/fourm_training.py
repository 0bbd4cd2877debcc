"""The training step of 4M that tools measure: masks, forward, backward and AdamW.

The model is the original's smallest (apple/ml-4m, `fourm/models/fm.py`: fm_tiny_6e_6d_gelu) for an
image's patches, tokens of two images and two texts: 87 million parameters. Of each of 8 samples it
reads 128 tokens and predicts 128.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import medjax_kernels
import numpy as np
import optax
from flax import nnx
from medjax_kernels.masking import Masked, MaskingScheme, Modality

from medjax.models.fourm import FourM, FourMConfig, by_modality, token_mean, variant
from medjax.training.step import split

BATCH, BUDGET = 8, 128
NAMES = ("rgb", "tok_rgb", "tok_semseg", "caption", "det")
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05


class Outcome(NamedTuple):
    """What both sides tell of a step.

    Attributes:
      parameters: how many train.
      losses: mean of each target modality, nats a token, before the step.
      tokens: of each target modality.
    """

    parameters: int
    losses: np.ndarray
    tokens: np.ndarray


def config() -> FourMConfig:
    """The model's."""
    return variant("fm_tiny_6e_6d_gelu", NAMES, NAMES[1:])


def vocabularies() -> list[int]:
    """Of the targets."""
    return [config().modality(name).vocab_size or 0 for name in NAMES[1:]]


def scheme() -> MaskingScheme:
    """Everything from everything; texts are long enough to fill any budget."""
    modalities = [
        Modality(
            m.name, "image" if m.is_image else "sequence", m.length, input_alphas=(1.0,),
            target_alphas=(float(m.has_ids),),
        )
        for m in config().modalities
    ]  # fmt: skip
    longest = max(m.max_tokens for m in modalities)
    budget = (BUDGET, BUDGET)
    return MaskingScheme(
        tuple(modalities), budget, budget, sentinels=tuple(range(4, 5 + longest // 2))
    )


def samples() -> tuple[dict, dict]:
    """Tokens of all modalities but rgb, whose patches are the features."""
    rng = np.random.default_rng(0)
    modalities = {m.name: m for m in config().modalities}
    patches = rng.standard_normal((BATCH, modalities["rgb"].length, modalities["rgb"].features))
    tokens = {
        name: jnp.asarray(rng.integers(200, m.vocab_size, (BATCH, m.length)), jnp.int32)
        for name, m in modalities.items()
        if m.has_ids
    }
    return tokens, {"rgb": jnp.asarray(patches, jnp.float32)}


def masks(step, tokens) -> Masked:
    """The masks of a step."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), BATCH)
    modalities = scheme().modalities
    lengths = {m.name: jnp.full(BATCH, m.max_tokens) for m in modalities if m.kind == "sequence"}
    return medjax_kernels.masking(scheme(), tokens, lengths, keys)


def step_and_arguments() -> tuple[Callable, tuple]:
    """(state, ...) -> (state, Outcome), and what to begin with."""
    taken = split(FourM(config(), remat="dots", rngs=nnx.Rngs(0)))
    params, rest = taken.params, taken.rest
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    targets = [config().index(name) for name in config().targets]
    count = sum(x.size for x in params.values())

    def step(state, rest, tokens, features):
        index, params, opt_state = state
        masked = masks(index, tokens)

        def loss(params):
            model, goals = taken.still.merge(params, rest), masked.decoder
            scores = model.score(masked.encoder, goals, features)
            sums = by_modality(scores.loss, goals.modality, goals.valid, targets)
            return token_mean(sums), sums

        grads, sums = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (index + 1, params, opt_state), Outcome(count, sums.mean, sums.tokens)

    return step, ((jnp.int32(0), params, optimizer.init(params)), rest, *samples())


def agree(ours: Outcome, theirs: Outcome) -> None:
    """Fails unless both trained as many parameters on as many tokens, from as good as a guess.

    The models are not the same in every bias and draw their parameters for themselves.
    """
    np.testing.assert_allclose(ours.parameters, theirs.parameters, rtol=0.01)
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    for outcome in (ours, theirs):
        # Logits of a variance near width * 0.02^2, 0.15 at the full size, add half of that.
        np.testing.assert_allclose(outcome.losses, np.log(vocabularies()), atol=0.25)
