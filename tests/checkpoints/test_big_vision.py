import dataclasses
import pathlib
import tracemalloc
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest

from medjax.checkpoints import big_vision, tensors
from medjax.errors import UserError
from medjax.models import config as model_config
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.variants import VARIANTS

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"
LLM = GemmaConfig(
    width=12, depth=2, mlp_dim=20, num_heads=4, num_kv_heads=2, head_dim=6, vocab_size=30
)
CONFIG = PaliGemmaConfig(
    image_size=28, img=SigLIPConfig(width=8, depth=3, mlp_dim=10, num_heads=2), llm=LLM
)


def random_checkpoint(config=CONFIG, dtype=np.float32) -> tensors.Checkpoint:
    rng = np.random.default_rng(0)
    named = {n: rng.standard_normal(s).astype(dtype) for n, s in tensors.specs(config).items()}
    return tensors.in_memory(config, named)


def with_llm(**sizes) -> PaliGemmaConfig:
    return dataclasses.replace(CONFIG, llm=dataclasses.replace(LLM, **sizes))


def assert_equal(a: tensors.Checkpoint, b: tensors.Checkpoint) -> None:
    assert set(a.arrays) == set(b.arrays)
    for name, array in a:
        other = b.arrays[name]
        assert (other.shape, other.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(array, other.read())


@pytest.mark.parametrize("name", ["paligemma1", "paligemma2"])
def test_names_and_shapes_are_those_of_big_vision(name, tmp_path):
    folder = REFERENCE / name
    config = model_config.load(folder / "config.json")
    big_vision.write_npz(random_checkpoint(config), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as mine, np.load(folder / "params.npz") as theirs:
        wanted = {key: theirs[key].shape for key in theirs}
        assert {key: mine[key].shape for key in mine} == wanted


def test_layout_element_by_element(tmp_path):
    checkpoint = random_checkpoint()
    big_vision.write_npz(checkpoint, tmp_path / "a.npz")
    ours = {name: array for name, array in checkpoint}
    with np.load(tmp_path / "a.npz") as theirs:
        layer, head, x, h = 1, 1, 7, 5
        column = head * LLM.head_dim + h
        attention = "language_model/layers/self_attn"
        llm = "params/llm/layers"
        q = theirs[f"{llm}/attn/q_einsum/w"][layer, head, x, h]
        assert q == ours[f"{attention}/q_proj/kernel"][layer, x, column]
        k, v = theirs[f"{llm}/attn/kv_einsum/w"][layer, :, head, x, h]
        assert k == ours[f"{attention}/k_proj/kernel"][layer, x, column]
        assert v == ours[f"{attention}/v_proj/kernel"][layer, x, column]
        o = theirs[f"{llm}/attn/attn_vec_einsum/w"][layer, head, h, x]
        assert o == ours[f"{attention}/o_proj/kernel"][layer, column, x]
        gate, up = theirs[f"{llm}/mlp/gating_einsum"][layer, :, x, 9]
        assert gate == ours["language_model/layers/mlp/gate_proj/kernel"][layer, x, 9]
        assert up == ours["language_model/layers/mlp/up_proj/kernel"][layer, x, 9]
        patch = theirs["params/img/embedding/kernel"][3, 4, 2, 5]
        assert patch == ours["vision_tower/patch_embedding/kernel"][(3 * 14 + 4) * 3 + 2, 5]


def test_equal_heads_share_one_array(tmp_path):
    checkpoint = random_checkpoint(with_llm(num_kv_heads=4))
    big_vision.write_npz(checkpoint, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as theirs:
        assert theirs["params/llm/layers/attn/qkv_einsum/w"].shape == (2, 3, 4, 12, 6)
        assert "params/llm/layers/attn/q_einsum/w" not in theirs


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("post_norms", [False, True])
def test_there_and_back(dtype, kv_heads, post_norms, tmp_path):
    config = with_llm(num_kv_heads=kv_heads, post_norms=post_norms)
    checkpoint = random_checkpoint(config, dtype)
    big_vision.write_npz(checkpoint, tmp_path / "a.npz")
    assert_equal(checkpoint, big_vision.open_npz(tmp_path / "a.npz", config))


@pytest.mark.parametrize("prefix", ["", "params/"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_reads_what_numpy_saves(prefix, save, dtype, tmp_path):
    checkpoint = random_checkpoint(dtype=dtype)
    big_vision.write_npz(checkpoint, tmp_path / "a.npz", prefix="")
    with np.load(tmp_path / "a.npz") as arrays:
        # As column-major too, which NumPy keeps.
        saved = {prefix + n: np.asfortranarray(arrays[n].view(dtype)) for n in arrays}
    save(tmp_path / "b.npz", **saved)
    assert_equal(checkpoint, big_vision.open_npz(tmp_path / "b.npz", CONFIG))


def rewrite(tmp_path, change) -> pathlib.Path:
    big_vision.write_npz(random_checkpoint(), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        arrays = dict(arrays)
    change(arrays)
    np.savez(tmp_path / "b.npz", **arrays)
    return tmp_path / "b.npz"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("params/img/head/bias"), r"1 missing \['img/head/bias'\]"),
        (lambda a: a.update({"opt/count": np.zeros(2)}), r"1 unexpected \['opt/count'\]"),
        (
            lambda a: a.update({"params/img/head/bias": np.zeros(3)}),
            r"img/head/bias has shape \(3,\), the model config asks for \(12,\)",
        ),
        (lambda a: a.update({"params/img/head/bias": np.zeros(12, int)}), "floating-point"),
        (lambda a: a.update({"img/head/bias": np.zeros(12)}), "comes twice"),
        (
            lambda a: a.update({"params/img/pos_embedding": np.zeros((1, 9, 8))}),
            "made for images of 42 pixels, not of 28",
        ),
        (
            lambda a: a.update({"params/llm/embedder/input_embedding": np.zeros((31, 12))}),
            "correct llm.vocab_size",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    path = rewrite(tmp_path, change)
    with pytest.raises(UserError, match=message):
        big_vision.open_npz(path, CONFIG)


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        big_vision.open_npz(tmp_path / "none.npz", CONFIG)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match="no npz file"):
        big_vision.open_npz(tmp_path / "text.npz", CONFIG)
    big_vision.write_npz(random_checkpoint(), tmp_path / "a.npz")
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="damaged"):
        big_vision.open_npz(tmp_path / "cut.npz", CONFIG)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_weights_are_noticed(save, tmp_path):
    big_vision.write_npz(random_checkpoint(), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        save(tmp_path / "b.npz", **arrays)
    data = bytearray((tmp_path / "b.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "b.npz") as archive:
        largest = max(archive.infolist(), key=lambda info: info.compress_size)
    data[largest.header_offset + largest.compress_size - 100] ^= 1
    (tmp_path / "b.npz").write_bytes(data)
    checkpoint = big_vision.open_npz(tmp_path / "b.npz", CONFIG)
    with pytest.raises(UserError, match=rf"b\.npz: {largest.filename} is damaged"):
        list(checkpoint)


def test_gemmas_padding_is_the_only_vocabulary_that_adapts(tmp_path):
    padded = with_llm(width=2, num_kv_heads=1, head_dim=2, vocab_size=257_216)
    checkpoint = random_checkpoint(padded)
    big_vision.write_npz(checkpoint, tmp_path / "a.npz")
    assert big_vision.vocab_rows(tmp_path / "a.npz") == 257_152
    again = big_vision.open_npz(tmp_path / "a.npz", padded)
    assert again.config.llm.vocab_size == 257_152
    table = checkpoint.arrays["language_model/embed_tokens"].read()
    found = again.arrays["language_model/embed_tokens"].read()
    np.testing.assert_array_equal(found, table[:257_152])
    grown = again.with_vocabulary(257_216).arrays["language_model/embed_tokens"]
    assert grown.shape == (257_216, 2)
    np.testing.assert_array_equal(grown.read()[:257_152], found)
    np.testing.assert_array_equal(grown.read()[257_152:], np.tile(found[0], (64, 1)))
    with pytest.raises(UserError, match="only Gemma's padding"):
        again.with_vocabulary(257_280)


def test_output_appears_whole_or_not_at_all(tmp_path):
    checkpoint = random_checkpoint()

    def fail():
        raise OSError("disk on fire")

    name = "multi_modal_projector/bias"
    broken = dataclasses.replace(checkpoint.arrays[name], read=fail)
    bad = dataclasses.replace(checkpoint, arrays={**checkpoint.arrays, name: broken})
    with pytest.raises(OSError, match="disk on fire"):
        big_vision.write_npz(bad, tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []
    big_vision.write_npz(checkpoint, tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(UserError, match="exists"):
        big_vision.write_npz(checkpoint, tmp_path / "a.npz")
    with pytest.raises(OSError, match="disk on fire"):
        big_vision.write_npz(bad, tmp_path / "a.npz", overwrite=True)
    assert (tmp_path / "a.npz").read_bytes() == before
    with pytest.raises(UserError, match=r"ends in \.npz"):
        big_vision.write_npz(checkpoint, tmp_path / "b.bin")


def test_opening_reads_no_weights_and_writing_holds_one_at_a_time(tmp_path):
    config = with_llm(depth=12, width=64, mlp_dim=256, num_heads=8, head_dim=32)
    shapes = tensors.specs(config)
    largest = 2 * max(int(np.prod(s)) for s in shapes.values()) * 4  # gate and up are one array
    total = sum(int(np.prod(s)) for s in shapes.values()) * 4
    big_vision.write_npz(random_checkpoint(config), tmp_path / "a.npz")
    bound = 2 * largest + 5e5  # NumPy writes by way of a copy of up to 16 MB
    assert total > 1.15 * bound
    tracemalloc.start()
    checkpoint = big_vision.open_npz(tmp_path / "a.npz", config)
    assert tracemalloc.get_traced_memory()[1] < total / 4
    big_vision.write_npz(checkpoint, tmp_path / "b.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < bound
    assert zipfile.ZipFile(tmp_path / "b.npz").testzip() is None


def test_build_gives_a_model_with_these_weights():
    checkpoint = random_checkpoint()
    model = tensors.build(checkpoint, param_dtype=jax.numpy.bfloat16)
    kernel = model.language_model.layers.mlp.up_proj.kernel.get_value()
    assert kernel.dtype == jax.numpy.bfloat16
    wanted = checkpoint.arrays["language_model/layers/mlp/up_proj/kernel"].read()
    np.testing.assert_array_equal(np.asarray(kernel), wanted.astype(ml_dtypes.bfloat16))


def test_official_models_have_their_published_names():
    """Spot checks against the official checkpoint's published layout, without weights."""
    shapes = {
        name: e.shape for name, e in big_vision._entries(VARIANTS["paligemma-3b-224"]).items()
    }
    assert shapes["llm/layers/attn/kv_einsum/w"] == (18, 2, 1, 2048, 256)
    assert shapes["img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel"] == (27, 1152, 4304)
