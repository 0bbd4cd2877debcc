"""The cross entropy is the same on one device and on eight, however tokens and table are cut."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("cross_entropy_on_meshes.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the script found, in a process of its own: this one has one device."""
    output = tmp_path_factory.mktemp("meshes") / "results.npz"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, SCRIPT, output], env=environment, check=True, timeout=600)
    with np.load(output) as found:
        return dict(found)


@pytest.mark.parametrize(
    ("implementation", "mesh", "hidden", "table"),
    [
        ("xla", "8x1x1", (2, 8), (48, 8)),
        ("xla", "2x2x2", (4, 8), (24, 4)),
        ("xla", "1x8x1", (2, 8), (48, 1)),
        ("xla", "1x1x8", (16, 8), (6, 8)),
        ("pallas_triton", "2x2x2", (4, 8), (24, 4)),
    ],
)
def test_as_on_one_device(results, implementation, mesh, hidden, table):
    for what in ("loss", "log_prob", "argmax", "d_hidden", "d_table"):
        found, wanted = (
            results[f"{implementation}/{mesh}/{what}"],
            results[f"reference/single/{what}"],
        )
        assert np.any(wanted != 0)
        # Sums of float32 in another order.
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=5e-6, err_msg=what)
    # Gradients lie where the arrays lie: nothing was gathered for them.
    np.testing.assert_array_equal(results[f"{implementation}/{mesh}/part of d_hidden"], hidden)
    np.testing.assert_array_equal(results[f"{implementation}/{mesh}/part of d_table"], table)


def test_programs_differ_where_their_results_do(results):
    # Or a cache of compiled programs would take one for the other.
    first, again, other = results["programs"]
    assert "CustomSPMDPartitioning" in first
    assert first == again
    assert first != other
