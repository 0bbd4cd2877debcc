"""When a figure has stopped to improve."""

import json

import jax.numpy as jnp
import pytest

from medjax import config as config_lib
from medjax.errors import UserError
from medjax.models.tokenizers import VQConfig
from medjax.pipelines.fit import check_stopping
from medjax.training.early_stopping import EarlyStopping, lower_is_better
from medjax.training.objective import Sums
from medjax.training.objectives.mask_codec import MaskReconstruction
from medjax.training.objectives.paligemma import Answers, Tokens
from medjax.training.objectives.quantization import _More


def stops_at(values, **kwargs) -> int | None:
    """The number of the value, from 1, at which training stops."""
    stopping = EarlyStopping(**kwargs)
    for number, value in enumerate(values, start=1):
        stopping.add(number, {stopping.metric: value})
        if stopping.reached:
            return number
    return None


@pytest.mark.parametrize(
    ("kwargs", "stop"),
    [
        (dict(patience=2), 6),  # of losses less is better: 1.0, 2.0 and 1.5 are
        (dict(patience=1), 3),
        (dict(patience=0), None),
        (dict(patience=4), None),
        (dict(patience=2, min_delta=0.9), 4),
        (dict(patience=2, mode="max"), 3),
        (dict(patience=2, metric="score"), 3),
        (dict(patience=2, metric="score", mode="min"), 6),
    ],
)
def test_stops_after_so_many_without_improvement(kwargs, stop):
    # Equal is no improvement.
    assert stops_at([3.0, 2.0, 2.5, 1.5, 1.5, 1.6, 1.4], **kwargs) == stop


def test_what_is_no_number_is_no_improvement():
    nan = float("nan")
    assert stops_at([nan, 2.0, nan, 1.0, nan, nan], patience=2) == 6
    assert stops_at([nan, nan], patience=2) == 2


def test_it_goes_on_from_its_state():
    values = [0.1, 0.3, 0.2, 0.3000001, 0.25]
    whole = EarlyStopping("score", patience=9)
    for cut in range(len(values)):
        first, second = EarlyStopping("score", patience=9), EarlyStopping("score", patience=9)
        for step, value in enumerate(values[:cut]):
            first.add(step, {"score": value})
        second.set_state(json.loads(json.dumps(first.state())))
        for step, value in enumerate(values[cut:], start=cut):
            second.add(step, {"score": value})
        if cut == 0:
            whole = second
        assert second.state() == whole.state() == {"best": 0.3000001, "step": 3, "since": 1}


@pytest.mark.parametrize("metric", ["loss", "loss/report", "reconstruction", "edit_distance"])
def test_losses_are_to_fall(metric):
    assert lower_is_better(metric)
    assert not lower_is_better(metric, "max")


@pytest.mark.parametrize("metric", ["score", "exact_match", "iou", "token_f1", "perplexity", "use"])
def test_scores_are_to_rise(metric):
    assert not lower_is_better(metric)
    assert lower_is_better(metric, "min")


def test_what_cannot_be_is_told_of_before_training():
    config = config_lib.defaults()
    config.eval_every = 10
    config.early_stopping.metric = "score"
    check_stopping("one", config, ("loss", "score"), [1])
    with pytest.raises(UserError, match=r"one: early_stopping.metric is 'score'.*name one of loss"):
        check_stopping("one", config, ("loss",), [1])
    check_stopping("one", config, ("loss",), None)  # nothing is validated, and nothing stops
    config.early_stopping.patience = 2
    with pytest.raises(UserError, match="patience is 2, but nothing is validated"):
        check_stopping("one", config, ("loss", "score"), None)


def test_objectives_know_the_names_of_their_figures():
    one = jnp.float32(1)
    answers = Answers()
    assert set(answers.figures(Sums(one, one, Tokens(one, one)))) - {"tokens"} == {*answers.names}
    codec = MaskReconstruction("mask", VQConfig(128, 512, "l2"))
    assert set(codec.figures(Sums(one, one, _More(one, one, jnp.ones(4))))) == {*codec.names}
