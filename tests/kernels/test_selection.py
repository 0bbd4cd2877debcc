"""Which implementation is chosen, on devices that are not there."""

import jax
import jax.numpy as jnp
import pytest
from medjax_kernels import selection
from medjax_kernels.selection import Support

TABLE = {
    "pallas_triton": Support((8, 0), widths=(16, 256), auto=("bfloat16", "float16")),
    "xla": Support(),
    "reference": Support(),
}


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    monkeypatch.setattr(selection, "OPERATIONS", {"mixing", "other"})


def choose(asked="auto", *, dtype="bfloat16", width=64):
    return selection.choose("mixing", asked, TABLE, dtype=jnp.dtype(dtype), width=width)


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "width", "chosen"),
    [
        ("cpu", None, "bfloat16", 64, "xla"),
        ("tpu", None, "bfloat16", 64, "xla"),
        ("gpu", None, "bfloat16", 64, "xla"),
        ("gpu", (7, 0), "float16", 64, "xla"),
        ("gpu", (7, 5), "float16", 64, "xla"),
        ("gpu", (8, 0), "float16", 64, "pallas_triton"),
        ("gpu", (9, 0), "bfloat16", 256, "pallas_triton"),
        ("gpu", (10, 0), "bfloat16", 257, "xla"),
        ("gpu", (9, 0), "float32", 64, "xla"),
    ],
)
def test_auto(platform, capability, dtype, width, chosen):
    with selection.assume(platform, capability):
        assert choose(dtype=dtype, width=width) == chosen


@pytest.mark.parametrize(
    ("device", "options", "message"),
    [
        (("gpu", (7, 0)), {}, r"8\.0 and up.*gpu of compute capability 7\.0; xla or reference or"),
        (("tpu",), {}, r"8\.0 and up, and this is a tpu"),
        (("gpu", (8, 0)), dict(width=8), "takes widths of 16 to 256, not 8"),
        (("gpu", (8, 0)), dict(dtype="float64"), "not in float64; no other would run here"),
        (("cpu",), dict(width=300), "not 300"),
    ],
)
def test_explicit_choice_that_cannot_run(device, options, message):
    with selection.assume(*device), pytest.raises(ValueError, match=message):
        choose("pallas_triton", **options)


def test_kernels_for_gpus_are_interpreted_on_the_cpu(caplog):
    selection._said.clear()
    with selection.assume("cpu"), caplog.at_level("INFO", "medjax_kernels"):
        assert choose("pallas_triton") == "pallas_triton"
        assert selection.interpreted()
    assert "interpreted on the CPU" in caplog.text


def test_each_choice_is_said_once(caplog):
    selection._said.clear()
    with selection.assume("gpu", (8, 0)), caplog.at_level("INFO", "medjax_kernels"):
        for _ in range(3):
            choose()
    assert caplog.messages == [
        "mixing: pallas_triton (gpu of compute capability 8.0, bfloat16, width 64)"
    ]


def test_nothing_runs():
    table = {"pallas_triton": TABLE["pallas_triton"]}
    with selection.assume("cpu"), pytest.raises(ValueError, match="no implementation"):
        selection.choose("mixing", "auto", table, dtype=jnp.dtype("float32"), width=64)


def test_use_is_what_auto_means():
    with selection.use(mixing="reference", other="xla"):
        assert choose() == "reference"
        assert choose("xla") == "xla"
        with selection.use(other="reference"):
            assert choose() == "reference"
    assert choose() == "xla"
    with selection.use(mixing="magic"), pytest.raises(ValueError, match="'magic' is none of auto"):
        choose()


def test_use_and_assume_know_what_there_is():
    with (
        pytest.raises(ValueError, match="mixin is none of mixing, other"),
        selection.use(mixin="xla"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="'cuda' is none of cpu, gpu, tpu"),
        selection.assume("cuda"),
    ):
        pass


def test_auto_is_no_way_out_of_what_use_says():
    with (
        selection.assume("gpu", (7, 0)),
        selection.use(mixing="pallas_triton"),
        pytest.raises(ValueError, match="; xla or reference would run here"),
    ):
        choose()


def test_a_compiled_function_is_made_anew_for_another_choice():
    chosen = []

    @jax.jit
    def function(x):
        chosen.append(choose())
        return x

    function(1.0)
    with selection.use(mixing="reference"):
        function(1.0)
    with selection.assume("gpu", (8, 0)):
        function.lower(1.0)
    function(2.0)
    assert chosen == ["xla", "reference", "pallas_triton"]


def test_the_device_that_is_there():
    assert selection.device() == selection.Device("cpu")


@pytest.mark.parametrize(("text", "capability"), [("8.0", (8, 0)), ("gfx90a", None), ("", None)])
def test_capability(text, capability):
    class Gpu:
        platform = "gpu"
        compute_capability = text

    assert selection.Device.of(Gpu()).capability == capability
