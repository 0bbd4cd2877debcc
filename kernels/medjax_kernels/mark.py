"""Tells partitioned calls apart in jax's persistent cache of compiled programs.

A program for several devices names the function of a `custom_partitioning` and holds none of it.
Without more, the cache would take two functions for one, or a repaired one for the broken one.
"""

import functools
import pathlib
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


@functools.cache
def _package() -> int:
    """A checksum of this package's code: what each device computes is in no program's text."""
    total = 0
    for path in sorted(pathlib.Path(__file__).parent.rglob("*.py")):
        total = zlib.crc32(path.read_bytes(), total)
    return total


def mark(function: Callable, *arrays) -> UInt32[Array, "1"]:
    """An operand for the call: a checksum of the function of these arrays, and of the package."""
    text = str(jax.make_jaxpr(function)(*arrays))
    return jnp.full(1, zlib.crc32(text.encode(), _package()), jnp.uint32)
