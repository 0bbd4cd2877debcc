"""Which dtype matmuls run in, by device."""

import jax
import jax.numpy as jnp
from medjax_kernels.selection import Device

from medjax.errors import UserError

_NAMED = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def resolve(dtype: str, device: jax.Device | None = None) -> jnp.dtype:
    """The dtype meant by a config's name; "auto" asks the device.

    auto is float32 on the CPU, float16 on GPUs of compute capability 7.x (V100, T4: bfloat16 is
    emulated there), bfloat16 on newer GPUs and on TPUs.

    Raises:
      UserError: an unknown name.
    """
    if dtype in _NAMED:
        return jnp.dtype(_NAMED[dtype])
    if dtype != "auto":
        raise UserError(f"dtype {dtype!r} is none of auto, {', '.join(_NAMED)}")
    device = device or jax.devices()[0]
    if device.platform == "cpu":
        return jnp.dtype(jnp.float32)
    capability = Device.of(device).capability
    old = capability is not None and capability < (8, 0)
    return jnp.dtype(jnp.float16 if old else jnp.bfloat16)
