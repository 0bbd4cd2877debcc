"""The examples of kernels/README.md run, one after the other, and give what they say."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from medjax_kernels import nf4

PAGE = pathlib.Path(__file__).parents[2] / "kernels" / "README.md"


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_examples():
    batch = 2
    names = dict(
        q=normal(0, batch, 260, 4, 16),
        k=normal(1, batch, 260, 2, 16),
        v=normal(2, batch, 260, 2, 16),
        lengths=jnp.array([260, 7]),
        hidden=normal(3, 6, 16),
        table=normal(4, 50, 16),
        targets=jnp.arange(6),
        weights=jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 2.0]),
        batch=batch,
        step=3,
        t1=jnp.zeros((batch, 196), jnp.int32),
        caption=jnp.ones((batch, 64), jnp.int32),
        kernel=normal(5, 64, 8),
        x=normal(6, 3, 64),
    )
    names["lengths"] = jnp.array([200, 7])
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(examples) == 4
    shapes = []
    for example in examples:
        if "caption" in example:  # which has lengths, too
            names["lengths"] = jnp.array([64, 7])
        exec(example, names)
        shapes.append(names["out"].shape)
    assert shapes[0] == names["q"].shape
    assert shapes[3] == (3, 8)
    assert np.isfinite(names["loss"])
    assert (names["scores"].loss[jnp.array([1, 4])] == 0).all()
    assert (names["masked"].input_counts.sum(axis=1) <= 128).all()
    np.testing.assert_array_equal(names["kernel"], nf4.dequantize(names["weights"]))


def test_pictures_are_there():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", PAGE.read_text())
    assert len(pictures) == 2
    for picture in pictures:
        assert (PAGE.parent / picture).is_file()
