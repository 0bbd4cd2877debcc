"""From a config's words to a masking scheme: who takes part, mixtures, and every mistake."""

import pytest
from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax.config import fourm
from medjax.errors import UserError
from medjax.modalities.table import Modality
from medjax.models.fourm import FourMConfig
from medjax.training.masking_schemes import make_scheme

SCAN = Modality("scan", "patches", image_size=8, patch_size=4, channels=1)
ORGAN = Modality(
    "organ", "image_tokens", 11, image_size=12, patch_size=4, min_tokens=2, target_alphas=(0.5,)
)
REPORT = Modality("report", "sequence", 30, max_length=8, content="text", keep=("all",))
POSE = Modality("pose", "sequence_tokens", 11, max_length=5)
MODEL = FourMConfig(
    16, 1, 1, 2, (SCAN, ORGAN, REPORT, POSE), ("scan", "organ", "report"),
    ("organ", "report", "pose"),
)  # fmt: skip
NAMES = MODEL.names


def scheme(names=NAMES, masking=None, **source):
    config = config_lib.defaults("fourm").masking
    config.update({"input_tokens": (4, 6), "target_tokens": (2, 8), **(masking or {})})
    spec = ConfigDict({**fourm.FAMILY.source, **source})
    return make_scheme("fourm: data.train.own", spec, config, MODEL, names, range(5, 11))


def test_who_takes_part():
    found = scheme()
    sizes = [(m.name, m.kind, m.max_tokens, m.min_tokens) for m in found.modalities]
    assert sizes == [
        ("scan", "image", 4, 0), ("organ", "image", 9, 2), ("report", "sequence", 8, 0),
        ("pose", "sequence", 5, 0),
    ]  # fmt: skip
    # What the model does not predict is no target, and what it does not read no input.
    assert [m.input_alphas for m in found.modalities] == [(1.0,), (1.0,), (1.0,), (0.0,)]
    assert [m.target_alphas for m in found.modalities] == [(0.0,), (0.5,), (1.0,), (1.0,)]
    assert [m.keep for m in found.modalities] == [(), (), ("all",), ()]
    assert (found.input_tokens, found.target_tokens) == ((4, 6), (2, 8))
    assert found.packed_lengths == (6, 8)
    assert found.sentinels == (5, 6, 7, 8, 9, 10)
    assert found.weights is None


def test_a_source_may_have_some_of_the_modalities():
    found = scheme(["report", "organ"])
    assert [m.name for m in found.modalities] == ["organ", "report"]  # in the model's order


def test_a_source_says_what_it_wants_different():
    found = scheme(
        input_tokens=(1, 3), input_alphas={"organ": [2, 0.25]}, target_alphas={"report": (0.0,)},
        keep={"report": ("random", "binary")}, mixture=(1, 3),
        masking={"encoder_length": 5, "decoder_length": 10},
    )  # fmt: skip
    scan, organ, report, pose = found.modalities
    assert found.weights == (1.0, 3.0)
    assert found.components == 2
    assert (organ.input_alphas, organ.target_alphas) == ((2.0, 0.25), (0.5, 0.5))
    assert (scan.input_alphas, scan.target_alphas) == ((1.0, 1.0), (0.0, 0.0))
    assert (report.target_alphas, report.keep) == ((0.0, 0.0), ("random", "binary"))
    assert (pose.input_alphas, pose.keep) == ((0.0, 0.0), ())
    assert (found.input_tokens, found.target_tokens) == ((1, 3), (2, 8))
    assert found.packed_lengths == (5, 10)


def test_alphas_of_what_the_model_does_not_read_stay_zero():
    found = scheme(input_alphas={"pose": (3.0,)}, target_alphas={"scan": (3.0,)})
    assert (found.modalities[3].input_alphas, found.modalities[0].target_alphas) == ((0,), (0,))


MISTAKES = {
    "no such modality": (
        {"input_alphas": {"scam": (1.0,)}}, "input_alphas: scam is none of .* scan, organ, report"
    ),
    "not of the samples": (
        {"names": ("scan", "organ"), "keep": {"report": ("all",)}}, "keep: report is none of"
    ),
    "one number": ({"input_alphas": {"organ": 2.0}}, "input_alphas.organ is 2.0; .* be a list"),
    "one word": ({"keep": {"report": "all"}}, "keep.report is 'all'; it must be a list"),
    "words": ({"input_alphas": {"organ": ("x",)}}, r"input_alphas.organ is \('x',\); .* numbers"),
    "lengths": (
        {"input_alphas": {"organ": (1.0, 2.0)}, "target_alphas": {"report": (1.0, 2.0, 3.0)}},
        "different lengths: input_alphas.organ has 2, target_alphas.report has 3",
    ),
    "mixture's length": (
        {"input_alphas": {"organ": (1.0, 2.0)}, "mixture": (1, 1, 1)},
        "mixture has 3, input_alphas.organ has 2",
    ),
    "keep's length": (
        {"keep": {"report": ("all", "random")}, "mixture": (1, 1, 1)},
        "mixture has 3, keep.report has 2",
    ),
    "none at all": ({"input_alphas": {"organ": ()}}, "modality 'organ': input_alphas"),
    "misspelt keep": ({"keep": {"report": ("some",)}}, "keep .*'some'.* none of random, all"),
    "negative": ({"input_alphas": {"organ": (-1.0,)}}, "alpha -1.0 is neither 0 nor within"),
    "negative weight": ({"mixture": (1, -1)}, r"weights \(1.0, -1.0\)"),
    "nothing to read": (
        {"input_alphas": {"scan": (0,), "organ": (0,), "report": (0,)}, "input_tokens": (0, 3)},
        "input_alphas of component 0 are all zero",
    ),
    "nothing to predict": (
        {"names": ("scan",), "target_tokens": (0, 2)}, "target_alphas of component 0 are all zero"
    ),
    "downwards": ({"input_tokens": (4, 2)}, r"input_tokens is \(4, 2\); .* least and the greatest"),
    "alone": ({"input_tokens": (4,)}, r"input_tokens is \(4,\); it must be"),
    "in parts": ({"target_tokens": (1, 2.5)}, r"target_tokens is \(1, 2.5\); it must be"),
    "below zero": ({"target_tokens": (-1, 2)}, r"target_tokens is \(-1, 2\); it must be"),
    "zero": ({"target_tokens": (0, 0)}, r"target_tokens is \(0, 0\); it must be"),
    # 4 + 9 + 8 to read, and 9 + 8 + 5 to predict.
    "beyond what there is": (
        {"input_tokens": (22, 30)}, "input_tokens .* more than the 21 tokens .* for the input"
    ),
    "beyond the targets": (
        {"target_tokens": (23, 23)}, "target_tokens .* more than the 22 tokens .* for the target"
    ),
    "beyond the model": (
        {"input_tokens": (4, 22)}, "input_tokens 22 is more than the 21 tokens of all .* the input"
    ),
    "targets beyond the model": (
        {"names": ("organ",), "target_tokens": (2, 23)},
        "target_tokens 23 is more than the 22 tokens of all that the model has for the target",
    ),
    "a length beyond the model": (
        {"masking": {"decoder_length": 23}}, "decoder_length 23 is more than the 22 tokens of all"
    ),
    "beyond the packed length": (
        {"masking": {"encoder_length": 5}},
        r"input_tokens \(4, 6\) is more than masking.encoder_length 5",
    ),
    "beyond the decoder's": (
        {"masking": {"decoder_length": 7}}, "target_tokens .* masking.decoder_length 7"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    changes, message = MISTAKES[name]
    with pytest.raises(UserError, match=message) as error:
        scheme(**changes)
    assert str(error.value).startswith("fourm: data.train.own")


def test_a_sequence_needs_sentinels_of_its_vocabulary():
    spec, config = ConfigDict(fourm.FAMILY.source), config_lib.defaults("fourm").masking
    config.input_tokens = config.target_tokens = (4, 6)
    with pytest.raises(UserError, match="'report': 8 tokens can take 5 sentinels, and there are 4"):
        make_scheme("here", spec, config, MODEL, NAMES, range(4))
    with pytest.raises(UserError, match=r"'pose' has a vocabulary of 11, .* go up to 11; its"):
        make_scheme("here", spec, config, MODEL, NAMES, range(5, 12))
