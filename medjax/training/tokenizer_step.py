"""One step of training an image tokenizer, as a pure function on pytrees.

Beside the parameters it carries the codebook, which no gradient moves.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from medjax.errors import UserError
from medjax.models.layers import Dtype
from medjax.models.params import flatten
from medjax.models.tokenizers import (
    Codebook,
    CodebookState,
    ImageTokenizer,
    ImageTokenizerConfig,
    Usage,
    VQConfig,
    losses,
    vector_quantization,
)
from medjax.models.tokenizers.config import QuantizerConfig
from medjax.models.tokenizers.metrics import code_counts, codebook_use, perplexity
from medjax.training import loss_scaling
from medjax.training.loss_scaling import LossScale
from medjax.training.step import SplitModel, accumulate

# What the tokenizer calls the codebook's fields, in their order.
_CODEBOOK = tuple(f"quantizer/{field}" for field in Codebook._fields)


class TokenizerState(NamedTuple):
    """All that a step changes.

    Attributes:
      step: int32, steps done, skipped ones included.
      params: {name: array}.
      opt_state: the optimizer's.
      codebook: {name: array}; empty where there is none.
      loss_scale: see `loss_scaling`.
    """

    step: Int[Array, ""]
    params: dict[str, Array]
    opt_state: Any
    codebook: dict[str, Array]
    loss_scale: LossScale


class TokenizerMetrics(NamedTuple):
    """Facts of one step; all float32 scalars.

    Attributes:
      loss: reconstruction + commitment, both means over the batch's images.
      use: share of codes that the batch's tokens are of. perplexity: of those tokens.
      restarted: how many dead codes started anew.
      grad_norm: global norm of the gradients. skipped: 1 if a float16 gradient overflowed.
    """

    loss: Float[Array, ""]
    reconstruction: Float[Array, ""]
    commitment: Float[Array, ""]
    use: Float[Array, ""]
    perplexity: Float[Array, ""]
    restarted: Float[Array, ""]
    grad_norm: Float[Array, ""]
    skipped: Float[Array, ""]


class _Sums(NamedTuple):
    """What a part of a batch adds to it.

    Attributes:
      counts: how many tokens became each code. latents: the sums of those tokens' latents.
      fresh: the latents drawn for dead codes, zeros where they lie in other parts.
    """

    reconstruction: Float[Array, ""]
    commitment: Float[Array, ""]
    counts: Float[Array, "V"]
    latents: Float[Array, "V D"] | None = None
    fresh: Float[Array, "V D"] | None = None


def split(model: ImageTokenizer) -> tuple[SplitModel, dict[str, Array], dict[str, Array]]:
    """Takes a tokenizer apart for training: its structure, its parameters, its codebook."""
    graphdef, *states = nnx.split(model, nnx.Param, CodebookState)
    params, codebook = states
    paths = [path for state in states for path, _ in nnx.to_flat_state(state)]
    names = {"/".join(map(str, path)): path for path in paths}
    return SplitModel(graphdef, names), flatten(params), flatten(codebook)


def merge(
    model: SplitModel, params: dict[str, Array], codebook: dict[str, Array]
) -> ImageTokenizer:
    """The tokenizer with these parameters and this codebook."""
    merged: Any = model.merge({**params, **codebook}, nnx.State({}))
    return merged


def create(
    params: dict[str, Array],
    codebook: dict[str, Array],
    optimizer: optax.GradientTransformation,
    dtype: Dtype = jnp.float32,
) -> TokenizerState:
    """The state before the first step; `dtype` is that of matmuls."""
    opt_state = optimizer.init(params)
    return TokenizerState(jnp.int32(0), params, opt_state, codebook, loss_scaling.create(dtype))


def make_tokenizer_step(
    model: SplitModel,
    config: ImageTokenizerConfig,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    reconstruction: str = "l2",
    accumulation: int = 1,
    skip_overflows: bool = False,
) -> Callable[[TokenizerState, Array], tuple[TokenizerState, TokenizerMetrics]]:
    """(state, images) -> (state, metrics), to be jitted by the caller.

    Which latents take the place of dead codes is a function of (seed, step). A batch in parts, or
    spread over devices, gives the codebook that it gives as a whole: counts and sums are those of
    all its tokens.

    Args:
      model, config: of the tokenizer.
      reconstruction: "l2" or "l1" of images; "cross_entropy" of masks.
      accumulation: into how many parts a batch is cut.
      skip_overflows: a step with gradients that are not finite changes the loss scale alone.

    Raises:
      UserError: a loss that the tokenizer's kind does not have; when called, a batch that does not
        divide into parts.
    """
    distance = losses.reconstruction(config, reconstruction)
    quantizer = config.quantizer

    def train_step(state: TokenizerState, images: Array):
        rows = images.shape[0]
        if rows % accumulation:
            raise UserError(f"batch_size {rows} is no multiple of accumulation {accumulation}")
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        draw = _draw(key, config, rows, accumulation)

        def sums(params, part, index):
            tokenizer = merge(model, params, state.codebook)
            result = _sums(tokenizer, part["images"], distance, draw, index)
            return (result.reconstruction + result.commitment) * state.loss_scale.scale, result

        def gradient(part, index):
            (_, result), grads = jax.value_and_grad(sums, has_aux=True)(state.params, part, index)
            return result, grads

        total, grads = accumulate(gradient, {"images": images}, accumulation)
        scaled = rows * state.loss_scale.scale
        grads = jax.tree.map(lambda g: g / scaled.astype(g.dtype), grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        codebook, restarted = _updated(state.codebook, total, quantizer)
        loss_scale, skipped = state.loss_scale, jnp.float32(0.0)
        if skip_overflows:
            finite = loss_scaling.all_finite(grads)
            params, opt_state, codebook = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (params, opt_state, codebook),
                (state.params, state.opt_state, state.codebook),
            )
            loss_scale = loss_scaling.update(loss_scale, finite)
            skipped = (~finite).astype(jnp.float32)
        metrics = TokenizerMetrics(
            loss=(total.reconstruction + total.commitment) / rows,
            reconstruction=total.reconstruction / rows,
            commitment=total.commitment / rows,
            use=codebook_use(total.counts),
            perplexity=perplexity(total.counts),
            restarted=restarted,
            grad_norm=optax.global_norm(grads),
            skipped=skipped,
        )
        return TokenizerState(state.step + 1, params, opt_state, codebook, loss_scale), metrics

    return train_step


class _Draw(NamedTuple):
    """For each code a token of the batch: in which part, in which row of it, and where there."""

    part: Int[Array, "V"]
    row: Int[Array, "V"]
    place: Int[Array, "V"]


def _draw(key: Array, config: ImageTokenizerConfig, rows: int, parts: int) -> _Draw:
    """Draws tokens; none twice while there are enough."""
    codes, tokens = config.vocab_size, rows * config.side**2
    drawn = jax.random.choice(key, tokens, (codes,), replace=tokens < codes)
    row, place = jnp.divmod(drawn, config.side**2)
    return _Draw(row % parts, row // parts, place)  # as `accumulate` deals rows out


def _sums(
    tokenizer: ImageTokenizer, images: Array, distance: Callable, draw: _Draw, index: Any
) -> _Sums:
    """What part `index` of a batch adds to it."""
    quantized = tokenizer.quantize(images)
    loss = distance(tokenizer.decode_codes(quantized.codes), images).sum()
    commitment = quantized.commitment.mean((1, 2)).sum()
    num_codes = tokenizer.config.vocab_size
    if not isinstance(tokenizer.config.quantizer, VQConfig):
        return _Sums(loss, commitment, code_counts(quantized.ids, num_codes))
    latents = jax.lax.stop_gradient(quantized.latents)
    latents = latents.reshape(latents.shape[0], -1, latents.shape[-1])
    used = vector_quantization.usage(latents, quantized.ids, num_codes)
    mine = (draw.part == index)[:, None]
    fresh = jnp.where(mine, latents[draw.row, draw.place], 0.0)
    return _Sums(loss, commitment, *used, fresh)


def _updated(
    codebook: dict[str, Array], total: _Sums, config: QuantizerConfig
) -> tuple[dict[str, Array], Float[Array, ""]]:
    """The codebook after a step, and how many codes started anew."""
    if not isinstance(config, VQConfig):
        return codebook, jnp.float32(0.0)
    assert total.latents is not None
    assert total.fresh is not None
    before = Codebook(*(codebook[name] for name in _CODEBOOK))
    used = Usage(total.counts, total.latents)
    after, restarted = vector_quantization.updated(before, used, total.fresh, config)
    return dict(zip(_CODEBOOK, after, strict=True)), restarted
