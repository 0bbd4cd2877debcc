"""medjax runs against google-research/big_vision itself, on random configurations.

Where its checkout can be imported (it is no package: put the checkout on PYTHONPATH), it is built
with random sizes and random parameters, and everything is compared that a recorded set holds. Where
it cannot, a warning says why, and the recorded sets stand in for it.
"""

import contextlib
import functools
import importlib
import importlib.util
import json
import pathlib
import sys
import types
import warnings
from collections.abc import Sequence

import agreement
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

MODELS = "big_vision.models"
PEER = (f"{MODELS}.proj.paligemma.paligemma", f"{MODELS}.ppp.gemma", f"{MODELS}.vit")
SEEDS = range(4)


@contextlib.contextmanager
def tensorflow_or_its_stand_in():
    """big_vision's utilities import TensorFlow's gfile, of which its models use nothing."""
    if importlib.util.find_spec("tensorflow") is not None:
        yield
        return
    # What big_vision imports besides, and what looks for TensorFlow when it is imported.
    for name in ("flax.training.checkpoints", "orbax.checkpoint"):
        importlib.import_module(name)
    names = ["tensorflow", "tensorflow.io", "tensorflow.io.gfile"]
    modules = [types.ModuleType(name) for name in names]
    modules[0].io, modules[1].gfile = modules[1:]
    sys.modules.update(zip(names, modules, strict=True))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def why_not_importable(modules: Sequence[str]) -> str:
    """What stops an import: a checkout or a library that is missing, or is of another version."""
    try:
        with tensorflow_or_its_stand_in():
            for name in modules:
                importlib.import_module(name)
    except (ImportError, AttributeError) as error:
        return str(error)
    return ""


def random_config(seed: int) -> dict:
    """Sizes in the form of a set's config.json; seeds alternate between Gemma 1 and 2."""
    rng = np.random.default_rng(seed)
    heads = int(rng.choice([2, 4, 6]))
    img_heads, patch = int(rng.choice([1, 2, 3])), int(rng.choice([4, 7, 14]))
    llm = {
        "variant": "random",
        "width": heads * 2 * int(rng.integers(2, 6)),
        "depth": int(rng.integers(1, 4)),
        "mlp_dim": int(rng.integers(16, 64)),
        "num_heads": heads,
        # Keys of their own, shared by two heads, shared by all.
        "num_kv_heads": [heads, heads // 2, 1][int(rng.integers(3))],
        "head_dim": 2 * int(rng.integers(2, 8)),
        "norm_eps": 1e-6,
        "vocab_size": int(rng.integers(50, 200)),
        "scan": True,
        "remat_policy": "none",
    }
    if seed % 2:
        llm |= {
            "post_norms": True,
            "attn_logits_softcap": float(rng.uniform(1, 5)),
            "final_logits_softcap": 0.0,
            "query_pre_attn_norm": ["rsqrt_head_dim", "rsqrt_emb_per_head"][seed // 2 % 2],
        }
    img = {
        "width": img_heads * int(rng.integers(4, 12)),
        "depth": int(rng.integers(1, 4)),
        "mlp_dim": int(rng.integers(16, 64)),
        "num_heads": img_heads,
        "patch_size": patch,
        "pool_type": "none",
        "scan": True,
        "posemb": "learn",
    }
    return {"image_size": patch * int(rng.integers(2, 5)), "llm": llm, "img": img}


def random_batch(config: dict, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, length, side = 3, 10, config["image_size"]
    where = np.arange(length)[None]
    prefix, suffix = rng.integers(2, 5, (rows, 1)), rng.integers(1, 5, (rows, 1))
    answers = (where >= prefix) & (where < prefix + suffix)
    tokens = rng.integers(1, config["llm"]["vocab_size"], (rows, length))
    return {
        "image": rng.uniform(-1, 1, (rows, side, side, 3)).astype(np.float32),
        "text": np.where(where < prefix + suffix, tokens, 0).astype(np.int32),
        "mask_ar": (where >= prefix).astype(np.int32),
        "mask_loss": answers.astype(np.int32),
    }


def record(folder: pathlib.Path, seed: int) -> pathlib.Path:
    """A set like the recorded ones, from the peer itself: its parameters' names and shapes too."""
    peer, gemma, _ = (sys.modules[name] for name in PEER)
    config, known = random_config(seed), gemma.get_config
    llm, img = config["llm"], config["img"]
    try:
        # The peer knows its language models by name alone.
        gemma.get_config = lambda variant: ConfigDict(llm)
        patch = (img["patch_size"],) * 2
        model = peer.Model(
            img=img | {"patch_size": patch},
            llm={
                "variant": llm["variant"],
                "vocab_size": llm["vocab_size"],
                "remat_policy": "none",
            },
        )
        run(model, config, folder, seed)
    finally:
        gemma.get_config = known
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(model, config: dict, folder: pathlib.Path, seed: int) -> None:
    batch = random_batch(config, seed)
    inputs = batch["image"], batch["text"][:, :-1], batch["mask_ar"][:, :-1]
    targets, weights = batch["text"][:, 1:], batch["mask_loss"][:, 1:]
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: (0.25 * rng.standard_normal(x.shape)).astype(np.float32), shapes
    )

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        logits, out = model.apply({"params": params}, *inputs)
        log_probs = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
        per_example = -(chosen * weights).sum(axis=1) / weights.sum(axis=1)
        return per_example.mean(), (out["img/zimg"], logits, per_example)

    with jax.default_matmul_precision("highest"):
        (before, outputs), grads = loss(params)
        (after, _), _ = loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, grads))
    assert np.ptp(outputs[1]) > 1  # a comparison of these logits means something
    results = dict(zip(agreement.Results._fields[:-1], (*outputs, before, after), strict=True))
    np.savez(folder / "io.npz", **batch, **results)
    for name, tree in {"params": params, "grads": grads}.items():
        np.savez(folder / f"{name}.npz", **traverse_util.flatten_dict({"params": tree}, sep="/"))


WHY_NOT = why_not_importable(PEER)
CASES = agreement.recorded_sets() if WHY_NOT else list(SEEDS)
if WHY_NOT:
    warnings.warn(f"recorded sets stand in for big_vision: {WHY_NOT}", stacklevel=1)


@pytest.fixture(
    scope="module",
    params=CASES,
    ids=lambda case: f"live-{case}" if isinstance(case, int) else agreement.label(case),
)
def results(request, tmp_path_factory):
    """(medjax's results, big_vision's)."""
    case = request.param
    folder = record(tmp_path_factory.mktemp("live"), case) if isinstance(case, int) else case
    found = agreement.computed(folder, "auto", tmp_path_factory.mktemp("gradients"))
    return found, agreement.recorded(folder)


def test_a_checkout_that_cannot_be_imported_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "half_a_checkout").mkdir()
    (tmp_path / "half_a_checkout" / "__init__.py").touch()
    (tmp_path / "half_a_checkout" / "models.py").write_text("import a_library_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    assert "a_library_that_is_not_there" in why_not_importable(["half_a_checkout.models"])
    assert "half_a_checkout.vit" in why_not_importable(["half_a_checkout.vit"])
    (tmp_path / "half_a_checkout" / "whole.py").write_text("import tensorflow.io.gfile as gfile")
    assert why_not_importable(["half_a_checkout.whole"]) == ""


def test_image_embeddings_and_logits(results):
    agreement.assert_logits_agree(*results)
    found, wanted = (r.image_embeddings for r in results)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


def test_losses(results):
    for field in ("loss", "loss_per_example", "loss_after_sgd_0p1"):
        found, wanted = (getattr(r, field) for r in results)
        np.testing.assert_allclose(found, wanted, rtol=2e-5, err_msg=field)


def test_gradients(results):
    agreement.assert_gradients_agree(*results)


def test_random_configurations_cover_both_generations_and_every_sharing_of_keys():
    drawn = [random_config(seed)["llm"] for seed in SEEDS]
    assert {bool(llm.get("post_norms")) for llm in drawn} == {False, True}
    assert len({(llm["num_kv_heads"] == 1, llm["num_kv_heads"] == llm["num_heads"])
                for llm in drawn}) == 3  # fmt: skip
    assert {llm.get("query_pre_attn_norm") for llm in drawn} == {
        None, "rsqrt_head_dim", "rsqrt_emb_per_head",
    }  # fmt: skip
