"""The sizes at which models attend, for compiling at them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from medjax_kernels import Tokens, attention


class Size(NamedTuple):
    """A call of attention; names of `Tokens`' fields say which rules the sides have."""

    batch: int
    length: int  # of the queries
    heads: int
    kv_heads: int
    width: int
    queries: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    soft_cap: float | None = None
    window: int | None = None
    keys_length: int | None = None  # as the queries' if None

    def at(self, length: int) -> "Size":
        """The same model with a longer sequence."""
        return self._replace(length=length, keys_length=None)

    def arguments(self, dtype=jnp.float16) -> tuple:
        """Abstract q, k, v, d_out and the tokens of both sides."""
        others = self.keys_length or self.length
        q = jax.ShapeDtypeStruct((self.batch, self.length, self.heads, self.width), dtype)
        k = jax.ShapeDtypeStruct((self.batch, others, self.kv_heads, self.width), dtype)
        queries = self._tokens(self.queries, self.length)
        return q, k, k, q, queries, self._tokens(self.keys, others)

    def _tokens(self, names, length) -> Tokens:
        def field(name):
            dtype = bool if name == "valid" else jnp.int32
            return jax.ShapeDtypeStruct((self.batch, length), dtype)

        return Tokens(**{name: field(name) for name in names})

    def forward(self, implementation: str) -> Callable:
        """A function of q, k, v and both sides' tokens."""
        options = dict(soft_cap=self.soft_cap, window=self.window)
        attend = functools.partial(attention, implementation=implementation, **options)
        return lambda q, k, v, queries, keys: attend(q, k, v, queries=queries, keys=keys)

    def gradient(self, implementation: str) -> Callable:
        """A function of `arguments`: output and gradients."""
        attend = self.forward(implementation)

        def function(q, k, v, d_out, queries, keys):
            out, pull = jax.vjp(lambda *x: attend(*x, queries, keys), q, k, v)
            return out, *pull(d_out)

        return function

    def fused_bytes(self) -> int:
        """What a fused kernel keeps beside arguments and results, all float32.

        log-sum-exp and sum of out * d_out of each query, and sums of the gradients of keys and
        values that query heads share.
        """
        *_, heads, width = self.arguments()[1].shape
        shared = 2 * self.batch * (self.keys_length or self.length) * heads * width
        rows = 2 * self.batch * self.heads * self.length
        return 4 * (rows + (shared if self.heads > heads else 0))


_PREFIX = dict(queries=("block",), keys=("block", "valid"))
_SIGLIP = Size(1, 256, 16, 16, 72)
_GEMMA = Size(1, 512, 8, 1, 256, **_PREFIX)
_GEMMA2 = Size(1, 512, 8, 4, 256, **_PREFIX, soft_cap=50.0, window=4096)
_4M = ("modality", "block", "valid")
_DECODER = Size(1, 256, 32, 32, 64, _4M, _4M)

SIZES = {
    **{f"siglip-{n}": _SIGLIP.at(n) for n in (256, 1024, 4096)},
    **{f"siglip-8x{n}": _SIGLIP.at(n)._replace(batch=8) for n in (256, 1024, 4096)},
    **{f"gemma-{n}": _GEMMA.at(n) for n in (512, 1024, 2048, 4096)},
    "gemma-8x512": _GEMMA._replace(batch=8),
    **{f"gemma2-2b-{n}": _GEMMA2.at(n) for n in (1024, 4096)},
    **{f"gemma2-9b-{n}": _GEMMA2.at(n)._replace(heads=16, kv_heads=8) for n in (1024, 4096)},
    **{f"4m-xl-{n}": _DECODER.at(n) for n in (128, 256, 1024)},
    "4m-xl-8x256": _DECODER._replace(batch=8),
    "4m-xl-cross": _DECODER._replace(queries=(), keys=("valid",), keys_length=256),
}
# The same at lengths that double.
SERIES = {
    "siglip": [_SIGLIP.at(n)._replace(batch=8) for n in (256, 512, 1024, 2048, 4096)],
    "gemma": [_GEMMA.at(n)._replace(batch=8) for n in (512, 1024, 2048, 4096)],
    "gemma2": [_GEMMA2.at(n)._replace(batch=8) for n in (512, 1024, 2048, 4096)],
}
DECODING = {
    "gemma": Size(8, 1, 8, 1, 256, keys=("valid",), keys_length=4096),
    "gemma2-2b": Size(8, 1, 8, 4, 256, keys=("valid",), keys_length=4096, soft_cap=50.0),
    "gemma, 4 tokens": Size(8, 4, 8, 1, 256, keys=("valid",), keys_length=4096),
}
