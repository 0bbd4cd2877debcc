"""medjax agrees with what apple/ml-4m printed, on every recorded set of a 4M model.

Sets are discovered by what they hold, anywhere under the folder that MEDJAX_REFERENCE names
(default: tests/reference). Attention and cross entropy run in each of their implementations. Both
sides compute in float32, in sums of another order; numbers are of order 1 to 10.
"""

import shutil

import agreement
import fourm_agreement
import numpy as np
import pytest

from medjax.checkpoints import fourm, fourm_names
from medjax.checkpoints.safetensors_files import open_file, write_file
from medjax.errors import UserError

SETS = fourm_agreement.recorded_sets()


@pytest.fixture(
    scope="module",
    params=[(s, i) for s in SETS for i in agreement.IMPLEMENTATIONS],
    ids=lambda case: f"{agreement.label(case[0])}-{case[1]}",
)
def results(request):
    """(medjax's results, the peer's)."""
    folder, implementation = request.param
    return fourm_agreement.computed(folder, implementation), fourm_agreement.recorded(folder)


every_set = pytest.mark.parametrize("folder", SETS, ids=agreement.label)


def test_there_are_sets():
    assert SETS, f"no set of a 4M model under {agreement.REFERENCE}"


@pytest.mark.parametrize(
    "folder", fourm_agreement.recorded_sets(agreement.OWN), ids=lambda folder: folder.name
)
def test_comparing_with_our_own_sets_means_something(folder):
    wanted = fourm_agreement.recorded(folder)
    assert np.ptp(wanted.encoder_output) > 1
    assert all(np.ptp(logits) > 1 for logits in wanted.logits.values())
    assert abs(wanted.loss_mod - wanted.loss_token) > 1e-2
    assert not wanted.encoder_valid.all()
    assert not wanted.decoder_valid.all()


def test_sets_are_found_at_any_depth_and_told_from_others(tmp_path):
    own = fourm_agreement.recorded_sets(agreement.OWN)[0]
    shutil.copytree(own, tmp_path / "deep" / "er")
    shutil.copytree(own, tmp_path / "torn")
    (tmp_path / "torn" / "grads.npz").unlink()
    found = fourm_agreement.recorded_sets(tmp_path)
    assert [agreement.label(folder, tmp_path) for folder in found] == ["deep/er"]
    assert not set(agreement.recorded_sets()) & set(fourm_agreement.recorded_sets())


def test_encoder_output(results):
    found, wanted = (r.encoder_output for r in results)
    assert found.shape == wanted.shape
    # Also where nothing is valid, which the decoder never sees. Rounding grows with the numbers.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(2, np.abs(wanted).max()))


@pytest.mark.parametrize(
    "field",
    [
        "encoder_valid",
        "encoder_modality_id",
        "decoder_valid",
        "decoder_modality_id",
        "target_ids",
    ],
)
def test_packing(results, field):
    found, wanted = (getattr(r, field) for r in results)
    np.testing.assert_array_equal(found, wanted)


def test_decoder_attention(results):
    found, wanted = (r.decoder_attention_allowed for r in results)
    # What stands where nothing is valid attends to something in the peer, and nobody reads it.
    valid = results[1].decoder_valid
    np.testing.assert_array_equal(found[valid], wanted[valid])


def test_logits(results):
    found, wanted = results
    assert set(found.logits) == set(wanted.logits)
    for name, logits in wanted.logits.items():
        assert found.logits[name].shape == logits.shape
        ours, theirs = (array[wanted.decoder_valid] for array in (found.logits[name], logits))
        # As the encoder's output: rounding grows with the numbers.
        atol = 1e-5 * max(2, np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("field", ["loss_mod", "loss_token"])
def test_loss(results, field):
    found, wanted = (getattr(r, field) for r in results)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_loss_of_each_modality(results):
    found, wanted = (r.modality_loss for r in results)
    assert set(found) == set(wanted)
    for name, loss in wanted.items():
        np.testing.assert_allclose(found[name], loss, rtol=1e-5, atol=1e-7, err_msg=name)


def test_gradients(results):
    found, wanted = (r.gradients for r in results)
    # What the peer has no gradient of is what two modules share, or never changes.
    assert set(wanted) <= set(found)
    agreement.assert_gradients_agree(
        results[0]._replace(gradients={name: found[name] for name in wanted}), results[1]
    )


@every_set
def test_every_gradient_is_there(folder):
    """The peer names a shared tensor once; every parameter of medjax is under one of its names."""
    config = fourm_agreement.open_set(folder)[0].config
    tensors_of = fourm_names.tensors(config)
    covered = {p for n in fourm_agreement.recorded(folder).gradients for p in tensors_of[n].pieces}
    images = {m.name for m in config.modalities if m.is_image} & set(config.targets)
    # The decoder reads no tokens of images: their embeddings matter as output layers alone.
    unread = {fourm_names.Piece(f"decoder_embeddings/embed_tokens/{name}") for name in images}
    left = {piece for tensor in tensors_of.values() for piece in tensor.pieces} - covered
    assert left <= (set() if config.tie_embeddings else unread)


@every_set
def test_written_as_it_was_read(folder, tmp_path):
    checkpoint, _ = fourm_agreement.open_set(folder)
    fourm.write_folder(checkpoint, tmp_path / "out")
    wanted, found = (open_file(f / fourm.WEIGHTS) for f in (folder, tmp_path / "out"))
    assert set(found) == set(wanted)
    constants = fourm_names.constants(checkpoint.config)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        # Sines of angles up to 511 differ in their last digits.
        atol = 1e-4 if name in constants else 0
        np.testing.assert_allclose(
            found[name].read(), array.read(), rtol=0, atol=atol, err_msg=name
        )
    again = fourm.open_folder(tmp_path / "out", checkpoint.config)
    for name, array in checkpoint:
        np.testing.assert_array_equal(again.arrays[name].read(), array)


@every_set
def test_keys_that_are_missing_or_unexpected_are_named(folder, tmp_path):
    config = fourm_agreement.read_config(folder)
    arrays = open_file(folder / fourm.WEIGHTS)
    for name in ("decoder.0.self_attn.qkv.weight", "mask_token"):
        (tmp_path / name).mkdir()
        write_file(tmp_path / name / fourm.WEIGHTS, {n: a for n, a in arrays.items() if n != name})
        with pytest.raises(UserError, match=rf"1 missing \['{name}'\], 0 unexpected"):
            fourm.open_folder(tmp_path / name, config)
    write_file(tmp_path / fourm.WEIGHTS, {**arrays, "head.weight": arrays["mask_token"]})
    with pytest.raises(UserError, match=r"0 missing \[\], 1 unexpected \['head.weight'\]"):
        fourm.open_folder(tmp_path, config)
