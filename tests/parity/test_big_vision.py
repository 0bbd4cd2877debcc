"""medjax agrees with what google-research/big_vision printed, on every recorded set.

Sets are discovered by what they hold, anywhere under the folder that MEDJAX_REFERENCE names
(default: tests/reference). Attention and cross entropy run in each of their implementations.
"""

import shutil

import agreement
import numpy as np
import pytest


@pytest.fixture(
    scope="module",
    params=[(s, i) for s in agreement.recorded_sets() for i in agreement.IMPLEMENTATIONS],
    ids=lambda case: f"{agreement.label(case[0])}-{case[1]}",
)
def results(request, tmp_path_factory):
    """(medjax's results, big_vision's)."""
    folder, implementation = request.param
    scratch = tmp_path_factory.mktemp("gradients")
    return agreement.computed(folder, implementation, scratch), agreement.recorded(folder)


def test_there_are_sets():
    assert agreement.recorded_sets(), f"no set of a PaliGemma under {agreement.REFERENCE}"


@pytest.mark.parametrize("folder", agreement.recorded_sets(agreement.OWN), ids=lambda f: f.name)
def test_comparing_with_our_own_sets_means_something(folder):
    wanted = agreement.recorded(folder)
    assert np.ptp(wanted.image_embeddings) > 0.1
    assert np.ptp(wanted.logits) > 1
    assert abs(wanted.loss - wanted.loss_after_sgd_0p1) > 1e-3


def test_sets_are_found_at_any_depth_and_told_apart(tmp_path):
    own = agreement.recorded_sets(agreement.OWN)[0]
    for place in ("a", "deep/er/a"):
        shutil.copytree(own, tmp_path / place)
    shutil.copytree(own, tmp_path / "torn")
    (tmp_path / "torn" / "grads.npz").unlink()
    shutil.copytree(own, tmp_path / "another_kind")
    (tmp_path / "another_kind" / "config.json").write_text('{"dim": 8, "modalities": []}')
    found = agreement.recorded_sets(tmp_path)
    assert [agreement.label(folder, tmp_path) for folder in found] == ["a", "deep/er/a"]
    assert agreement.recorded_sets(own) == [own]
    assert agreement.label(own, own) == own.name
    assert agreement.recorded_sets(tmp_path / "another_kind") == []


def test_image_embeddings(results):
    found, wanted = (r.image_embeddings for r in results)
    assert found.shape == wanted.shape
    # Rounding grows with the numbers; those of the project's own sets reach 2.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(2, np.abs(wanted).max()))


def test_logits(results):
    agreement.assert_logits_agree(*results)


def test_loss_per_example(results):
    found, wanted = (r.loss_per_example for r in results)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_loss(results):
    found, wanted = (r.loss for r in results)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_gradients(results):
    agreement.assert_gradients_agree(*results)


def test_loss_after_a_step_of_sgd(results):
    found, wanted = results
    np.testing.assert_allclose(found.loss_after_sgd_0p1, wanted.loss_after_sgd_0p1, rtol=1e-5)
