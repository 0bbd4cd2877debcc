"""MaskGIT against a loop that is written out, step by step and without padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.decoding import fourm_maskgit
from medjax.decoding.fourm_maskgit import Guidance, cosine_schedule, linear_schedule, without
from medjax.errors import UserError
from medjax.models.fourm import DecoderInput, EncoderInput, FourM, FourMConfig, Modality

CONFIG = FourMConfig(
    width=16, encoder_depth=1, decoder_depth=1, num_heads=2,
    modalities=(
        Modality("report", "sequence", 17, max_length=8),
        Modality("tok", "image_tokens", 40, image_size=12, patch_size=4),
        Modality("scan", "image_tokens", 9, image_size=8, patch_size=4),
    ),
    inputs=("report", "tok"), targets=("report", "tok", "scan"),
)  # fmt: skip
REPORT = EncoderInput(
    np.array([[5, 9, 2, 0], [11, 3, 16, 4]], np.int32),
    np.array([[0, 1, 2, 0], [0, 1, 2, 3]], np.int32),
    np.zeros((2, 4), np.int32),
    np.array([[True, True, True, False], [True] * 4]),
)
SCHEDULE = (4, 5)


@pytest.fixture(scope="module")
def model() -> FourM:
    model = nnx.eval_shape(lambda: FourM(CONFIG, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        shape = variable.get_value().shape
        # What all places have in common is small, or they would get the same token.
        size = 0.5 if path[-1] == "kernel" or "embed_tokens" in path else 0.05
        value = size * rng.standard_normal(shape) + (path[-1] == "scale")
        variable.set_value(jnp.asarray(value, jnp.float32))
    return model


def run(model, schedule=SCHEDULE, inputs=REPORT, **kwargs) -> np.ndarray:
    graphdef, state = nnx.split(model)

    @jax.jit
    def generate(state):
        model = nnx.merge(graphdef, state)
        return fourm_maskgit.maskgit(model, inputs, "tok", schedule, **kwargs)

    return np.asarray(generate(state))


def logits(model, tokens: dict[int, int], *, report: bool = True):
    """For the first sample, of the places that are not in `tokens`: of these alone."""
    words = REPORT.valid[0] if report else np.array([True, False, False, False])
    places = sorted(tokens)
    left = [place for place in range(9) if place not in tokens]
    ids = [*REPORT.tokens[0][words], *(tokens[place] for place in places)]
    positions = [*REPORT.positions[0][words], *places]
    modality = [0] * int(words.sum()) + [1] * len(places)
    # Without the report, its first word is there and not valid: something must be there.
    valid = np.array([[report] * int(words.sum()) + [True] * len(places)])
    encoder = EncoderInput(*(np.array([x], np.int32) for x in (ids, positions, modality)), valid)
    zeros = np.zeros((1, len(left)), np.int32)
    decoder = DecoderInput(zeros, zeros, np.array([left]), zeros + 1, zeros, zeros == 0)
    return left, np.asarray(model.logits(model.hidden(encoder, decoder), "tok"))[0]


def written_out(model, schedule, scale: float | None = None, ordered: bool = False) -> np.ndarray:
    """The first sample's tokens; `ordered`: row by row instead of the surest first."""
    tokens: dict[int, int] = {}
    for count in schedule:
        left, found = logits(model, tokens)
        if scale is not None:
            base = logits(model, tokens, report=False)[1]
            found = base + scale * (found - base)
        sure = found.max(axis=1) - np.log(np.exp(found).sum(axis=1))
        for i in np.arange(count) if ordered else np.argsort(-sure)[:count]:
            tokens[left[i]] = int(found[i].argmax())
    return np.array([tokens[place] for place in range(9)])


@pytest.mark.parametrize("scale", [None, 2.5])
def test_a_loop_written_out(model, scale):
    guidance = None if scale is None else Guidance(scale, without(REPORT, [0]))
    found = run(model, guidance=guidance)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[0], written_out(model, SCHEDULE, scale))
    assert len(np.unique(found)) > 2


def test_a_given_order(model):
    order = np.tile(np.arange(9), (2, 1))
    found = run(model, order=order)
    np.testing.assert_array_equal(found[0], written_out(model, SCHEDULE, ordered=True))
    assert not np.array_equal(found, run(model))


def test_guidance_of_one_is_none_and_others_are_not(model):
    plain = run(model)
    nothing = without(REPORT, [0])
    np.testing.assert_array_equal(run(model, guidance=Guidance(1.0, nothing)), plain)
    assert not np.array_equal(run(model, guidance=Guidance(2.5, nothing)), plain)
    np.testing.assert_array_equal(
        run(model, guidance=Guidance(0.0, nothing)), run(model, inputs=nothing)
    )


def test_steps_that_keep_nothing_change_nothing(model):
    np.testing.assert_array_equal(run(model, (0, 4, 0, 5, 0)), run(model))


def test_schedules():
    # 1, cos^2(pi / 8), 1/2 and sin^2(pi / 8) of 196 are left: 196, 167.3, 98, 28.7.
    assert cosine_schedule(4, 196) == (29, 69, 69, 29)
    assert cosine_schedule(1, 9) == (9,)
    assert linear_schedule(4, 10) == (3, 3, 2, 2)
    assert linear_schedule(20, 3) == (1, 1, 1)
    for steps in range(1, 40):
        for tokens in (1, 2, 5, 9, 196):
            for schedule in (cosine_schedule(steps, tokens), linear_schedule(steps, tokens)):
                assert sum(schedule) == tokens
                assert min(schedule) >= 0
    for schedule in (cosine_schedule, linear_schedule):
        with pytest.raises(UserError, match="0 steps for 9 tokens"):
            schedule(0, 9)


@pytest.mark.parametrize(
    ("target", "kwargs", "message"),
    [
        ("report", {}, "'report' is no image that .* those are tok"),
        ("scan", {}, "'scan' is no image that the model both reads and predicts"),
        ("tok", {"schedule": (4, 4)}, r"schedule \[4, 4\] does not add up to the 9 of 'tok'"),
        ("tok", {"schedule": (10, -1)}, r"schedule \[10, -1\] does not add up"),
        ("tok", {"order": np.zeros((1, 9))}, r"order has shape \(1, 9\); .* need \(2, 9\)"),
    ],
)
def test_what_cannot_be_made(model, target, kwargs, message):
    arguments = {"schedule": SCHEDULE, **kwargs}
    with pytest.raises(UserError, match=message):
        fourm_maskgit.maskgit(model, REPORT, target, **arguments)
