"""medjax agrees with what google-research/big_vision printed, on every recorded set.

Sets are discovered by what their `config.json` holds, under the folder that MEDJAX_REFERENCE names
(default: tests/reference). Attention and cross entropy run in each of their implementations.
"""

import importlib.util
import pathlib

import numpy as np
import pytest

_PATH = pathlib.Path(__file__).with_name("agreement.py")
_SPEC = importlib.util.spec_from_file_location("agreement", _PATH)
agreement = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(agreement)


@pytest.fixture(
    scope="module",
    params=[(s, i) for s in agreement.recorded_sets() for i in agreement.IMPLEMENTATIONS],
    ids=lambda case: f"{case[0].name}-{case[1]}",
)
def results(request, tmp_path_factory):
    """(medjax's results, big_vision's)."""
    folder, implementation = request.param
    scratch = tmp_path_factory.mktemp("gradients")
    return agreement.computed(folder, implementation, scratch), agreement.recorded(folder)


def test_there_are_sets():
    assert agreement.recorded_sets(), f"no PaliGemma set under {agreement.REFERENCE}"


def test_image_embeddings(results):
    found, wanted = (r.image_embeddings for r in results)
    assert found.shape == wanted.shape
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


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
    assert abs(wanted.loss - wanted.loss_after_sgd_0p1) > 1e-3
    np.testing.assert_allclose(found.loss_after_sgd_0p1, wanted.loss_after_sgd_0p1, rtol=1e-5)
