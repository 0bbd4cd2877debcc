"""Results by what is known of the examples, and by metrics of whole sets."""

import dataclasses
import json

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from medjax.errors import UserError
from medjax.evaluation import bootstrap, breakdown, pages, table
from medjax.evaluation.predictions import Prediction, scored

WORDS = ("no", "small", "large", "cyst", "in", "the", "left", "right", "kidney", "liver")


@pytest.fixture(scope="module")
def predictions():
    rng = np.random.default_rng(0)

    def text(words):
        return " ".join(rng.choice(WORDS, words))

    made = []
    for i in range(60):
        truth = text(rng.integers(1, 12)) if i % 3 else "yes"
        generated = truth if i % 4 == 0 else f"{truth} {text(2)}" if i % 4 == 1 else text(5)
        extra = {"modality": ["CT", "MR", "XR"][i % 3], "plane": ["axial", None, 7][i % 3]}
        task = "caption" if i % 3 == 2 else "vqa"
        made.append(
            Prediction(f"q{i}", f"i{i}", "what?", generated, truth, task, f"p{i % 9}", extra=extra)
        )
    return scored(made, ["all"])


@pytest.fixture(scope="module")
def results(predictions):
    worse = scored([dataclasses.replace(p, generated="no cyst") for p in predictions], ["all"])
    systems = {"worse": worse, "model": predictions}
    return table.results(systems, metrics=["all"], by=["modality", "answer_length"], samples=400)


def row(rows, task, metric):
    [found] = [row for row in rows if (row.task, row.metric) == (task, metric)]
    return found


def test_each_value_has_the_results_of_its_examples(results, predictions):
    chosen = [p for p in predictions if p.extra["modality"] == "MR"]
    values, groups = [p.scores["rouge_l"] for p in chosen], [p.group for p in chosen]
    found = row(results.by["modality"], "MR", "rouge_l")
    assert (found.questions, found.groups) == (20, 9 // 3)
    estimate = found.estimates["model"]
    assert estimate.value == pytest.approx(np.mean(values))
    assert (estimate.low, estimate.high) == pytest.approx(
        bootstrap.interval(values, groups, samples=400)
    )
    assert [r.task for r in results.by["modality"] if r.metric == "exact_match"] == [
        "CT",
        "MR",
        "XR",
    ]


def sacrebleu(chosen):
    made, true = [p.generated for p in chosen], [p.truth for p in chosen]
    return BLEU(lowercase=True).corpus_score(made, [true]).score / 100


def test_bleu_is_of_the_set_and_its_interval_of_drawn_sets(predictions):
    chosen = [p for p in predictions if p.truth != "yes"]
    groups = list(dict.fromkeys(p.group for p in chosen))
    drawn = [
        sacrebleu([p for i in places for p in chosen if p.group == groups[i]])
        for places in np.random.default_rng(0).integers(len(groups), size=(40, len(groups)))
    ]
    found = table.results({"model": predictions}, metrics=["bleu_4"], samples=40)
    estimate = row(found.totals, table.OVERALL, "bleu_4").estimates["model"]
    assert estimate.value == pytest.approx(sacrebleu(chosen))
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert "bleu_4" not in chosen[0].scores


def test_differences_of_sets_are_paired(results):
    found = row(results.totals, table.OVERALL, "bleu_4")
    gain = found.differences["worse"]
    assert gain.value == pytest.approx(
        found.estimates["model"].value - found.estimates["worse"].value
    )
    assert gain.low < gain.value < gain.high


def test_everything_is_said_everywhere(results):
    loaded = json.loads(json.dumps(results.to_dict(), allow_nan=False))
    assert set(loaded["by"]) == {"modality", "answer_length"}
    assert loaded["by"]["modality"]["CT"]["closed_accuracy"]["questions"] == 20
    assert {"exact_match", "cider", "bleu_1", "repetition"} <= set(loaded["overall"])
    assert "cider" in loaded["tasks"]["caption"]
    markdown = results.to_markdown()
    assert "### By answer length\n\n| answer length | metric |" in markdown
    assert "CIDEr-D 0 to 10" in results.note
    assert "Less is better: repetition." in results.note
    text = results.to_text().splitlines()
    rule = text[1]
    assert text[text.index(rule, 2) + 1].startswith("overall")
    page = pages.results_table(results)
    assert page.count("<details") == page.count("</details>") == 2
    assert page.count('<p class="note">') == 1


def test_lengths_are_in_order_and_of_the_true_answer(results, predictions):
    shown = list(dict.fromkeys(r.task for r in results.by["answer_length"]))
    assert shown == ["1 word", "2 to 3 words", "4 to 7 words", "8 to 15 words"]
    assert breakdown.label(dataclasses.replace(predictions[0], truth="a b c"), "answer_length") == (
        "2 to 3 words"
    )
    long = dataclasses.replace(predictions[0], truth="a " * 64)
    assert breakdown.label(long, "answer_length") == "64 words or more"


def test_rare_values_are_one_and_unknown_ones_are_last():
    examples = [
        Prediction(str(i), "i", "?", "", "", "t", "g", extra={"location": f"place {j}"})
        for j in range(25)
        for i in range(j + 1)
    ]
    examples += [dataclasses.replace(examples[0], extra=e) for e in ({}, {"location": ""})]
    labels, shown = breakdown.labels(examples, "location")
    assert shown == [f"place {j}" for j in range(24, 4, -1)] + ["other", "not known"]
    assert labels.count("other") == 1 + 2 + 3 + 4 + 5
    assert labels.count("not known") == 2


def test_labels_are_texts():
    of = Prediction("q", "i", "?", "", "", "plane", "g", extra={"cuis": ["C1", "C2"], "n": 0})
    assert [breakdown.label(of, key) for key in ("cuis", "n", "x", "task", "answer_length")] == [
        "C1, C2", "0", "not known", "plane", "not known"
    ]  # fmt: skip


def test_keys_that_no_example_has_are_told_of():
    breakdown.check(["task", "answer_length", "plane"], [{"plane": 1}, {"seen": "unseen"}])
    with pytest.raises(UserError, match=r"'sex'.*answer_length, plane, seen"):
        breakdown.check(["sex"], [{"plane": 1}, {"seen": "unseen"}])


def test_results_without_them_are_as_before(predictions):
    plain = table.results({"model": scored(predictions, ["basic"])})
    assert (plain.totals, plain.by) == ((), {})
    assert "by" not in plain.to_dict()
    assert list(plain.to_dict()["overall"]) == ["exact_match"]
    assert "Not from 0 to 1" not in plain.note
