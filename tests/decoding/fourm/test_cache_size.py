"""Bytes of the decoder's keys and values: counted, of shapes alone, and by the formula."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.decoding.fourm.cache_size import (
    CacheSize,
    abstract_memory,
    cache_size,
    memory_of,
    size_by_formula,
)
from medjax.models.fourm import FourM, variant


@pytest.mark.parametrize("heads", [1, 2])
def test_arrays_have_the_size_that_shapes_and_formula_say(config, heads):
    config = dataclasses.replace(config, num_kv_heads=heads)
    memory = memory_of(FourM(config, rngs=nnx.Rngs(0)), 7, 5)
    counted = [sum(np.asarray(x).nbytes for x in of) for of in (memory.past, memory.context)]
    # Keys and values of 2 layers, heads of 8 numbers, 4 bytes; one register token is read, too.
    token = 2 * 2 * heads * 8 * 4
    assert counted == [5 * token, 8 * token]
    assert cache_size(memory) == CacheSize(*counted)
    assert cache_size(abstract_memory(config, 7, 5, jnp.float32)) == CacheSize(*counted)
    assert size_by_formula(config, 7, 5, jnp.float32) == CacheSize(*counted)


def test_the_largest_model_needs_no_memory_to_be_counted():
    name = "fm_xlarge_24e_24d_swiglu_nobias"
    config = variant(name, ("rgb", "caption"), ("caption",), num_kv_heads=8)
    size = cache_size(abstract_memory(config, 256, 128, jnp.bfloat16))
    assert size == CacheSize(past=6 * 2**20, context=12 * 2**20)
