"""How the libraries behave under medjax's commands."""

import logging

import jax

from medjax import cache


def prepare_libraries() -> None:
    """Compiled programs are kept for the next run; libraries' notes stay out of the way."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "jax"))
    # Else programs of several devices would have another name in each process; the kernels mark
    # what they compute (medjax_kernels/mark.py).
    jax.config.update("jax_remove_custom_partitioning_ptr_from_cache_key", True)
    logging.getLogger("absl").setLevel(logging.ERROR)
