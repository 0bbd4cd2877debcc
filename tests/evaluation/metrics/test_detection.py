"""Average precision against pycocotools; masks."""

import contextlib
import io

import numpy as np
import pytest

from medjax.data.loc_tokens import LOC_TOKENS, decode_boxes
from medjax.evaluation.metrics import masks
from medjax.evaluation.metrics.catalogue import METRICS
from medjax.evaluation.predictions import Prediction

LABELS = ("lung", "liver", "heart")


def answers(seed, images, most=3):
    """Boxes, and guesses that are moved, missing, too many, or of another label."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(images):
        boxes, guesses = [], []
        for _ in range(rng.integers(0, most + 1)):
            low = rng.integers(0, 600, 2)
            box = np.concatenate([low, low + rng.integers(50, 400, 2)])
            label = LABELS[rng.integers(2)]
            boxes.append((box, label))
            for _ in range(rng.integers(0, max(most, 2))):
                moved = np.clip(box + rng.integers(-40, 40, 4), 0, 1023)
                guesses.append((moved, LABELS[rng.integers(3)] if rng.random() < 0.2 else label))
        texts = [
            " ; ".join("".join(LOC_TOKENS[c] for c in box) + f" {label}" for box, label in objects)
            for objects in (guesses, boxes)
        ]
        confidence = float(np.log(rng.integers(1, 6) / 6))  # some are equal
        made.append(
            Prediction(
                f"q{i}", f"i{i}", "detect", *texts, "detection", f"g{i}",
                log_prob=confidence, log_prob_per_token=confidence,
            )
        )  # fmt: skip
    return made


def pycoco(predictions):
    """mAP at 0.5:0.95 and at 0.5 by pycocotools; boxes of fractions times 1000."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def entries(of):
        for i, prediction in enumerate(predictions):
            for (y1, x1, y2, x2), label in decode_boxes(getattr(prediction, of)):
                bbox = [1000 * x for x in (x1, y1, x2 - x1, y2 - y1)]
                entry = {"image_id": i + 1, "category_id": LABELS.index(label) + 1, "bbox": bbox}
                yield entry | {"area": bbox[2] * bbox[3], "iscrowd": 0}

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i + 1} for i in range(len(predictions))],
            "categories": [{"id": i + 1, "name": label} for i, label in enumerate(LABELS)],
            "annotations": [e | {"id": i + 1} for i, e in enumerate(entries("truth"))],
        }
        truth.createIndex()
        guesses = [
            e | {"score": predictions[e["image_id"] - 1].confidence} for e in entries("generated")
        ]
        evaluation = COCOeval(truth, truth.loadRes(guesses), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:2]


def of_sets(name, predictions, counts):
    return METRICS[name].corpus(predictions, np.arange(len(predictions)))(np.atleast_2d(counts))


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_cocos(seed):
    predictions = answers(seed, 25)
    official = pycoco(predictions)
    assert 0.05 < official[0] < official[1] < 1
    ones = np.ones(25)
    assert of_sets("map", predictions, ones)[0] == pytest.approx(official[0], abs=1e-6)
    assert of_sets("map_50", predictions, ones)[0] == pytest.approx(official[1], abs=1e-6)


def test_average_precision_of_a_resampled_set_is_that_of_the_images_in_it():
    # With one box an image, so that copies of an image do not mix theirs.
    predictions = answers(5, 24, most=1)
    counts = np.random.default_rng(0).multinomial(24, np.full(24, 1 / 24), 3).astype(float)
    values = of_sets("map", predictions, counts)
    for value, of_set in zip(values, counts, strict=True):
        drawn = [p for p, n in zip(predictions, of_set, strict=True) for _ in range(int(n))]
        assert value == pytest.approx(pycoco(drawn)[0], abs=1e-6)


def test_right_boxes_are_1_and_none_are_0():
    whole = "<loc0000><loc0000><loc1023><loc1023>"
    right = Prediction("a", "i", "detect lung", f"{whole} lung", f"{whole} Lung.", "", "g")
    silent = Prediction("b", "i", "detect lung", "", f"{whole} lung", "", "g")
    wrong = Prediction("c", "i", "detect lung", f"{whole} lung", "none", "", "g")
    assert of_sets("map", [right], [1.0]) == 1.0
    assert of_sets("map", [silent], [1.0]) == 0.0
    assert np.isnan(of_sets("map", [wrong], [1.0]))


def test_dice_of_masks():
    made = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    true = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]], bool)
    np.testing.assert_allclose(masks.dice(made, true), [2 / 3, 1, 0, 0])
    assert masks.dice(made[0], true[0]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="different shapes"):
        masks.dice(made, true[:1])
