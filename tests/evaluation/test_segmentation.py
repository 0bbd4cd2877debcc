"""Dice of masks that `<seg>` tokens spell."""

import numpy as np
import pytest
from flax import nnx

from medjax.data.loc_tokens import LOC_TOKENS, SEG_TOKENS, decode_masks
from medjax.evaluation import segmentation
from medjax.evaluation.predictions import Prediction, scored
from medjax.models.mask_codec import MaskCodec


def box(*bins):
    return "".join(LOC_TOKENS[i] for i in bins)


def codes(rng):
    return "".join(SEG_TOKENS[i] for i in rng.integers(0, 128, 16))


def answer(generated, truth):
    return Prediction("1", "k", "segment liver", generated, truth, "segment", "g")


@pytest.fixture(scope="module")
def compared():
    """Compares one answer after another; every code of the codec decodes to a whole square."""
    codec = MaskCodec(rngs=nnx.Rngs(0))
    codec.to_pixels.kernel.set_value(0 * codec.to_pixels.kernel.get_value())
    codec.to_pixels.bias.set_value(1 + 0 * codec.to_pixels.bias.get_value())

    def compare(*pairs):
        return segmentation.compared([answer(*pair) for pair in pairs], codec)

    return compare


def test_masks_lie_in_their_boxes_as_they_are():
    random = np.random.default_rng(0)
    decoded = random.choice(np.float32([-1, 1]), (1, 4, 4)).repeat(16, 1).repeat(16, 2)
    decoded = np.concatenate([decoded, decoded])
    # The second box is a quarter as high, and half as wide.
    drawn = segmentation.drawn(decoded, np.float32([[0, 0, 1, 1], [0.25, 0.5, 0.5, 1]]))
    whole, small = np.asarray(drawn)
    # Near the middles of the mask's pixels: between them it is read linearly.
    np.testing.assert_array_equal(whole[4::8, 4::8], decoded[0] > 0)
    np.testing.assert_array_equal(small[129:256:2, 258::4], decoded[0] > 0)
    assert small.sum() == small[128:256, 256:].sum() > 0
    assert not np.asarray(segmentation.drawn(decoded, np.float32([[0.5, 0, 0.5, 1]] * 2))).any()


def test_dice_by_label_is_that_of_the_best_pairs(compared):
    random = np.random.default_rng(1)
    left, right, top = (0, 0, 1023, 512), (0, 512, 1023, 1023), (0, 0, 512, 1023)
    seg = codes(random)
    two = f"{box(*left)}{seg} cyst ; {box(*right)}{seg} cyst"
    found = compared(
        (f"{box(*right)}{seg} Cyst ; {box(*left)}{seg} cyst", two),
        (f"{box(*left)}{seg} cyst", two),  # one is missing
        (f"{box(*top)}{seg} cyst", f"{box(*left)}{seg} cyst"),
        (f"{box(*left)}{seg} cyst ; {box(*top)}{seg} vein", f"{box(*left)}{seg} cyst"),
        (f"{box(*left)} cyst", f"{box(*left)}{seg} cyst"),  # a box alone
    )
    for prediction, value, of_cyst in zip(
        found, (1, 0.5, 0.5, 0.5, 0), (1, 0.5, 0.5, 1, 0), strict=True
    ):
        assert prediction.kind == "segmentation"
        assert prediction.extra == {
            "mask_dice": pytest.approx(value, abs=2e-3),
            "mask_dice/cyst": pytest.approx(of_cyst, abs=2e-3),
        }
    rows = scored(found, ["basic"])
    assert rows[3].scores == {
        "dice": pytest.approx(0.5, abs=2e-3), "dice/cyst": pytest.approx(1.0, abs=2e-3)
    }  # fmt: skip
    assert [p.verdict for p in rows] == ["correct", *["wrong"] * 4]


def test_answers_without_masks_keep_their_boxes(compared):
    [same] = compared((f"{box(0, 0, 9, 9)} cyst", f"{box(0, 0, 9, 9)} cyst"))
    assert same.kind == "detection"
    assert scored([same], ["basic"])[0].scores == {"iou": 1.0}


def test_masks_are_well_formed_or_none():
    whole, random = box(0, 0, 1023, 1023), np.random.default_rng(2)
    text = f"{whole}{codes(random)} a ; {whole}{codes(random)[:-8]} b ; {whole} c ; {codes(random)}"
    [(where, found, label)] = decode_masks(f"{text} ; {box(9, 0, 0, 9)}{codes(random)} d")
    assert (where, label, len(found)) == ((0, 0, 1, 1), "a", 16)
    assert found == tuple(np.random.default_rng(2).integers(0, 128, 16))
