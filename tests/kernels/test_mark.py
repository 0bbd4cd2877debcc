"""The mark of a partitioned call: one for each function, and for each state of the package."""

import jax.numpy as jnp
import numpy as np
from medjax_kernels import mark as module
from medjax_kernels.mark import mark

X = jnp.ones(3)


def test_functions_have_marks_of_their_own(monkeypatch):
    marks = [mark(function, X) for function in (jnp.sin, jnp.cos, lambda x: 2 * x)]
    assert len({int(x[0]) for x in marks}) == 3
    np.testing.assert_array_equal(mark(jnp.sin, X), marks[0])
    # Repaired code of a device's part, which the function's own text does not show.
    monkeypatch.setattr(module, "_package", lambda: 1)
    assert mark(jnp.sin, X)[0] != marks[0][0]


def test_the_package_is_in_the_mark(tmp_path, monkeypatch):
    for text in ("a = 1", "a = 2"):
        (tmp_path / "mark.py").write_text(text)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "mark.py"))
    sums = []
    for text in ("a = 1", "a = 2"):
        (tmp_path / "part.py").write_text(text)
        module._package.cache_clear()
        sums.append(module._package())
    module._package.cache_clear()
    assert sums[0] != sums[1]
