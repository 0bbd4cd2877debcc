"""Masking for any device that XLA compiles for: all samples at once, without sort or scatter.

Which tokens of an image are taken is decided by a bound on their noise that is found bit by bit; a
slot of the packed result finds its token by counting bits.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from medjax_kernels.masking.bits import nth_kept, words
from medjax_kernels.masking.draws import Draws
from medjax_kernels.masking.packed import DecoderTokens, EncoderTokens, Masked, Part
from medjax_kernels.masking.scheme import MaskingScheme, Modality
from medjax_kernels.masking.spans import least, spans


def masking(
    scheme: MaskingScheme,
    tokens: Mapping[str, Int[Array, "B n"]],
    lengths: Mapping[str, Int[Array, "B"]],
    draws: Draws,
) -> Masked:
    """See `api.masking`."""

    def one(tokens, lengths, draws):
        parts = [
            (_image if m.kind == "image" else _sequence)(scheme, i, m, tokens, lengths, draws)
            for i, m in enumerate(scheme.modalities)
        ]
        return _pack(parts, *scheme.packed_lengths, draws.order, scheme.pad)

    return jax.vmap(one)(tokens, lengths, draws)


def pack(
    parts: Sequence[Part],
    encoder_length: int,
    decoder_length: int,
    order: Int[Array, "B M"],
    pad: int,
) -> Masked:
    """See `api.pack`."""
    kinds = [part.kind for part in parts]

    def one(arrays, order):
        parts = [Part(kind, *rest) for kind, rest in zip(kinds, arrays, strict=True)]
        return _pack(parts, encoder_length, decoder_length, order, pad)

    return jax.vmap(one)([part[1:] for part in parts], order)


def _image(scheme, i: int, modality: Modality, tokens, lengths, draws: Draws) -> Part:
    noise = draws.noise[modality.name]
    first = least(noise, draws.inputs[i])
    second = least(noise, draws.inputs[i] + draws.targets[i])
    kept = noise < first
    return Part("image", tokens.get(modality.name), kept, (noise < second) & ~kept)


def _sequence(scheme, i: int, modality: Modality, tokens, lengths, draws: Draws) -> Part:
    """What goes into the input, then what goes into the target, each in its order."""
    masked = draws.masked[modality.name]
    ids = tokens[modality.name] + modality.vocab_offset
    valid = jnp.arange(masked.size) < lengths[modality.name]
    before = jnp.pad(masked[:-1], (1, 0))
    found = spans(masked, before, valid, draws.inputs[i], draws.targets[i], draws.choice[i])
    table = jnp.array(scheme.sentinels, jnp.int32)
    sentinel = table[jnp.maximum(found.run, 0)]

    def within(index):
        return (found.begin <= index) & (index < found.end)

    # In the target, a token has two places: its span's sentinel and itself.
    pairs = jnp.stack([sentinel, ids], axis=1).ravel()
    pairs_kept = jnp.stack(
        [found.start & within(found.target_index - 1), masked & within(found.target_index)], axis=1
    ).ravel()
    nothing = jnp.zeros(masked.size, bool)
    last = within(found.length - 1)[None]
    return Part(
        "sequence",
        jnp.concatenate([jnp.where(masked, sentinel, ids), pairs, table[found.runs][None]]),
        jnp.concatenate([found.input_kept, jnp.zeros(pairs.size + 1, bool)]),
        jnp.concatenate([nothing, pairs_kept, last]),
    )


def _counts(kept: list[Bool[Array, "n"]]) -> Int[Array, "M"]:
    return jnp.stack([jnp.sum(k, dtype=jnp.int32) for k in kept])


def _before(counts: Int[Array, "M"], order: Int[Array, "M"]) -> Int[Array, "M"]:
    """How many tokens the modalities of an earlier place have."""
    return jnp.sum(jnp.where(order < order[:, None], counts, 0), axis=1)


def _pack(parts: Sequence[Part], encoder_length, decoder_length, order, pad) -> Masked:
    ids = jnp.concatenate(
        [
            jnp.full(p.input_kept.size, pad, jnp.int32) if p.tokens is None else p.tokens
            for p in parts
        ]
    )
    sizes = np.array([p.input_kept.size for p in parts])
    starts = jnp.array(np.cumsum(sizes) - sizes, jnp.int32)
    sequence = jnp.array([p.kind == "sequence" for p in parts], jnp.int32)
    place = jnp.arange(len(parts), dtype=jnp.int32)

    def fill(value, valid, filler):
        return jnp.where(valid, value, filler).astype(jnp.int32)

    def find(kept, nth):
        """Index of the nth kept token, within the array."""
        return jnp.minimum(nth_kept(kept, nth), ids.size - 1)

    def slots(counts, order, length):
        """For each slot: its modality, its index within it, whether it is used; and a look-up.

        What belongs to a slot's modality is a sum over the few that there are: a gather would make
        an array of indices.
        """
        begin = _before(counts, order)
        slot = jnp.arange(length, dtype=jnp.int32)
        mine = (begin <= slot[:, None]) & (slot[:, None] < begin + counts)

        def own(table):
            return jnp.sum(jnp.where(mine, table, 0), axis=1, dtype=jnp.int32)

        return own(place), slot - own(begin), jnp.any(mine, axis=1), own

    inputs = _counts([p.input_kept for p in parts])
    kept = words(jnp.concatenate([p.input_kept for p in parts]))
    owner, index, valid, own = slots(inputs, place, encoder_length)
    source = find(kept, own(_before(inputs, place)) + index)
    encoder = EncoderTokens(
        fill(ids[source], valid, pad),
        fill(jnp.where(own(sequence) > 0, index, source - own(starts)), valid, 0),
        fill(owner, valid, -1),
        valid,
    )

    targets = _counts([p.target_kept for p in parts])
    kept = words(jnp.concatenate([p.target_kept for p in parts]))
    # The last of a sequence is predicted and not read.
    read = jnp.where(sequence > 0, jnp.maximum(targets - 1, 0), targets)
    owner, index, valid, own = slots(read, order, decoder_length)
    nth, causal = own(_before(targets, place)) + index, own(sequence)
    source, target = find(kept, nth), find(kept, nth + causal)
    slot = jnp.arange(decoder_length, dtype=jnp.int32)
    decoder = DecoderTokens(
        fill(ids[source], valid & (causal > 0), pad),
        fill(ids[target], valid, pad),
        fill(jnp.where(causal > 0, index, source - own(starts)), valid, 0),
        fill(owner, valid, -1),
        fill(jnp.where(causal > 0, slot, slot - index), valid, 0),
        valid,
    )
    return Masked(encoder, decoder, inputs, targets)
