"""Masking in the plainest words, one sample after the other, for reading and for tests."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from medjax_kernels.masking.draws import Draws
from medjax_kernels.masking.packed import DecoderTokens, EncoderTokens, Masked, Part
from medjax_kernels.masking.scheme import MaskingScheme, Modality


def masking(
    scheme: MaskingScheme,
    tokens: Mapping[str, Int[Array, "B n"]],
    lengths: Mapping[str, Int[Array, "B"]],
    draws: Draws,
) -> Masked:
    """See `api.masking`."""

    def one(arguments):
        parts = [
            (_image if m.kind == "image" else _sequence)(scheme, i, m, *arguments)
            for i, m in enumerate(scheme.modalities)
        ]
        return _pack(parts, *scheme.packed_lengths, arguments[2].order, scheme.pad)

    return jax.lax.map(one, (tokens, lengths, draws))


def pack(
    parts: Sequence[Part],
    encoder_length: int,
    decoder_length: int,
    order: Int[Array, "B M"],
    pad: int,
) -> Masked:
    """See `api.pack`."""
    kinds = [part.kind for part in parts]

    def one(arguments):
        parts = [Part(kind, *rest) for kind, rest in zip(kinds, arguments[0], strict=True)]
        return _pack(parts, encoder_length, decoder_length, arguments[1], pad)

    return jax.lax.map(one, ([part[1:] for part in parts], order))


def _image(scheme, i: int, modality: Modality, tokens, lengths, draws: Draws) -> Part:
    """The tokens of least noise are input, the next are target."""
    rank = jnp.argsort(jnp.argsort(draws.noise[modality.name]))
    exists = rank < lengths[modality.name]
    inputs, targets = draws.inputs[i], draws.targets[i]
    kept = exists & (rank < inputs)
    target = exists & (inputs <= rank) & (rank < inputs + targets)
    return Part("image", tokens.get(modality.name), kept, target)


def _sequence(scheme, i: int, modality: Modality, tokens, lengths, draws: Draws) -> Part:
    """Token by token: append to the input, or to the target, with a sentinel before a span."""
    sentinels = jnp.array(scheme.sentinels, jnp.int32)
    size = 2 * tokens[modality.name].size + 1

    def step(t, state):
        inputs, input_size, target, is_sentinel, target_size, spans, before = state
        masked = draws.masked[modality.name][t]
        token = tokens[modality.name][t] + modality.vocab_offset
        begins = masked & ~before
        inputs = inputs.at[input_size].set(jnp.where(masked, sentinels[spans], token))
        target = target.at[target_size].set(jnp.where(begins, sentinels[spans], token))
        is_sentinel = is_sentinel.at[target_size].set(begins)
        target = target.at[target_size + begins].set(jnp.where(masked, token, 0))
        return (
            inputs,
            input_size + (begins | ~masked),
            target,
            is_sentinel,
            target_size + begins + masked,
            spans + begins,
            masked,
        )

    empty, no = jnp.zeros(size + 1, jnp.int32), jnp.zeros(size + 1, bool)
    state = (empty, jnp.int32(0), empty, no, jnp.int32(0), jnp.int32(0), jnp.bool_(False))
    state = jax.lax.fori_loop(0, lengths[modality.name], step, state)
    inputs, input_size, target, is_sentinel, length, spans, _ = state
    target = target.at[length].set(sentinels[spans])
    is_sentinel, length = is_sentinel.at[length].set(True), length + 1

    # Too long a target begins at a sentinel that is drawn; the last one only if it is alone.
    budget, place = draws.targets[i], jnp.arange(size + 1)
    places = jnp.sort(jnp.where(is_sentinel, place, size + 1))
    chosen = places[jax.lax.rem(draws.choice[i], jnp.maximum(spans, 1))]
    earliest = jnp.min(jnp.where(is_sentinel & (length - place <= budget), place, size + 1))
    begin, end = jnp.int32(0), length
    too_long, full = length > budget, length - chosen >= budget
    begin = jnp.where(too_long, jnp.where(full, chosen, earliest), begin)
    end = jnp.where(too_long & full, chosen + budget, end)

    input_size = jnp.where(draws.inputs[i] == 0, 0, input_size)
    nothing = jnp.zeros(size + 1, bool)
    return Part(
        "sequence",
        jnp.concatenate([inputs, target]),
        jnp.concatenate([place < input_size, nothing]),
        jnp.concatenate([nothing, (begin <= place) & (place < end)]),
    )


def _pack(parts: Sequence[Part], encoder_length, decoder_length, order, pad) -> Masked:
    encoder, decoder = [], []
    for i, part in enumerate(parts):
        size = part.input_kept.size
        image = part.kind == "image"
        ids = jnp.full(size, pad, jnp.int32) if part.tokens is None else part.tokens
        place = jnp.arange(size)
        position = place if image else jnp.cumsum(part.input_kept) - 1
        encoder.append((part.input_kept, ids, position, jnp.full(size, i)))
        if image:
            reads, predicts, kept = jnp.full(size, pad), ids, part.target_kept
            position, block = place, jnp.zeros(size, jnp.int32)
        else:
            # Kept tokens first, in their order; each predicts the next.
            sort = jnp.argsort(~part.target_kept, stable=True)
            kept = place < jnp.sum(part.target_kept) - 1
            reads, predicts = ids[sort], jnp.roll(ids[sort], -1)
            position = block = place
        decoder.append((kept, reads, predicts, position, jnp.full(size, i), block))

    def gather(rows, order, length, fillers):
        """The kept ones first, by place of the modality; cut or filled up to `length`."""
        kept, *values = (jnp.concatenate(column) for column in zip(*rows, strict=True))
        place = jnp.concatenate([jnp.full(len(row[0]), order[i]) for i, row in enumerate(rows)])
        sort = jnp.argsort(jnp.where(kept, place, len(rows)), stable=True)
        sort = jnp.pad(sort, (0, max(0, length - kept.size)))[:length]
        valid = jnp.arange(length) < jnp.sum(kept)
        return valid, [
            jnp.where(valid, value[sort], filler).astype(jnp.int32)
            for value, filler in zip(values, fillers, strict=True)
        ]

    in_order = jnp.arange(len(parts))
    valid, (ids, position, modality) = gather(encoder, in_order, encoder_length, (pad, 0, -1))
    packed = EncoderTokens(ids, position, modality, valid)
    valid, fields = gather(decoder, order, decoder_length, (pad, pad, 0, -1, 0))
    reads, predicts, position, modality, block = fields
    # Blocks count from the modality's first slot.
    same = (modality[None, :] == modality[:, None]) & valid[None, :]
    first = jnp.min(jnp.where(same, jnp.arange(decoder_length), decoder_length), axis=1)
    block = jnp.where(valid, first + block, 0).astype(jnp.int32)
    return Masked(
        packed,
        DecoderTokens(reads, predicts, position, modality, block, valid),
        jnp.stack([jnp.sum(part.input_kept, dtype=jnp.int32) for part in parts]),
        jnp.stack([jnp.sum(part.target_kept, dtype=jnp.int32) for part in parts]),
    )
