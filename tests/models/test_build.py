"""Models with parameters: drawn, read, adapted; and embeddings that know their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.errors import UserError
from medjax.models import lora
from medjax.models.build import build, ordered_rows
from medjax.models.config import GemmaConfig, PaliGemmaConfig, SigLIPConfig
from medjax.models.params import flatten, trainable_names
from medjax.scaling import sharding

CONFIG = PaliGemmaConfig(
    image_size=28,
    img=SigLIPConfig(width=8, depth=2, mlp_dim=16, num_heads=2),
    llm=GemmaConfig(
        width=16, depth=2, mlp_dim=24, num_heads=4, num_kv_heads=2, head_dim=4, vocab_size=64
    ),
)
LORA = lora.LoRAConfig(rank=2, alpha=4)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh({})


@pytest.fixture(scope="module")
def drawn(mesh):
    return flatten(build(CONFIG, mesh=mesh, seed=3))


def test_the_seed_and_the_dtype_of_parameters_decide(mesh, drawn):
    other = flatten(build(CONFIG, mesh=mesh, seed=4, param_dtype=jnp.bfloat16))
    assert set(other) == set(drawn)
    for name, array in drawn.items():
        assert (array.dtype, other[name].dtype) == (jnp.float32, jnp.bfloat16)
        constant = name.endswith(("scale", "bias"))
        assert (np.abs(array - other[name]).max() > 0) != constant, name


def test_weights_are_read(mesh, drawn):
    weights = {name: np.full(array.shape, 0.5, np.float32) for name, array in drawn.items()}
    found = flatten(build(CONFIG, mesh=mesh, weights=weights.items()))
    assert set(found) == set(drawn)
    assert all((array == 0.5).all() for array in found.values())


def test_weights_that_do_not_fit_are_named(mesh, drawn):
    weights = dict(drawn)
    weights.pop("language_model/embed_tokens")
    with pytest.raises(UserError, match=r"base\.npz: 1 parameters are missing.*embed_tokens"):
        build(CONFIG, mesh=mesh, weights=weights.items(), source="base.npz")


@pytest.mark.parametrize("read", [False, True], ids=["drawn", "read"])
def test_adapters(mesh, drawn, read):
    weights = drawn.items() if read else None
    model = build(CONFIG, mesh=mesh, weights=weights, lora_config=LORA, seed=3)
    names = trainable_names(model)
    assert len(names) == 2 * len(lora.TARGETS)
    found = flatten(model)
    for name in names:
        assert (np.abs(found[name]).max() == 0) == name.endswith("lora_b")
    plain = {name.replace("/base/", "/"): array for name, array in found.items()}
    for name, array in drawn.items():
        np.testing.assert_array_equal(plain[name], array)
    wrapped = model.language_model.layers.mlp.up_proj
    assert isinstance(wrapped, lora.LoRALinear)
    assert wrapped.lora_a.shape == (2, 16, 2)


def test_ordered_ids(mesh, drawn):
    found = flatten(build(CONFIG, mesh=mesh, seed=3, ordered_ids=range(10, 30)))
    table, before = (np.asarray(p["language_model/embed_tokens"]) for p in (found, drawn))
    np.testing.assert_allclose(table[10:30], ordered_rows(20, 16), rtol=1e-6)
    others = np.r_[0:10, 30:64]
    np.testing.assert_array_equal(table[others], before[others])


@pytest.mark.parametrize("width", [16, 33])
def test_ordered_rows_are_more_alike_the_nearer_they_are(width):
    rows = np.asarray(ordered_rows(1024, width))
    assert rows.shape == (1024, width)
    assert rows.std() == pytest.approx(width**-0.5, rel=0.2)
    distance = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    for start in (0, 500, 1020):
        near = [distance[start, start + step] for step in (1, 2, 3)]
        assert near[0] < near[1] < near[2]
    # Far numbers are never mistaken for near ones.
    apart = np.abs(np.arange(1024)[:, None] - np.arange(1024)[None])
    assert distance[apart >= 4].min() > distance[apart == 1].max()


def test_a_built_model_runs(mesh, drawn):
    graphdef, state = nnx.split(build(CONFIG, mesh=mesh, weights=drawn.items(), lora_config=LORA))
    tokens = jnp.array([[2, 5, 6]])

    @jax.jit
    def forward(state):
        return nnx.merge(graphdef, state)(jnp.zeros((1, 28, 28, 3)), tokens, 0 * tokens)

    logits = forward(state)
    assert logits.shape == (1, 3, 64)
    assert np.isfinite(logits).all()
