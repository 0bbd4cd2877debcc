"""Which implementation of each kernel a run uses, as its config says."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import jax.numpy as jnp
from medjax_kernels import selection, use
from medjax_kernels.attention import SUPPORT as ATTENTION
from medjax_kernels.cross_entropy import SUPPORT as CROSS_ENTROPY
from ml_collections import ConfigDict

from medjax.errors import UserError

_SUPPORT = {"attention": ATTENTION, "cross_entropy": CROSS_ENTROPY}


@contextlib.contextmanager
def using(config: ConfigDict) -> Iterator[None]:
    """Within, models compute with the implementations that `config.kernels` names."""
    with use(**config.kernels.to_dict()):
        yield


def check(config: ConfigDict, widths: Mapping[str, Iterable[int]], dtype: jnp.dtype) -> None:
    """Raises UserError if an implementation that the config names cannot run on this device.

    Args:
      widths: of each operation that the model computes, {"attention": head widths,
        "cross_entropy": widths of the hidden states}.
      dtype: of the matmuls.
    """
    for operation, values in widths.items():
        asked = config.kernels[operation]
        for width in values:
            try:
                selection.choose(operation, asked, _SUPPORT[operation], dtype=dtype, width=width)
            except ValueError as error:
                raise UserError(f"kernels.{error}") from error
