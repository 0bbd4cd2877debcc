"""What a step cannot be, and what a model cannot do, is said by name."""

import re

import numpy as np
import pytest

from medjax.decoding.fourm import Generator, Known, Step
from medjax.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheme": "magic"}, "'tok': scheme 'magic' is none of maskgit, roar, autoregressive"),
        ({"start_id": 3}, "start_id 3 means nothing to scheme 'maskgit', only to autoregressive"),
        ({"scheme": "roar", "token_schedule": "linear"}, "token_schedule 'linear' means nothing"),
        ({"scheme": "autoregressive"}, "start_id is missing"),
        ({"scheme": "autoregressive", "start_id": 1, "num_steps": 4}, "num_steps 4 means nothing"),
        ({"num_tokens": 0}, "num_tokens 0 must be at least 1"),
        ({"num_steps": 0}, "num_steps 0 must be at least 1"),
        ({"top_k": 0}, "top_k 0 must be at least 1"),
        ({"top_p": 0.0}, r"top_p 0.0 is not in \(0, 1\]"),
        ({"temperature": -1.0}, "temperature -1.0 must be a number, 0 at least"),
        ({"temperature_schedule": "falling"}, "temperature schedule 'falling' is none of"),
        ({"token_schedule": "square"}, "token_schedule 'square' is none of cosine, linear"),
        ({"guidance": float("nan")}, "guidance nan must be a number"),
        ({"guidance": {}}, "guidance {} must be a number"),
    ],
)
def test_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Step("tok", **settings)


TEXT = {"scheme": "autoregressive", "start_id": 5}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("photo"), "'photo' is no target of the model; those are report, tok, scan, tok@16"),
        (Step("tok_rgb"), "'tok_rgb' is no target of the model"),
        (Step("report"), "scheme 'maskgit' cannot make 'report' (sequence); choose autoregressive"),
        (Step("tok", **TEXT), "cannot make 'tok' (image_tokens); choose maskgit, roar"),
        (Step("scan"), "the model does not read 'scan'"),
        (Step("tok", num_tokens=10), "num_tokens 10 is more than the 9 of 'tok'"),
        (Step("report", num_tokens=9, **TEXT), "num_tokens 9 is more than the 8 of 'report'"),
        (Step("report", **TEXT | {"start_id": 17}), "start_id 17 is beyond the vocabulary"),
        (
            Step("tok", conditions=("report", "tok@16")),
            "condition 'tok@16' is absent: it is neither given nor made by an earlier step; there "
            "is report, tok, photo, prior",
        ),
        (Step("tok", conditions=("tok",)), "condition 'tok' is the target itself"),
        (
            Step("tok", conditions=("report",), guidance=2.0, unconditional=("photo",)),
            "'photo' has a part in guidance and is no condition; those are report",
        ),
        (Step("tok", guidance={"tok@16": 2.0}), "'tok@16' has a part in guidance"),
        (
            Step("tok", conditions=("report", "photo"), guidance={"photo": 2.0}),
            "condition 'report' must either have a weight in guidance or be unconditional",
        ),
        (
            Step(
                "tok", conditions=("photo",), guidance={"photo": 2.0}, unconditional=("photo",)
            ),
            "condition 'photo' must either",
        ),
    ],
)  # fmt: skip
def test_what_the_model_cannot_do(generator, known, features, step, message):
    with pytest.raises(UserError, match=re.escape(message)):
        generator(known, [step], features=features)


def test_all_steps_are_checked_before_the_first(generator, known, features, monkeypatch):
    monkeypatch.setattr(generator, "step", lambda *_, **__: pytest.fail("a step was done"))
    good, bad = Step("tok@16"), Step("tok", conditions=("scan",))
    with pytest.raises(UserError, match=r"'scan' is absent: .* there is .*, tok@16$"):
        generator(known, [good, bad], features=features)


IDS = np.zeros((2, 9), np.int32)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "there must be a modality"),
        ({"depth": Known(IDS, IDS > 0)}, "'depth' is none of report, tok"),
        ({"tok": Known(IDS[:, :8], IDS[:, :8] > 0)}, r"both must be \[batch, 9\]"),
        ({"tok": Known(IDS, IDS[:1] > 0)}, r"tokens \(2, 9\) and valid \(1, 9\)"),
        ({"report": Known(IDS, IDS > 0)}, r"both must be \[batch, at most 8\]"),
        ({"tok": Known(IDS + 40, IDS == 0)}, "'tok' has id 40 in sample 0, at 0; .* ends at 39"),
        (
            {"tok": Known(IDS, IDS > 0), "report": Known(IDS[:1, :3], IDS[:1, :3] > 0)},
            "as many samples of each as of others: {'tok': 2, 'report': 1}",
        ),
    ],
)
def test_what_cannot_be_given(generator, given, message):
    with pytest.raises(UserError, match=message):
        generator(given, [Step("tok")])


def test_features_that_are_missing(generator, known):
    with pytest.raises(UserError, match="no features of modality 'photo'"):
        generator(known, [Step("tok", conditions=("photo",), num_steps=2)])


def test_ids_that_are_not_there_may_be_anything(generator):
    given = {"tok": Known(IDS - 1, IDS > 0)}
    found = generator(given, [Step("tok", num_steps=3, temperature=0.0)])["tok"]
    assert (found.tokens >= 0).all()


def test_blanks_are_of_sequences(model):
    with pytest.raises(UserError, match="blanks: 'tok' is no sequence that the model reads"):
        Generator(model, blanks={"tok": 3})
