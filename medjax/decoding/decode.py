"""Answers of a PaliGemma to images and prompts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from medjax.decoding import beam, cached, sampling
from medjax.decoding.answers import Answers
from medjax.decoding.config import DecodeConfig
from medjax.models.layers import Dtype
from medjax.models.paligemma import PaliGemma
from medjax.scaling import sharding


def decode(
    model: PaliGemma,
    image: Float[Array, "B Y X 3"],
    tokens: Int[Array, "B T"],
    mask_ar: Int[Array, "B T"],
    mask_input: Int[Array, "B T"],
    config: DecodeConfig,
    *,
    eos_id: int,
    pad_id: int = 0,
    key: Key[Array, ""] | None = None,
    rows: Int[Array, "B"] | None = None,
    cache_dtype: Dtype | None = None,
    keep_logits: bool = False,
) -> Answers:
    """Answers every row's prompt; to be run under `jax.jit` (`Decoder` does).

    Args:
      image: in [-1, 1].
      tokens, mask_ar: prompts, at the left; see `medjax.data.prompts`.
      mask_input: 1 for a prompt's tokens, 0 for whatever stands after them, which is not read.
      config: how to choose.
      eos_id: ends an answer.
      pad_id: stands after the end.
      key: of sampling; must be given for it.
      rows: a number for each row, by which its random draws differ from other rows'; 0, 1, 2, ...
        if None. With an example's own number its answer does not depend on how it was batched.
      cache_dtype: of cached keys and values; the model's compute dtype if None.
      keep_logits: returns the logits, too; not with beam search.

    Raises:
      ValueError: sampling without a key, or `keep_logits` with beam search.
    """
    length = config.max_new_tokens
    limits: dict[str, Any] = dict(max_new_tokens=length, eos_id=eos_id, pad_id=pad_id)
    cache_dtype = model.language_model.dtype if cache_dtype is None else cache_dtype
    logits, memory = cached.prefill(
        model, image, tokens, mask_ar, mask_input, room=length - 1, cache_dtype=cache_dtype
    )
    advance = functools.partial(cached.step, model)
    if config.method == "greedy":
        return sampling.run(
            advance, logits, memory, sampling.greedy, keep_logits=keep_logits, **limits
        )
    if config.method == "beam":
        if keep_logits:
            raise ValueError("beam search keeps no logits")
        return beam.search(
            model,
            logits,
            memory,
            num_beams=config.num_beams,
            length_penalty=config.length_penalty,
            **limits,
        )
    if key is None:
        raise ValueError("sampling needs a key")
    rows = jnp.arange(logits.shape[0]) if rows is None else rows
    keys = _sample_keys(key, rows, config.num_samples)
    logits, memory = sampling.repeat(logits, memory, config.num_samples)
    pick = sampling.sampler(keys, config.temperature, config.top_p)
    answers = sampling.run(advance, logits, memory, pick, keep_logits=keep_logits, **limits)
    return sampling.best(answers, config.num_samples)


def _sample_keys(key: Key[Array, ""], rows: Int[Array, "B"], times: int) -> Key[Array, "C"]:
    """A key for each sample of each row; the first sample's does not depend on `times`."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return jax.vmap(lambda row: fold(jax.random.fold_in(key, row), jnp.arange(times)))(
        rows
    ).reshape(-1)


class Decoder:
    """Decodes with one model and one way of choosing; compiles once for each shape.

    Attributes:
      config: how answers are chosen.
      state: the model's variables, in `nnx.split`'s form. To answer with others of the same shapes
        (as training goes on) set it: nothing is compiled again.
    """

    def __init__(
        self,
        model: PaliGemma,
        config: DecodeConfig,
        *,
        eos_id: int,
        pad_id: int = 0,
        cache_dtype: Dtype | None = None,
    ):
        """`model` is split once and never changed; its dropout does not act here."""
        self.config = config
        graphdef, self.state = nnx.split(model)
        self._mesh = sharding.mesh_of(self.state)

        @functools.partial(jax.jit, static_argnames="keep_logits")
        def run(state, image, tokens, mask_ar, mask_input, seed, rows, keep_logits):
            model = nnx.merge(graphdef, state)
            model.eval()
            return decode(
                model,
                image,
                tokens,
                mask_ar,
                mask_input,
                config,
                eos_id=eos_id,
                pad_id=pad_id,
                key=jax.random.key(seed),
                rows=rows,
                cache_dtype=cache_dtype,
                keep_logits=keep_logits,
            )

        self._run = run

    def __call__(
        self,
        image: Float[Array, "B Y X 3"],
        tokens: Int[Array, "B T"],
        mask_ar: Int[Array, "B T"],
        mask_input: Int[Array, "B T"],
        *,
        seed: int = 0,
        rows: Int[Array, "B"] | None = None,
        keep_logits: bool = False,
    ) -> Answers:
        """Answers where the model lies, rows spread over its mesh if they divide among it.

        The arguments are those of `decode`; `seed` gives its key.
        """
        rows = jnp.arange(tokens.shape[0]) if rows is None else rows
        arrays = [image, tokens, mask_ar, mask_input, rows]
        if self._mesh is not None:
            arrays = sharding.put_questions(arrays, self._mesh)
        *prompts, rows = arrays
        return self._run(self.state, *prompts, seed, rows, keep_logits)
