"""Any modality from any others: schedules of steps, each of which may read what earlier ones made.

A second stage that makes an image larger is a step, too: its target is a modality of more pixels,
such as tok_rgb@448, and the first stage's is among its conditions.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int, Key

from medjax.decoding.fourm import images, known, passes, sequences, spans
from medjax.decoding.fourm.images import Steps
from medjax.decoding.fourm.known import Known
from medjax.decoding.fourm.passes import Passes
from medjax.decoding.fourm.schedules import temperatures, token_schedule
from medjax.decoding.fourm.steps import Step, check_all
from medjax.errors import UserError
from medjax.models.fourm import FourM
from medjax.models.fourm.model import Features
from medjax.scaling import sharding


class _Read(NamedTuple):
    """What a step reads, in all passes together; see `passes.build`."""

    known: dict[str, Known]
    features: dict[str, Array]
    weights: np.ndarray


def sample_keys(seed: int, rows: Int[Array, "B"], index: int) -> Key[Array, "B"]:
    """A key for each sample, by its number, in the step of an index in its schedule."""
    key = jax.random.fold_in(jax.random.key(seed), index)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.asarray(rows))


class Generator:
    """Generates with one model; compiles once for each kind of step and shape.

    Attributes:
      state: the model's variables, in `nnx.split`'s form. To generate with others of the same
        shapes (as training goes on) set it: nothing is compiled again.
    """

    def __init__(self, model: FourM, *, blanks: Mapping[str, int] | None = None):
        """`model` is split once and never changed; its dropout does not act here.

        Args:
          blanks: what stands for a sequence in passes of guidance that do not read it: the first
            sentinel's id, for a model of the original; of embeddings any number (see
            `passes.build`). Sequences not named are left out there, as images are.
        """
        self.config = model.config
        self._blanks = dict(blanks or {})
        for name in self._blanks:
            if name not in self.config.inputs or self.config.modality(name).is_image:
                raise UserError(f"blanks: {name!r} is no sequence that the model reads")
        graphdef, self.state = nnx.split(model)
        self._mesh = sharding.mesh_of(self.state)

        def merged(state) -> FourM:
            model = nnx.merge(graphdef, state)
            model.eval()
            return model

        def packed(read: _Read, reads, keys) -> Passes:
            weights = jnp.asarray(read.weights)
            return passes.build(
                self.config, read.known, read.features, reads, weights, self._blanks, len(keys)
            )

        shared = ("reads", "target", "top_k", "top_p")

        @functools.partial(jax.jit, static_argnames=shared)
        def maskgit(state, read, given, keys, steps, reads, target, **filters):
            inputs = packed(read, reads, keys)
            return images.maskgit(merged(state), inputs, target, given, keys, steps, **filters)

        @functools.partial(jax.jit, static_argnames=(*shared, "most"))
        def roar(state, read, given, keys, steps, reads, target, **filters):
            inputs = packed(read, reads, keys)
            return images.roar(merged(state), inputs, target, given, keys, steps, **filters)

        @functools.partial(
            jax.jit, static_argnames=(*shared, "max_new_tokens", "start_id", "eos_id")
        )
        def write(state, read, keys, temperature, limits, reads, target, **settings):
            inputs = packed(read, reads, keys)
            return sequences.write(
                merged(state), inputs, target, keys, temperature, limits=limits, **settings
            )

        self._maskgit, self._roar, self._write = maskgit, roar, write

    def __call__(
        self,
        given: Mapping[str, Known],
        steps: Sequence[Step],
        *,
        features: Features | None = None,
        seed: int = 0,
        rows: Int[Array, "B"] | None = None,
    ) -> dict[str, Known]:
        """Does the steps of a schedule, one after another.

        Args:
          given: what is there before the first, by modality; see `known`. To complete an image, or
            a sequence with holes, give what there is of it.
          features: patches and embeddings by modality, [B, n, I]; see `Modality.features`.
          seed: of all draws.
          rows: a number for each sample, by which its draws differ from others'; 0, 1, 2, ... if
            None. With a sample's own number its results do not depend on how it was batched.

        Returns:
          What was given, and what the steps made of it.

        Raises:
          UserError: steps that the model cannot do, or what is given does not allow; all are
            checked before the first is done.
        """
        batch = known.check(self.config, given)
        check_all(steps, self.config, given)
        rows = jnp.arange(batch) if rows is None else rows
        there = dict(given)
        for index, step in enumerate(steps):
            keys = sample_keys(seed, rows, index)
            there[step.target] = self.step(there, step, keys, features=features)
        return there

    def step(
        self,
        given: Mapping[str, Known],
        step: Step,
        keys: Key[Array, "B"],
        *,
        features: Features | None = None,
    ) -> Known:
        """One step alone: its target, completed.

        Args:
          keys: one for each sample; see `sample_keys`. The others are those of `__call__`.
        """
        known.check(self.config, given)
        step.check(self.config, given)
        given, features, keys = self._placed(given, features or {}, keys)
        conditions = step.reads(self.config, given)
        if step.scheme == "autoregressive":
            return self._sequence(given, step, keys, features, conditions)
        length = self.config.modality(step.target).length
        nothing = np.zeros((len(keys), length), np.int32)
        start = given.get(step.target, Known(nothing, nothing.astype(bool)))
        numbers = _numbers(step, np.asarray(start.valid))
        run, more = self._maskgit, {}
        if step.scheme == "roar":
            run, more = self._roar, {"most": max(1, int(np.max(numbers.counts, initial=0)))}
        read, reads = _read(given, step, features, conditions)
        filters = {"top_k": step.top_k, "top_p": step.top_p}
        return run(
            self.state, read, start, keys, numbers, reads=reads, target=step.target,
            **filters, **more,
        )  # fmt: skip

    def _sequence(self, given, step: Step, keys, features, conditions) -> Known:
        modality = self.config.modality(step.target)
        assert step.start_id is not None  # checked when the step was made
        start = step.start_id
        holes = _with_hole(given.get(step.target), step, len(keys))
        used = np.sum(holes.valid & ~np.isin(holes.tokens, list(step.sentinels)), axis=1)
        room = modality.length - (used if step.sentinels else 0 * used)
        if not room.all():
            raise UserError(
                f"step for {step.target!r}: sample {int(np.argmin(room))} has all "
                f"{modality.length} tokens already"
            )
        if step.target in self.config.inputs:
            given = {**given, step.target: holes}
            conditions = (*conditions, step.target)
        read, reads = _read(given, step, features, conditions)
        answers = self._write(
            self.state,
            read,
            keys,
            np.full(len(keys), step.temperature, np.float32),
            room,
            reads=reads,
            target=step.target,
            max_new_tokens=step.num_tokens or modality.length,
            start_id=start,
            eos_id=step.eos_id,
            top_k=step.top_k,
            top_p=step.top_p,
        )
        tokens = np.zeros((len(keys), modality.length), np.int32)
        lengths = []
        written = zip(np.asarray(answers.tokens), np.asarray(answers.lengths), strict=True)
        for row, (ids, length) in enumerate(written):
            merged = ids[:length].tolist()
            if step.sentinels:
                before = holes.tokens[row][holes.valid[row]].tolist()
                merged = spans.merge(before, [start, *merged], step.sentinels)
            # A sentinel that is known twice is filled twice.
            merged = merged[: modality.length]
            tokens[row, : len(merged)] = merged
            lengths.append(len(merged))
        return Known(tokens, np.arange(modality.length) < np.array(lengths)[:, None])

    def _placed(self, given, features, keys):
        """Rows spread over the model's mesh, if it has one and they divide among it."""
        if self._mesh is None:
            return dict(given), features, keys
        arrays, tree = jax.tree.flatten((dict(given), dict(features), keys))
        return jax.tree.unflatten(tree, sharding.put_questions(arrays, self._mesh))


def _read(given, step: Step, features, conditions) -> tuple[_Read, tuple[tuple[str, ...], ...]]:
    """What a step reads, and the names of what each of its passes reads of it."""
    reads, weights = step.passes([name for name in conditions if name != step.target])
    # What is known of the target is read in every pass.
    own = tuple(name for name in conditions if name == step.target)
    values = {name: features[name] for name in conditions if name in features}
    known = {name: given[name] for name in conditions}
    return (
        _Read(known, values, np.array(weights, np.float32)),
        tuple((*read, *own) for read in reads),
    )


def _numbers(step: Step, valid: np.ndarray) -> Steps:
    """What each sample does in each step, by how much of its own image is missing."""
    tokens = np.sum(~valid, axis=1)
    if step.num_tokens is not None:
        tokens = np.minimum(tokens, step.num_tokens)
    shape = (step.num_steps or max(1, int(np.max(tokens))), len(tokens))
    counts, heat = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    kind = step.token_schedule if step.scheme == "maskgit" else "linear"
    for row, count in enumerate(tokens.tolist()):
        if count:
            schedule = token_schedule(kind, step.num_steps or count, count)
            counts[: len(schedule), row] = schedule
            heat[: len(schedule), row] = temperatures(
                step.temperature_schedule, step.temperature, schedule
            )
    return Steps(counts, heat)


def _with_hole(before: Known | None, step: Step, batch: int) -> Known:
    """What is known of a sequence; where sentinels mark holes, nothing known is one hole."""
    if before is None or not before.tokens.shape[1]:
        before = Known(np.zeros((batch, 1), np.int32), np.zeros((batch, 1), bool))
    tokens, valid = np.array(before.tokens), np.array(before.valid)
    if step.sentinels:
        empty = ~valid.any(axis=1)
        tokens[empty, 0], valid[empty, 0] = step.start_id, True
    return Known(tokens, valid)
