"""Everything random about the masking of a sample, from one key; all implementations share it."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from medjax_kernels.masking import budgets
from medjax_kernels.masking.scheme import MaskingScheme

# Each time the input of a sequence is longer than its budget, fewer tokens are kept.
_DECAY = np.float32(0.9)
# The noise of a token that does not exist; no other is as great.
ABSENT = np.int32(2**31 - 1)


class Draws(NamedTuple):
    """What was drawn for one sample, or with a leading axis for many.

    Attributes:
      inputs: budget of input tokens of each modality.
      targets: budget of target tokens.
      choice: not negative; its remainder tells at which sentinel a target that is too long begins.
      order: the modality's place in the decoder.
      noise: by image; distinct, not negative, ABSENT beyond the image's length. The tokens of least
        noise are input, the next target.
      masked: by sequence; which tokens are taken out of the input. False beyond its length.
    """

    inputs: Int[Array, "M"]
    targets: Int[Array, "M"]
    choice: Int[Array, "M"]
    order: Int[Array, "M"]
    noise: Mapping[str, Int[Array, "n"]]
    masked: Mapping[str, Bool[Array, "n"]]


def draw(
    scheme: MaskingScheme,
    widths: Mapping[str, int],
    lengths: Mapping[str, Int[Array, "B"]],
    chunks: Mapping[str, Int[Array, "B n"]],
    keys: Key[Array, "B"],
) -> Draws:
    """Draws for each sample from its own key alone; `widths`: of the arrays of tokens.

    Generators other than threefry give other numbers to many keys at once than to each: their
    keys are taken one after the other.
    """

    def one(arguments):
        return _draw(scheme, widths, *arguments)

    at_once = str(jax.random.key_impl(keys)) == "threefry2x32"
    return (jax.vmap(one) if at_once else lambda x: jax.lax.map(one, x))((lengths, chunks, keys))


def _draw(scheme, widths, lengths, chunks, key) -> Draws:
    few_key, input_key, target_key, noise_key, span_key = jax.random.split(key, 5)
    count = len(scheme.modalities)
    few = jax.random.bits(few_key, (3 + 2 * count,), jnp.uint32)
    component = budgets.component(scheme, few[0])
    total = budgets.number(scheme.input_tokens, few[1])
    inputs = budgets.draw(scheme, "input", input_key, component, total, budgets.caps(scheme))
    if scheme.target_tokens is None:
        targets = jnp.full(count, budgets.UNLIMITED, jnp.int32)
    else:
        total = budgets.number(scheme.target_tokens, few[2])
        caps = budgets.caps(scheme, inputs)
        targets = budgets.draw(scheme, "target", target_key, component, total, caps)
    order = jnp.arange(count, dtype=jnp.int32)
    if scheme.shuffle_decoder:
        noise = few[3 : 3 + count]
        order = jnp.argsort(jnp.argsort(noise)).astype(jnp.int32)
    return Draws(
        inputs,
        targets,
        (few[3 + count :] >> 1).astype(jnp.int32),
        order,
        _image_noise(scheme, widths, lengths, noise_key),
        _span_masks(scheme, widths, lengths, chunks, span_key, component, inputs),
    )


def _split(bits: Array, names: list[str], widths: Mapping[str, int]) -> dict[str, Array]:
    """Cuts one array into one for each name."""
    ends = np.cumsum([widths[name] for name in names]).tolist()
    return {name: bits[end - widths[name] : end] for name, end in zip(names, ends, strict=True)}


def _image_noise(scheme, widths, lengths, key) -> dict[str, Int[Array, "n"]]:
    names = [m.name for m in scheme.modalities if m.kind == "image"]
    if not names:
        return {}
    bits = jax.random.bits(key, (sum(widths[name] for name in names),), jnp.uint32)
    noise = {}
    for name, part in _split(bits, names, widths).items():
        index = jnp.arange(widths[name], dtype=jnp.int32)
        # The lowest bits are the index: distinct, without a rule for ties.
        low = np.int32(2 ** (widths[name] - 1).bit_length() - 1)
        distinct = ((part >> 2).astype(jnp.int32) & ~low) | index
        noise[name] = jnp.where(index < lengths[name], distinct, ABSENT)
    return noise


def input_length(masked: Bool[Array, "n"], valid: Bool[Array, "n"]) -> Int[Array, ""]:
    """Tokens of a sequence's input: what stays, and a sentinel for each span."""
    starts = masked & ~jnp.pad(masked[:-1], (1, 0))
    return jnp.sum(starts | (valid & ~masked), dtype=jnp.int32)


def _span_masks(scheme, widths, lengths, chunks, key, component, inputs) -> dict:
    """Masks that are drawn until the input is within its budget, with ever fewer tokens kept."""
    sequences = [(i, m) for i, m in enumerate(scheme.modalities) if m.kind == "sequence"]
    names = [m.name for _, m in sequences]
    if not names:
        return {}
    first_key, key = jax.random.split(key)
    first = jax.random.bits(first_key, (len(names),), jnp.uint32)
    budget = jnp.stack([inputs[i] for i, _ in sequences])
    valid = {name: jnp.arange(widths[name]) < lengths[name] for name in names}
    total = sum(widths[name] for name in names)

    def attempt(index, keep):
        bits = jax.random.bits(jax.random.fold_in(key, index), (total,), jnp.uint32)
        masked = {}
        for i, (name, part) in enumerate(_split(bits, names, widths).items()):
            part = part[chunks[name]] if name in chunks else part
            masked[name] = (_uniform(part) >= keep[i]) & valid[name]
        return masked

    def fits(masked):
        length = jnp.stack([input_length(masked[name], valid[name]) for name in names])
        return (length <= budget) | (budget == 0)  # without budget, all is masked and no input

    def again(state):
        index, keep, masked, fit = state
        keep = jnp.where(fit, keep, keep * _DECAY)
        new = attempt(index, keep)
        masked = {n: jnp.where(fit[i], masked[n], new[n]) for i, n in enumerate(names)}
        return index + 1, keep, masked, fit | fits(masked)

    keep = jnp.where(budget > 0, _keep_probability(sequences, component, first), 0.0)
    masked = attempt(0, keep)
    state = (jnp.int32(1), keep, masked, fits(masked))
    return jax.lax.while_loop(lambda state: ~jnp.all(state[3]), again, state)[2]


def _uniform(bits: Array) -> Float[Array, "..."]:
    """In [0, 1), exact in float32."""
    return (bits >> 8).astype(jnp.float32) * np.float32(2.0**-24)


def _keep_probability(sequences, component, bits) -> Float[Array, "S"]:
    """Of each sequence, by the rule of the component."""
    keeps = np.array([m.keep or ("random",) * len(m.input_alphas) for _, m in sequences]).T
    values = {
        "random": _uniform(bits),
        "all": jnp.ones(bits.shape, jnp.float32),
        "binary": (bits >> 31).astype(jnp.float32),
    }
    result = jnp.zeros(bits.shape, jnp.float32)
    for rule, value in values.items():
        result = jnp.where(jnp.asarray(keeps == rule)[component], value, result)
    return result
