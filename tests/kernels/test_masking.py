"""4M's masking: all implementations give the same integers, and they obey the rules.

Nothing here has a tolerance: masking has integers in and integers out.
"""

import dataclasses
import pathlib
import subprocess
import sys

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import masking_schemes
import numpy as np
import pytest
from hypothesis import given, settings
from masking_schemes import PAD, SCHEMES, compiled, samples
from medjax_kernels import selection
from medjax_kernels.masking import MaskingScheme, Part, api, masking, pack, reference, xla
from medjax_kernels.masking import pallas_triton as triton
from medjax_kernels.masking.draws import ABSENT, Draws

IMPLEMENTATIONS = {"reference": reference, "xla": xla, "pallas_triton": triton}
BATCH = 6


class TestRules:
    """What every implementation must do, on draws that are given."""

    @pytest.fixture(scope="class", params=IMPLEMENTATIONS)
    def implementation(self, request):
        return IMPLEMENTATIONS[request.param]

    def test_windows_of_a_sequence(self, implementation):
        """The target S1 11 12 S2 14 S3 16 17 S4 within several budgets, from several sentinels."""
        whole = [901, 11, 12, 902, 14, 903, 16, 17, 904]
        expected = {
            (20, 0): whole,
            (9, 2): whole,
            (4, 0): whole[:4],
            (4, 1): whole[3:7],
            (4, 2): whole[5:],
            (4, 3): whole[:4],  # the remainder by three spans
            (5, 2): whole[5:],  # four are left there, and the span before does not fit
            (7, 2): whole[3:],  # from the earliest that fits
            (1, 1): whole[3:4],
            (0, 1): [],
        }
        scheme = MaskingScheme(
            (masking_schemes.sequence("caption", 10, (1.0,), (1.0,)),),
            input_tokens=(8, 8),
            target_tokens=(12, 12),
            sentinels=tuple(range(901, 911)),
            pad=PAD,
        )
        count = len(expected)
        rows = jnp.broadcast_to(jnp.arange(10, 20, dtype=jnp.int32), (count, 10))
        masked = jnp.array([0, 1, 1, 0, 1, 0, 1, 1, 0, 0], bool)
        draws = Draws(
            inputs=jnp.full((count, 1), 6, jnp.int32),
            targets=jnp.array([[budget] for budget, _ in expected], jnp.int32),
            choice=jnp.array([[choice] for _, choice in expected], jnp.int32),
            order=jnp.zeros((count, 1), jnp.int32),
            noise={},
            masked={"caption": jnp.broadcast_to(masked, (count, 10))},
        )
        lengths = {"caption": jnp.full(count, 8, jnp.int32)}
        run = jax.jit(lambda *x: implementation.masking(scheme, *x))
        out = jax.device_get(run({"caption": rows}, lengths, draws))
        for i, target in enumerate(expected.values()):
            read = max(len(target) - 1, 0)
            np.testing.assert_array_equal(
                out.encoder.tokens[i], [10, 901, 13, 902, 15, 903, PAD, PAD]
            )
            np.testing.assert_array_equal(out.decoder.valid[i], np.arange(12) < read)
            np.testing.assert_array_equal(out.decoder.tokens[i, :read], target[:-1])
            np.testing.assert_array_equal(out.decoder.targets[i, :read], target[1:])
            np.testing.assert_array_equal(out.decoder.block[i, :read], np.arange(read))
            assert (out.decoder.tokens[i, read:] == PAD).all()
            assert out.input_counts[i] == [6]
            assert out.target_counts[i] == [len(target)]

    def test_tokens_of_images(self, implementation):
        """Least noise is input, the next target; what is absent is neither."""
        scheme = MaskingScheme(
            (
                masking_schemes.image("rgb", 5, (1.0,), (1.0,)),
                masking_schemes.image("tok_rgb", 3, (1.0,), (1.0,)),
            ),
            input_tokens=(4, 4),
            target_tokens=(5, 5),
            pad=PAD,
        )
        first = [[40, 0, 20, 30, 10], [40, 10, 20, ABSENT, ABSENT], [3, 2, 1, 0, 4]]
        draws = Draws(
            inputs=jnp.array([[2, 1], [1, 1], [0, 5]], jnp.int32),
            targets=jnp.array([[2, 2], [4, 0], [5, 2]], jnp.int32),
            choice=jnp.zeros((3, 2), jnp.int32),
            order=jnp.array([[1, 0], [0, 1], [0, 1]], jnp.int32),
            noise={
                "rgb": jnp.array(first, jnp.int32),
                "tok_rgb": jnp.array([[9, 8, 7]] * 3, jnp.int32),
            },
            masked={},
        )
        tokens = {"tok_rgb": jnp.array([[50, 51, 52]] * 3, jnp.int32)}
        lengths = {
            "rgb": jnp.array([5, 3, 5], jnp.int32),
            "tok_rgb": jnp.full(3, 3, jnp.int32),
        }
        run = jax.jit(lambda *x: implementation.masking(scheme, *x))
        out = jax.device_get(run(tokens, lengths, draws))
        encoder, decoder = out.encoder, out.decoder
        np.testing.assert_array_equal(encoder.positions, [[1, 4, 2, 0], [1, 2, 0, 0], [0, 1, 2, 0]])
        np.testing.assert_array_equal(
            encoder.modality, [[0, 0, 1, -1], [0, 1, -1, -1], [1, 1, 1, -1]]
        )
        np.testing.assert_array_equal(
            encoder.tokens, [[PAD, PAD, 52, PAD], [PAD, 52, PAD, PAD], [50, 51, 52, PAD]]
        )
        np.testing.assert_array_equal(
            decoder.positions, [[0, 1, 2, 3, 0], [0, 2, 0, 0, 0], [0, 1, 2, 3, 4]]
        )
        np.testing.assert_array_equal(
            decoder.modality, [[1, 1, 0, 0, -1], [0, 0, -1, -1, -1], [0] * 5]
        )
        np.testing.assert_array_equal(decoder.targets[0], [50, 51, PAD, PAD, PAD])
        np.testing.assert_array_equal(decoder.block[0], [0, 0, 2, 2, 0])
        np.testing.assert_array_equal(decoder.tokens, np.full((3, 5), PAD))
        np.testing.assert_array_equal(out.input_counts, [[2, 1], [1, 1], [0, 3]])
        np.testing.assert_array_equal(out.target_counts, [[2, 2], [2, 0], [5, 0]])


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("implementation", ["xla", "pallas_triton"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31 - 1), edge=st.sampled_from([None, "empty", "one", "full"]))
def test_implementations_agree(name, implementation, seed, edge):
    scheme = SCHEMES[name]
    tokens, lengths, keys, chunks = samples(scheme, BATCH, seed)
    if edge is not None:
        most = {m.name: {"empty": 0, "one": 1, "full": m.max_tokens} for m in scheme.modalities}
        lengths = {key: jnp.full_like(x, most[key][edge]) for key, x in lengths.items()}
    expected = compiled(name, "reference")(tokens, lengths, keys, chunks)
    found = compiled(name, implementation)(tokens, lengths, keys, chunks)
    chex.assert_trees_all_equal(found, expected)


class TestSampleByItself:
    """Only a sample's own key and arrays decide about it."""

    @pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
    def test_in_any_batch(self, impl):
        tokens, lengths, _, _ = samples(SCHEMES["mixture"], 64, seed=8)
        keys = jax.random.split(jax.random.key(1, impl=impl), 64)
        run = compiled("mixture", "xla")
        whole = run(tokens, lengths, keys, {})
        order = np.array([40, 3, 41, 63, 9, 0])
        pick = jax.tree.map(lambda x: x[order], (tokens, lengths, keys))
        chex.assert_trees_all_equal(run(*pick, {}), jax.tree.map(lambda x: x[order], whole))

    def test_on_any_number_of_devices(self):
        script = pathlib.Path(__file__).with_name("masking_on_devices.py")
        result = subprocess.run([sys.executable, script], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == ["8", "devices:", "the", "same"]

    def test_under_vmap(self):
        tokens, lengths, keys, _ = samples(SCHEMES["mixture"], 12, seed=2)
        whole = compiled("mixture", "xla")(tokens, lengths, keys, {})
        split = jax.tree.map(lambda x: x.reshape(2, 6, *x.shape[1:]), (tokens, lengths, keys))
        parts = jax.jit(jax.vmap(lambda *x: masking(SCHEMES["mixture"], *x)))(*split)
        merged = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)
        chex.assert_trees_all_equal(merged, whole)


@pytest.mark.parametrize(
    ("platform", "capability", "width", "chosen"),
    [
        ("cpu", None, 716, "xla"),
        ("tpu", None, 716, "xla"),
        ("gpu", (7, 0), 716, "xla"),
        ("gpu", (7, 5), 716, "xla"),
        ("gpu", (8, 0), 716, "pallas_triton"),
        ("gpu", (9, 0), 2**14, "pallas_triton"),
        ("gpu", (9, 0), 2**14 + 1, "xla"),
    ],
)
def test_auto(platform, capability, width, chosen):
    with selection.assume(platform, capability):
        found = selection.choose(
            "masking", "auto", api.SUPPORT, dtype=jnp.dtype("int32"), width=width
        )
    assert found == chosen


def test_explicit_choices_that_cannot_run():
    scheme = SCHEMES["mixture"]
    arguments = samples(scheme, 2, seed=0)[:3]
    with pytest.raises(ValueError, match="'fused' is none of auto, pallas_triton, xla, reference"):
        masking(scheme, *arguments, implementation="fused")
    with (
        selection.assume("gpu", (7, 0)),
        pytest.raises(ValueError, match=r"8\.0 and up.*xla or reference or auto would run here"),
    ):
        masking(scheme, *arguments, implementation="pallas_triton")
    part = Part("image", None, jnp.ones((1, 2), bool), jnp.zeros((1, 2), bool))
    with pytest.raises(ValueError, match="'pallas_triton' is none of auto, xla, reference"):
        pack([part], 2, 2, implementation="pallas_triton")


BAD_SCHEMES = {
    "no modality": (dict(modalities=()), "needs a modality"),
    "name twice": (dict(modalities=SCHEMES["rest"].modalities[:1] * 2), "repeat: det, det"),
    "sentinels": (dict(sentinels=(1, 2)), "10 tokens can take 6 sentinels, and there are 2"),
    "no decoder length": (dict(decoder_length=None), "decoder_length must be given"),
    "length": (dict(encoder_length=0), "must be positive"),
    "range": (dict(input_tokens=(3, 2)), r"input_tokens \(3, 2\) is no range"),
    "weights": (dict(weights=(0.0,)), r"weights \(0.0,\) are not those of 1 components"),
    "tries": (dict(max_tries=0), "max_tries 0 must be positive"),
}


@pytest.mark.parametrize(("fields", "message"), BAD_SCHEMES.values(), ids=BAD_SCHEMES.keys())
def test_bad_schemes(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SCHEMES["rest"], **fields)


BAD_MODALITIES = {
    "kind": (dict(kind="video"), "kind 'video' is none of image, sequence"),
    "cap": (dict(max_tokens=0), "max_tokens 0: expected"),
    "floor": (dict(min_tokens=11), "min_tokens 11 and max_tokens 10"),
    "components": (dict(target_alphas=(1.0, 2.0)), "are not 1 values"),
    "alpha": (dict(input_alphas=(1e-4,)), "alpha 0.0001 is neither 0 nor within"),
    "negative alpha": (dict(input_alphas=(-1.0,)), "alpha -1.0 is neither"),
    "all zero": (dict(input_alphas=(0.0,)), "input_alphas of component 0 are all zero"),
    "keep": (dict(keep=("most",)), r"keep \('most',\) is none of random, all, binary"),
}


@pytest.mark.parametrize(("fields", "message"), BAD_MODALITIES.values(), ids=BAD_MODALITIES.keys())
def test_bad_modalities(fields, message):
    modality = dataclasses.replace(SCHEMES["rest"].modalities[0], **fields)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SCHEMES["rest"], modalities=(modality,))


BAD_ARRAYS = {
    "unknown": (lambda t, n, k, c: t.update(video=t["det"]), "tokens of video: known are det"),
    "no tokens": (lambda t, n, k, c: t.pop("det"), "tokens of det are missing"),
    "no length": (lambda t, n, k, c: n.pop("det"), "lengths of det are missing"),
    "chunks of an image": (lambda t, n, k, c: c.update(tok_rgb=0), "chunks of tok_rgb"),
    "chunks": (lambda t, n, k, c: c.update(det=c["det"][:, 1:]), r"chunks of 'det' have shape"),
    "image": (
        lambda t, n, k, c: t.update(tok_rgb=t["tok_rgb"][:, :5]),
        r"int32\[2, 5\], expected int32\[2, 8\]",
    ),
    "long": (
        lambda t, n, k, c: t.update(det=jnp.zeros((2, 11), jnp.int32)),
        r"expected int32\[2, at most 10\]",
    ),
    "dtype": (
        lambda t, n, k, c: t.update(det=t["det"].astype(jnp.float32)),
        r"'det' are float32\[2, 10\]",
    ),
    "lengths": (lambda t, n, k, c: n.update(det=n["det"][:1]), r"shape \(1,\), not \(2,\)"),
    "keys": (lambda t, n, k, c: k.append(k.pop()[0]), r"not typed keys \[batch\]"),
    "old keys": (lambda t, n, k, c: k.append(jax.random.PRNGKey(k.pop().ndim)), "uint32"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_bad_arrays(change, message):
    tokens, lengths, keys, chunks = samples(SCHEMES["rest"], 2, seed=0)
    holder = [keys]
    change(tokens, lengths, holder, chunks)
    with pytest.raises(ValueError, match=message):
        masking(SCHEMES["rest"], tokens, lengths, holder[0], chunks=chunks)


def test_bad_parts():
    part = Part("image", None, jnp.ones((1, 2), bool), jnp.zeros((1, 2), bool))
    with pytest.raises(ValueError, match="part 0 of kind 'video'"):
        pack([part._replace(kind="video")], 2, 2)
    with pytest.raises(ValueError, match=r"one shape \[batch, n\]"):
        pack([part._replace(input_kept=jnp.ones((1, 3), bool))], 2, 2)
    wide = jax.tree.map(lambda x: jnp.tile(x, (2, 1)), part[2:])
    with pytest.raises(ValueError, match="share one batch"):
        pack([part, Part("image", None, *wide)], 2, 2)


def test_schemes_are_hashable():
    assert len({*SCHEMES.values(), dataclasses.replace(SCHEMES["rest"])}) == len(SCHEMES)
