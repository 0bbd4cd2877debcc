"""What only the kernels of attention have: when they are chosen, tiles, split keys, devices."""

import functools
import itertools
import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from medjax_kernels import Tokens, attention, selection
from medjax_kernels.attention import SUPPORT, pallas_triton, tile_sizes, up_to
from medjax_kernels.attention.parts import padded, parts
from medjax_kernels.attention.tile_sizes import KERNELS, TABLE, TileSize, tile_size

SCRIPT = pathlib.Path(__file__).with_name("attention_on_devices.py")


@pytest.fixture(autouse=True)
def full_precision():
    """The reference's float32 stays float32, where GPUs would round it to TF32."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "width", "chosen"),
    [
        ("cpu", None, "bfloat16", 64, "xla"),
        ("tpu", None, "bfloat16", 64, "xla"),
        ("gpu", None, "bfloat16", 64, "xla"),
        ("gpu", (7, 0), "float16", 64, "xla"),
        ("gpu", (7, 5), "float16", 256, "xla"),
        ("gpu", (8, 0), "float16", 16, "pallas_triton"),
        ("gpu", (8, 0), "bfloat16", 72, "pallas_triton"),
        ("gpu", (8, 9), "bfloat16", 256, "pallas_triton"),
        ("gpu", (9, 0), "bfloat16", 256, "pallas_triton"),
        ("gpu", (9, 0), "bfloat16", 257, "xla"),
        ("gpu", (9, 0), "float32", 64, "xla"),
        ("gpu", (12, 0), "float16", 128, "pallas_triton"),
    ],
)
def test_auto(platform, capability, dtype, width, chosen):
    with selection.assume(platform, capability):
        found = selection.choose("attention", "auto", SUPPORT, dtype=jnp.dtype(dtype), width=width)
    assert found == chosen


@pytest.mark.parametrize(
    ("device", "width", "message"),
    [
        (("gpu", (7, 0)), 64, r"8\.0 and up, and this is a gpu of compute capability 7\.0; xla or"),
        (("tpu",), 64, "and this is a tpu; xla or reference or auto would run here"),
        (("cpu",), 257, "takes widths of 1 to 256, not 257; xla or reference or auto would"),
        (("gpu", (9, 0)), 288, "takes widths of 1 to 256, not 288"),
    ],
)
def test_a_choice_that_cannot_run(device, width, message):
    x = jnp.zeros((1, 4, 2, width))
    with selection.assume(*device), pytest.raises(ValueError, match=message):
        attention(x, x, x, implementation="pallas_triton")


def test_the_choice_is_what_runs():
    x = jax.ShapeDtypeStruct((1, 40, 2, 16), jnp.bfloat16)
    with selection.assume("gpu", (8, 0)):
        assert "pallas_call" in str(jax.make_jaxpr(attention)(x, x, x))
    assert "pallas_call" not in str(jax.make_jaxpr(attention)(x, x, x))


@pytest.mark.parametrize("width", [1, 16, 17, 32, 48, 64, 72, 80, 96, 100, 128, 144, 200, 256])
def test_parts_cover_a_head(width):
    found = parts(width)
    assert [first for first, _ in found] == [0, *itertools.accumulate(n for _, n in found[:-1])]
    assert all(size >= 16 and size & (size - 1) == 0 for _, size in found)
    assert width <= padded(width) <= max(16, 1 << (width - 1).bit_length())


def test_siglip_heads_are_little_padded():
    assert parts(72) == ((0, 64), (64, 16))
    assert parts(256) == ((0, 256),)
    assert parts(120) == ((0, 128),)


@pytest.mark.parametrize(
    ("capability", "row"),
    [
        (None, (8, 6)), ((8, 0), (8, 0)), ((8, 6), (8, 6)), ((8, 9), (8, 6)), ((9, 0), (9, 0)),
        ((10, 0), (9, 0)), ((12, 0), (8, 6)),
    ],
)  # fmt: skip
def test_tiles_by_capability(capability, row):
    device = selection.Device("gpu", capability)
    for width, kernel in itertools.product([16, 72, 96, 256], KERNELS):
        found = tile_size(device, width, jnp.bfloat16, kernel, (4096, 4096))
        line = TABLE[row, 2][{16: 64, 72: 80, 96: 128, 256: 256}[width]]
        assert found == line[KERNELS.index(kernel)]
        assert tile_size(device, width, jnp.float32, kernel, (4096, 4096)).queries <= 32


def test_tiles_are_not_much_larger_than_the_lengths():
    device = selection.Device("gpu", (8, 0))
    assert tile_size(device, 64, jnp.float16, "forward", (1, 40))[:2] == (16, 64)
    assert tile_size(device, 64, jnp.float16, "forward", (64, 4))[:2] == (64, 16)


@pytest.mark.parametrize(
    ("programs", "tiles", "splits"), [(8, 64, 32), (8, 4, 2), (1, 1, 1), (300, 64, 1)]
)
def test_keys_are_split_where_programs_are_few(programs, tiles, splits):
    assert tile_sizes.key_splits(programs, tiles) == splits


def run(implementation, q, k, v, d_out, **options):
    """Output and gradients, compiled."""

    def function(q, k, v, d_out):
        attend = functools.partial(attention, **options, implementation=implementation)
        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(d_out)

    return jax.jit(function)(q, k, v, d_out)


def draw(batch, length, others, heads, kv_heads, width):
    rng = np.random.default_rng(length)
    shapes = 2 * [(batch, length, heads, width)] + 2 * [(batch, others, kv_heads, width)]
    q, d_out, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return q, k, v, d_out


def prefix(length, after, valid=None):
    block = np.maximum(np.arange(length) - after, 0).astype(np.int32)[None]
    return Tokens(block=block, valid=valid)


CASES = {
    # Several tiles of both, the last of them cut; a head in two pieces; no field at all.
    "full": (draw(1, 70, 45, 2, 2, 24 + 16), Tokens(), Tokens(), {}),
    # Ranges that differ by row and tile; row 1 is short, and its padding attends to nothing.
    "prefix": (
        draw(2, 50, 50, 4, 2, 16),
        prefix(50, 20, up_to(jnp.array([50, 13]), 50)),
        prefix(50, 20, up_to(jnp.array([50, 13]), 50)),
        dict(soft_cap=2.0),
    ),
    "window": (draw(1, 50, 50, 2, 1, 16), prefix(50, 0), prefix(50, 0), dict(window=9)),
    # Decoding: split keys, of which some programs see none that is valid.
    "cache": (
        draw(3, 1, 150, 4, 1, 16),
        Tokens(),
        Tokens(valid=up_to(jnp.array([150, 20, 0]), 150)),
        dict(soft_cap=2.0),
    ),
    "few queries": (draw(1, 3, 100, 4, 2, 16), prefix(3, 0), prefix(100, 98), {}),
}


@pytest.mark.parametrize(("arrays", "queries", "keys", "options"), CASES.values(), ids=CASES)
def test_several_tiles(monkeypatch, arrays, queries, keys, options):
    # Of few queries, two tiles of keys go to each program.
    monkeypatch.setattr(tile_sizes, "tile_size", lambda *_: TileSize(16, 16, 4, 1))
    options = dict(queries=queries, keys=keys, **options)
    found = run("pallas_triton", *arrays, **options)
    wanted = run("reference", *arrays, **options)
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_keys_of_few_queries_are_really_split():
    q, k, v, _ = draw(1, 1, 512, 4, 1, 16)
    text = str(
        jax.make_jaxpr(functools.partial(attention, implementation="pallas_triton"))(q, k, v)
    )
    tiles = 512 // tile_size(selection.device(), 16, jnp.float32, "few_queries", (4, 512)).keys
    assert f"f32[{tiles // 2},1,4,1,16]" in text  # [parts, B, G, K, H]


def test_layers_that_are_scanned_and_rematerialised():
    q, *_ = draw(1, 40, 40, 2, 2, 16)
    scales = jnp.array([0.5, 1.5])

    def loss(q, scales, implementation):
        @jax.checkpoint
        def layer(x, scale):
            y = scale * x
            return x + attention(y, y[:, :, :1], x[:, :, :1], implementation=implementation), None

        return jnp.sum(jnp.square(jax.lax.scan(layer, q, scales)[0]))

    found, wanted = (
        jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)(q, scales, name)
        for name in ("pallas_triton", "reference")
    )
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_vmap_goes_from_row_to_row():
    q, k, v, _ = draw(4, 5, 5, 2, 1, 16)
    found = jax.vmap(functools.partial(attention, implementation="pallas_triton"))(
        *(x.reshape(2, 2, *x.shape[1:]) for x in (q, k, v))
    )
    wanted = attention(q, k, v, implementation="reference").reshape(2, 2, 5, 2, 16)
    chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "floor"), [(jnp.float16, -6e4), (jnp.bfloat16, -1e30)], ids=["float16", "bfloat16"]
)
def test_all_logits_far_below_zero(dtype, floor):
    # The running maximum starts low, but every logit lies below what 16 bits could start from.
    k = jnp.full((1, 40, 1, 16), 1.0, dtype)
    v = jnp.arange(40.0).reshape(1, 40, 1, 1) * jnp.ones((1, 40, 1, 16))
    out = attention(floor * k, k, v.astype(dtype), scale=1.0, implementation="pallas_triton")
    np.testing.assert_allclose(out.astype(np.float32), 19.5, rtol=1e-2)


@pytest.fixture(scope="module")
def on_devices(tmp_path_factory):
    """What the script found on eight devices, in a process of its own: this one has one."""
    output = tmp_path_factory.mktemp("devices") / "results.npz"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, SCRIPT, output], env=environment, check=True, timeout=600)
    with np.load(output) as found:
        return dict(found)


# Shapes of one device's part of q and of k, and whether something is gathered or summed.
MESHES = {
    "batch": ((1, 6, 8, 16), (1, 6, 8, 16), False, False),
    "heads": ((2, 6, 4, 16), (2, 6, 2, 16), False, False),
    "one key head": ((2, 6, 4, 16), (2, 6, 1, 16), False, True),
    "key heads that do not divide": ((4, 6, 2, 16), (4, 6, 2, 16), True, False),
    "one key head, float16": ((2, 6, 4, 16), (2, 6, 1, 16), False, True),
}


@pytest.mark.parametrize(
    ("mesh", "q", "k", "gathered", "summed"), [(k, *v) for k, v in MESHES.items()], ids=MESHES
)
def test_as_on_one_device(on_devices, mesh, q, k, gathered, summed):
    for what in ("out", "d_q", "d_k", "d_v"):
        found, wanted = on_devices[f"{mesh}/{what}"], on_devices[f"{mesh}/reference/{what}"]
        if found.dtype == np.float16:
            found, wanted = (x.astype(np.float64) for x in (found, wanted))
            # Rounding to the spacing of the least float16 numbers, and to 11 bits a few times.
            atol = 2.0**-24 + 4e-3 * np.abs(wanted).max(axis=(0, 1, 3), keepdims=True)
            np.testing.assert_array_less(np.abs(found - wanted) / atol, 1, err_msg=what)
        else:
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=what)
    np.testing.assert_array_equal(on_devices[f"{mesh}/part of q"], q)
    np.testing.assert_array_equal(on_devices[f"{mesh}/part of k"], k)
    assert bool(on_devices[f"{mesh}/all-gather"]) == gathered
    assert bool(on_devices[f"{mesh}/all-reduce"]) == summed


def test_programs_differ_where_their_results_do(on_devices):
    # Or a cache of compiled programs would take one for the other.
    first, again, other = on_devices["programs"]
    assert "CustomSPMDPartitioning" in first
    assert first == again
    assert first != other


def test_a_float32_log_sum_exp_is_kept():
    q, k, v, _ = draw(1, 40, 50, 2, 1, 16)
    out, lse = pallas_triton.forward(
        q, k, v, Tokens(), Tokens(), pallas_triton.Options(0.25), selection.device()
    )
    logits = np.einsum("btnh,bsh->bnts", q.astype(np.float64), k[:, :, 0]) * 0.25
    np.testing.assert_allclose(lse, np.log2(np.exp(logits).sum(axis=-1)), rtol=1e-5, atol=1e-5)
    assert out.shape == q.shape
