"""Masking as one kernel, a program for each sample, for GPUs from compute capability 8.0 on.

Every kept token computes its slot and is stored there; what no token fills is filled by others, so
that no two threads write to one place. What was drawn comes in; it costs little and has to be the
same for all implementations.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Int

from medjax_kernels import selection
from medjax_kernels.masking.draws import ABSENT, Draws
from medjax_kernels.masking.packed import DecoderTokens, EncoderTokens, Masked
from medjax_kernels.masking.scheme import MaskingScheme
from medjax_kernels.masking.spans import Spans, least, spans


def masking(
    scheme: MaskingScheme,
    tokens: Mapping[str, Int[Array, "B n"]],
    lengths: Mapping[str, Int[Array, "B"]],
    draws: Draws,
) -> Masked:
    """See `api.masking`."""
    batch, count = draws.inputs.shape
    inputs = {
        "tokens": dict(tokens),
        "lengths": jnp.stack([lengths[m.name] for m in scheme.modalities], 1).astype(jnp.int32),
        "draws": draws._replace(masked={n: x.astype(jnp.int32) for n, x in draws.masked.items()}),
        "sentinels": jnp.array(scheme.sentinels or (0,), jnp.int32),
    }

    def rows(length: int, fields: int) -> Any:
        return [jax.ShapeDtypeStruct((batch, length), jnp.int32)] * fields

    encoder, decoder = scheme.packed_lengths
    shapes = Masked(
        EncoderTokens(*rows(encoder, 4)), DecoderTokens(*rows(decoder, 6)), *rows(count, 2)
    )
    (out,) = pl.pallas_call(
        functools.partial(_kernel, scheme),
        out_shape=(shapes,),
        grid=(batch,),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=selection.interpreted(),
        name="masking",
    )(inputs)
    return out._replace(
        encoder=out.encoder._replace(valid=out.encoder.valid > 0),
        decoder=out.decoder._replace(valid=out.decoder.valid > 0),
    )


def _line(size: int) -> Int[Array, "n"]:
    """0, 1, ... over a power of two that is at least `size`."""
    return jnp.arange(pl.next_power_of_2(max(size, 2)), dtype=jnp.int32)


def _row(ref, index: Array, mask: Array, other: Any = 0) -> Array:
    """This program's row of a matrix."""
    return plgpu.load(ref.at[pl.program_id(0), index], mask=mask, other=other)


def _put(refs, slot: Array, kept: Array, values) -> None:
    """Stores each field's value of the kept tokens in their slots; beyond the row nothing."""
    length = refs[0].shape[1]
    kept = kept & (slot < length)
    # Where nothing is stored, the index is beyond the row, too: the interpreter drops it.
    slot = jnp.where(kept, slot, length)
    for ref, value in zip(refs, values, strict=True):
        value = jnp.broadcast_to(jnp.asarray(value, jnp.int32), slot.shape)
        plgpu.store(ref.at[pl.program_id(0), slot], value, mask=kept)


def _fill(refs, used: Array, values) -> None:
    """Stores each field's filler in the slots that nothing uses."""
    slot = _line(refs[0].shape[1])
    _put(refs, slot, slot >= used, values)


def _ranks(kept: Array) -> Array:
    return jnp.cumsum(kept.astype(jnp.int32)) - 1


def _kernel(scheme: MaskingScheme, inputs, out: Masked) -> None:
    program = pl.program_id(0)
    draws: Draws = inputs["draws"]
    count = len(scheme.modalities)
    budgets = [(draws.inputs[program, i], draws.targets[program, i]) for i in range(count)]
    lengths = [inputs["lengths"][program, i] for i in range(count)]

    def sequence(i: int) -> tuple[Spans, Array]:
        ref = draws.masked[scheme.modalities[i].name]
        index, width = _line(ref.shape[1]), ref.shape[1]
        masked = _row(ref, index, index < width) > 0
        before = _row(ref, index - 1, (index > 0) & (index <= width)) > 0
        valid = index < lengths[i]
        return spans(masked, before, valid, *budgets[i], draws.choice[program, i]), masked

    # First, how many tokens there are, which is where each modality begins.
    input_counts, target_counts, read_counts = [], [], []
    for i, modality in enumerate(scheme.modalities):
        if modality.kind == "image":
            taken = jnp.minimum(budgets[i][0], lengths[i])
            targets = reads = jnp.minimum(budgets[i][1], lengths[i] - taken)
        else:
            found, _ = sequence(i)
            taken = jnp.sum(found.input_kept.astype(jnp.int32))
            targets = found.end - found.begin
            reads = jnp.maximum(targets - 1, 0)
        input_counts.append(taken)
        target_counts.append(targets)
        read_counts.append(reads)
        out.input_counts[program, i] = taken
        out.target_counts[program, i] = targets
    places = [draws.order[program, i] for i in range(count)]

    first_input = jnp.int32(0)
    for i, modality in enumerate(scheme.modalities):
        earlier = [jnp.where(places[j] < places[i], read_counts[j], 0) for j in range(count)]
        first_read = functools.reduce(jnp.add, earlier)
        if modality.kind == "image":
            _image(scheme, i, inputs, out, budgets[i], first_input, first_read)
        else:
            _sequence(scheme, i, inputs, out, *sequence(i), first_input, first_read)
        first_input = first_input + input_counts[i]
    pad = scheme.pad
    _fill(out.encoder, first_input, (pad, 0, -1, 0))
    _fill(out.decoder, functools.reduce(jnp.add, read_counts), (pad, pad, 0, -1, 0, 0))


def _image(scheme, i: int, inputs, out: Masked, budget, first_input, first_read) -> None:
    name = scheme.modalities[i].name
    ref = inputs["draws"].noise[name]
    index = _line(ref.shape[1])
    there = index < ref.shape[1]
    noise = _row(ref, index, there, ABSENT)
    first, second = least(noise, budget[0]), least(noise, budget[0] + budget[1])
    kept, target = noise < first, (noise >= first) & (noise < second)
    ids = scheme.pad
    if name in inputs["tokens"]:
        ids = _row(inputs["tokens"][name], index, kept | target, scheme.pad)
    _put(out.encoder, first_input + _ranks(kept), kept, (ids, index, i, 1))
    slot = first_read + _ranks(target)
    _put(out.decoder, slot, target, (scheme.pad, ids, index, i, first_read, 1))


def _sequence(
    scheme, i: int, inputs, out: Masked, found: Spans, masked: Array, first_input, first_read
) -> None:
    modality = scheme.modalities[i]
    index = _line(inputs["tokens"][modality.name].shape[1])
    valid = index < inputs["lengths"][pl.program_id(0), i]
    ids = _row(inputs["tokens"][modality.name], index, valid) + modality.vocab_offset
    table = inputs["sentinels"]
    sentinel = plgpu.load(table.at[jnp.maximum(found.run, 0)], mask=found.start, other=0)

    kept, rank = found.input_kept, _ranks(found.input_kept)
    fields = (jnp.where(masked, sentinel, ids), rank, i, 1)
    _put(out.encoder, first_input + rank, kept, fields)

    def target(place: Array, kept: Array, ids: Array) -> None:
        """One target token: it is read in its slot, and predicted in the slot before."""
        kept = kept & (found.begin <= place) & (place < found.end)
        rank = place - found.begin
        slot = first_read + rank
        into = out.decoder
        refs = (into.tokens, into.positions, into.modality, into.block, into.valid)
        _put(refs, slot, kept & (place < found.end - 1), (ids, rank, i, slot, 1))
        _put((into.targets,), slot - 1, kept & (rank > 0), (ids,))

    target(found.target_index - 1, found.start, sentinel)
    target(found.target_index, masked, ids)
    # The last sentinel, by one thread.
    end = plgpu.load(table.at[found.runs])
    target(jnp.full(index.shape, found.length - 1), index == 0, jnp.full(index.shape, end))
