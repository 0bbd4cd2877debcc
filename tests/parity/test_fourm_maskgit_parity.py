"""Greedy MaskGIT agrees with apple/ml-4m on every recorded set that has images it made.

The peer's greedy sampling keeps the most probable token alone, so that it is equally sure of all,
and keeps of them those that torch.topk happens to put first. That order is taken from torch.
"""

import pathlib
from typing import NamedTuple

import agreement
import fourm_agreement
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from medjax.checkpoints import tensors
from medjax.decoding.fourm import Known, features_of, images, passes
from medjax.decoding.fourm.schedules import cosine_schedule

SCALE = 2.0  # of the guided images; no array says it


class Case(NamedTuple):
    folder: pathlib.Path
    name: str
    target: str

    def __str__(self) -> str:
        return f"{agreement.label(self.folder)}-{self.name}"


def cases() -> list[Case]:
    found = []
    for folder in fourm_agreement.recorded_sets():
        with np.load(folder / "io.npz") as io:
            keys = [key.split("/") for key in io if key.startswith("generate/maskgit")]
        found += [Case(folder, *key[1:]) for key in keys if key[2] != "tokens_per_step"]
    return found


def topk_order(schedule) -> np.ndarray:
    """The ranks that torch.topk gives to tokens of which it is equally sure."""
    length = int(sum(schedule))
    order = np.full((len(schedule), length), length)
    left = length
    for step, count in enumerate(schedule):
        first = torch.topk(torch.ones(1, left), int(count))[1][0].numpy()
        order[step, first] = np.arange(count)
        left -= int(count)
    return order


def test_there_are_cases():
    assert cases(), f"no images of a 4M model under {agreement.REFERENCE}"


@pytest.mark.parametrize("case", cases(), ids=str)
def test_images(case):
    checkpoint, batch = fourm_agreement.open_set(case.folder)
    config = checkpoint.config
    with np.load(case.folder / "io.npz") as io:
        wanted = io[f"generate/{case.name}/{case.target}"]
        schedule = io[f"generate/{case.name}/tokens_per_step"].tolist()
    # They are made from the whole picture, and guided away from nothing.
    (name,) = batch.features
    known = {name: features_of(config.modality(name), len(wanted))}
    reads, weights = [(name,)], []
    if "guided" in case.name:
        reads, weights = [(), (name,)], [SCALE]
    packed = passes.build(config, known, batch.features, reads, jnp.array(weights), {}, len(wanted))
    graphdef, state = nnx.split(tensors.build(checkpoint))
    nothing = Known(np.zeros(wanted.shape, np.int32), np.zeros(wanted.shape, bool))
    counts = np.tile(np.array(schedule)[:, None], (1, len(wanted)))
    steps = images.Steps(counts, np.zeros(counts.shape, np.float32))
    keys = jax.random.split(jax.random.key(0), len(wanted))

    @jax.jit
    def run(state):
        return images.maskgit(
            nnx.merge(graphdef, state), packed, case.target, nothing, keys, steps,
            order=topk_order(schedule),
        )  # fmt: skip

    with jax.default_matmul_precision("highest"):
        found = run(state)
    assert found.valid.all()
    np.testing.assert_array_equal(found.tokens, wanted)
    assert len(np.unique(wanted)) > 2


@pytest.mark.parametrize("case", cases(), ids=str)
def test_schedule(case):
    with np.load(case.folder / "io.npz") as io:
        schedule = io[f"generate/{case.name}/tokens_per_step"]
    own = cosine_schedule(len(schedule), int(schedule.sum()))
    np.testing.assert_array_equal(own, schedule)
