import collections

import numpy as np
import pytest

from medjax.errors import UserError
from medjax.evaluation.fourm import baselines, scores

Box = collections.namedtuple("Box", "label y1 x1 y2 x2")


def discs():
    """Masks of two classes, one within the other, about where they usually are."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:24, :20]
    samples = []
    for _ in range(12):
        centre, radius = random.normal((12, 10), 1.5), random.uniform(4, 8)
        distance = np.hypot(y - centre[0], x - centre[1])
        labels = (distance < radius).astype(int) + (distance < radius / 2)
        labels[:2] = 255
        samples.append(labels)
    return samples


def test_each_threshold_is_the_best():
    samples = discs()
    shares = np.stack(
        [np.mean([s[2:] == c for s in samples], axis=0) for c in (1, 2)]
    )  # fmt: skip
    best = []
    for index, share in enumerate(shares):
        means = [
            np.mean([
                scores.dice(share >= t, s[2:] == index + 1, 2)[0] for s in samples
            ])
            for t in baselines._THRESHOLDS
        ]  # fmt: skip
        best.append(baselines._THRESHOLDS[int(np.argmax(means))])
    np.testing.assert_array_equal(
        baselines._best_thresholds(samples, baselines._shares(samples, 3)), best
    )
    excess = shares / np.reshape(best, (2, 1, 1))
    expected = np.where((excess >= 1).any(0), 1 + (excess[1] > excess[0]), 0)
    made = baselines.constant("labels", samples, 3)
    np.testing.assert_array_equal(made[2:], expected)
    assert set(np.unique(made)) == {0, 1, 2}
    assert not made[:2].any()  # nobody knows


def test_the_mean_mask_beats_the_most_frequent_label():
    # Each sample has a half of the pixels that another lacks: no pixel is in more than a half.
    samples = [np.eye(4, dtype=int)[i % 4][:, None].repeat(4, 1) for i in range(8)]
    made = baselines.mean_labels(samples, 2)
    assert made.all()
    scored = [scores.dice(made, s, 2)[0] for s in samples]
    assert np.mean(scored) == pytest.approx(0.4)


def test_a_class_that_is_rarely_there_is_left_out():
    samples = [np.zeros((3, 3), int) for _ in range(9)] + [np.ones((3, 3), int)]
    assert not baselines.mean_labels(samples, 2).any()


def test_images_texts_and_boxes():
    images = np.random.default_rng(0).uniform(-1, 1, (5, 3, 4, 1)).astype(np.float32)
    made = baselines.constant("image", iter(images))
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, images.mean(0), atol=1e-7)
    assert baselines.constant("text", iter(["b", "a", "b", "a", "c"])) == "a"
    samples = [
        [Box("brain", 0, 0, 1, 1), Box("spot", 0, 0, 0.1, 0.1)],
        [Box("brain", 0, 0, 1, 0.9)],
        [Box("brain", 0, 0, 1, 0.9)],
        [],
    ]
    assert baselines.constant("boxes", samples) == (Box("brain", 0, 0, 1, 0.9),)
    assert baselines.constant("boxes", [[], []]) == ()


def test_what_cannot_be_fitted():
    for content in baselines.BASELINES:
        with pytest.raises(UserError, match="no training values"):
            baselines.constant(content, [], 2)
    with pytest.raises(UserError, match="'ids'"):
        baselines.constant("ids", [[1]])
    with pytest.raises(ValueError, match="twice"):
        baselines.constant("labels", iter([np.zeros((2, 2), int)]), 2)
