"""tools/tune_attention.py, and that the table's tiles are what it says of them."""

import itertools
import json
import sys

import jax
import jax.numpy as jnp
import pytest
import tune_attention
from medjax_kernels import selection
from medjax_kernels.attention.tile_sizes import KERNELS, TABLE, TileSize, tile_size

from medjax import cli
from medjax.scaling import gpu_kernels


def run(monkeypatch, capsys, *arguments):
    """Exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["tune_attention.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.run(tune_attention.main)
    return exit_.value.code, *capsys.readouterr()


@pytest.mark.gpu_compile
def test_candidates_are_compiled_without_a_gpu(monkeypatch, capsys):
    few = ("--gpu", "a100", "--model", "gemma1", "--kernel", "d_q", "--batch", "1", "--every", "14")
    code, out, _ = run(monkeypatch, capsys, *few, "--json")
    report = json.loads(out)
    assert (code, report["gpu"], report["best"]) == (0, "a100", {})
    rows = {tuple(row["tile"]): row for row in report["candidates"]}
    # The first is small, another takes more shared memory than there is.
    first = rows[32, 32, 4, 1]
    assert 16_384 < first["shared"] < 166_912
    assert 16 < first["registers"] <= 255
    assert any("hared memory" in row.get("error", "") for row in rows.values())
    code, out, _ = run(monkeypatch, capsys, *few[:-1], "60")
    assert code == 0
    assert "gemma1  d_q         (32, 32, 4, 1)" in out


@pytest.mark.gpu_compile
@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "a cpu takes no tiles"), (("--gpu", "v100"), "7.0"), (("--gpu", "v1"), "is none of")],
)
def test_where_nothing_can_be_tuned(monkeypatch, capsys, arguments, message):
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_the_fastest_is_printed_as_a_line_of_the_table():
    rows = [
        {"model": "siglip", "kernel": "forward", "tile": [64, 64, 4, 2], "milliseconds": 2.0},
        {"model": "siglip", "kernel": "forward", "tile": [128, 64, 8, 3], "milliseconds": 1.0},
        {"model": "siglip", "kernel": "forward", "tile": [128, 128, 8, 3], "error": "too large"},
        {"model": "siglip", "kernel": "d_q", "tile": [32, 32, 4, 1], "milliseconds": 3.0},
    ]
    best = tune_attention._best(rows)
    assert best == {"siglip": {"forward": [128, 64, 8, 3], "d_q": [32, 32, 4, 1]}}
    report = {"gpu": "gpu", "dtype": "bfloat16", "candidates": rows, "best": best}
    text = tune_attention._text(report)
    assert "80: (TileSize(128, 64, 8, 3), TileSize(32, 32, 4, 1)),  # siglip" in text


def test_candidates_are_timed():
    # On the CPU the kernels are interpreted: slow, but told as on a GPU.
    model = tune_attention.Model(32, 2, 1, 16, masked=True)
    for kernel in KERNELS:
        inputs = tune_attention.arguments(kernel, model, 1, jnp.dtype("float32"))
        call = tune_attention.function(kernel, model, selection.device(), TileSize(32, 32, 4, 1))
        assert tune_attention.timed(jax.jit(call), inputs, 1)["milliseconds"] > 0


# Of GPUs of compute capability 8.6, which has the A100's instructions.
SMALL = 99 * 1024
MODELS = ["siglip", "4m-xl", "128", "gemma2"]


@pytest.mark.gpu_compile
@pytest.mark.parametrize(
    ("capability", "gpu", "name", "dtype"),
    [
        ((8, 6), "a100", "128", "bfloat16"),
        ((8, 6), "a100", "gemma2", "bfloat16"),
        *itertools.product([(8, 0)], ["a100"], MODELS, ["bfloat16"]),
        *itertools.product([(9, 0)], ["h100"], MODELS, ["bfloat16"]),
        # Those that leave the fewest registers for float16's gain.
        ((8, 0), "a100", "siglip", "float16"),
        ((9, 0), "h100", "gemma2", "float16"),
    ],
)
def test_tiles_of_the_table_fit_and_do_not_spill(capability, gpu, name, dtype):
    device, dtype = selection.Device("gpu", capability), jnp.dtype(dtype)
    model = tune_attention.MODELS[name]._replace(length=256)
    for kernel in KERNELS:
        tile = tile_size(device, model.width, dtype, kernel, (256, 256))
        inputs = tune_attention.arguments(kernel, model, 1, dtype)
        call = tune_attention.function(kernel, model, device, tile)
        found = tune_attention.taken(gpu, call, inputs)
        assert found["spilled"] == 0, (kernel, tile, found)
        assert capability != (8, 6) or found["shared"] <= SMALL, (kernel, tile, found)


def test_the_table_is_whole():
    for rows in TABLE.values():
        assert max(rows) == 256
        assert all(len(row) == len(KERNELS) for row in rows.values())


def test_what_ptxas_says_is_read():
    said = (
        "ptxas info    : Compiling entry function 'other' for 'sm_80'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 20 registers, used 1 barriers\n"
        "ptxas info    : Compiling entry function 'one' for 'sm_80'\n"
        "    8 bytes stack frame, 24 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 1 barriers\n"
    )
    assert gpu_kernels._registers(said, "one") == (255, 24)
