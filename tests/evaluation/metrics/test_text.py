"""n-gram metrics against the libraries that they come from, on the same answers."""

import dataclasses

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from medjax.errors import UserError
from medjax.evaluation import metrics
from medjax.evaluation.metrics import catalogue, text
from medjax.evaluation.predictions import Prediction

PAIRS = [
    ("A small cyst in the left kidney.", "There is a small cyst in the upper left kidney."),
    ("axial CT of the chest, with contrast", "Axial CT of the chest with contrast"),
    ("cec. cec. cec.", "A mass of the cecum, 3.5 cm in size."),
    ("", "No fracture."),
    ("Fluid-attenuated (FLAIR) image at the level of the ventricles", "T2-weighted image"),
    ("yes", "yes"),
    ("the the the the", "the liver & the spleen"),
]


def said(pairs, **extra):
    return [
        Prediction(f"q{i}", "i", "caption en", made, true, "caption", "g", extra=extra)
        for i, (made, true) in enumerate(pairs)
    ]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[:3], PAIRS[2:4], PAIRS[5:6], PAIRS[3:4]])
def test_bleu_of_a_set_is_sacrebleus(n, pairs):
    groups = np.arange(len(pairs)) // 2
    made, true = zip(*pairs, strict=True)
    official = BLEU(lowercase=True, max_ngram_order=n).corpus_score(made, [true]).score / 100
    [value] = text.bleu(n, said(pairs), groups)(np.ones((1, groups[-1] + 1)))
    assert value == pytest.approx(official)


def test_bleu_of_a_resampled_set_is_that_of_the_answers_in_it():
    groups = np.array([0, 0, 1, 1, 2, 2, 3])
    counts = np.array([[2, 0, 1, 1], [0, 3, 1, 0]], float)
    values = text.bleu(4, said(PAIRS), groups)(counts)
    for value, of_set in zip(values, counts, strict=True):
        pairs = [p for p, g in zip(PAIRS, groups, strict=True) for _ in range(int(of_set[g]))]
        made, true = zip(*pairs, strict=True)
        official = BLEU(lowercase=True).corpus_score(made, [true]).score / 100
        assert value == pytest.approx(official)


def test_chinese_is_cut_into_characters():
    answers = said([("左侧肺部的肿块很大", "左侧肺部的肿块")], language="zh")
    [value] = text.bleu(4, answers, np.zeros(1, int))(np.ones((1, 1)))
    official = BLEU(tokenize="zh").corpus_score(["左侧肺部的肿块很大"], [["左侧肺部的肿块"]]).score
    assert value == pytest.approx(official / 100)
    assert text.rouge_l("左侧肺部", "左侧") == pytest.approx(2 * 2 / 6)


def test_rouge_l_is_rouge_scores():
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    for made, true in PAIRS:
        assert text.rouge_l(made, true) == pytest.approx(
            scorer.score(true, made)["rougeL"].fmeasure
        )


def test_cider_is_pycocoevalcaps():
    from pycocoevalcap.cider.cider import Cider

    pairs = [*PAIRS, *((PAIRS[i][0], PAIRS[i - 1][1]) for i in range(len(PAIRS)))]
    words = [[" ".join(metrics.kinds.tokens(t)) for t in pair] for pair in pairs]
    made = {i: [pair[0]] for i, pair in enumerate(words)}
    true = {i: [pair[1]] for i, pair in enumerate(words)}
    mean, each = Cider().compute_score(true, made)
    values = text.cider(said(pairs))
    np.testing.assert_allclose(values, each, atol=1e-12)
    assert np.mean(values) == pytest.approx(mean)
    assert max(values) > 0.5


def test_cider_of_sets_without_words():
    assert text.cider(said([("a", "")])) == [0.0]
    assert text.cider(said([("", "liver")])) == [0.0]


def test_edit_similarity_by_hand():
    assert text.edit_similarity("Kitten ", "sitting") == pytest.approx(1 - 3 / 7)
    assert text.edit_similarity("", "") == 1.0
    assert text.edit_similarity("", "x") == 0.0


def test_values_of_a_set_go_to_the_answers_that_have_them():
    answers = said(PAIRS)
    answers.insert(
        2, dataclasses.replace(answers[0], id="closed", task="", question="?", truth="no")
    )
    scores = metrics.score_all(answers, ["cider", "length"])
    assert list(scores[2]) == ["length"]
    values = [score["cider"] for i, score in enumerate(scores) if i != 2]
    np.testing.assert_allclose(values, text.cider(said(PAIRS)))


def test_basic_is_the_default_and_needs_no_library(monkeypatch):
    def missing(name):
        raise ImportError(name)

    text.library.cache_clear()
    monkeypatch.setattr(text.importlib, "import_module", missing)
    metrics.check(["basic", "vqa", "degeneration", "detection"])
    [scores] = metrics.score_all(said(PAIRS[:1]))
    assert list(scores) == ["exact_match", "token_f1"]
    with pytest.raises(UserError, match=r"sacrebleu.*\.\[eval\]"):
        metrics.check(["all"])
    with pytest.raises(UserError, match=r"rapidfuzz.*\.\[eval\]"):
        metrics.check(["edit_similarity"])


def test_unknown_metrics_are_named():
    with pytest.raises(UserError, match=r"no metric 'bleu'.*text.*bleu_1"):
        metrics.check(["bleu"])
    with pytest.raises(UserError, match="No metric"):
        metrics.check([])


def test_each_entry_has_one_way_to_be_computed():
    for metric in catalogue.METRICS.values():
        assert sum(way is not None for way in (metric.each, metric.together, metric.corpus)) == 1
    assert [m.name for m in metrics.chosen(["iou", "basic"])] == [
        "exact_match", "token_f1", "iou", "dice"
    ]  # fmt: skip
    assert set(catalogue.GROUPS) == {"basic", "vqa", "text", "detection", "degeneration", "all"}
