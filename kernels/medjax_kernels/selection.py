"""Which implementation of an operation runs: by device, dtype and width, from a table.

The choice is made while a function is traced and never by trying, so that it is the same on every
host, and can be asked for a device that is not there.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

log = logging.getLogger("medjax_kernels")


class Device(NamedTuple):
    """What the choice needs to know of a device.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      capability: CUDA's compute capability, (8, 0) for an A100; None where there is none.
    """

    platform: str
    capability: tuple[int, int] | None = None

    @classmethod
    def of(cls, device: jax.Device) -> "Device":
        """What jax says of one of its devices."""
        parts = str(getattr(device, "compute_capability", "")).split(".")
        if device.platform != "gpu" or len(parts) != 2 or not all(p.isdigit() for p in parts):
            return cls(device.platform)  # AMD's are called gfx90a and the like
        return cls(device.platform, (int(parts[0]), int(parts[1])))

    def __str__(self) -> str:
        if self.capability is None:
            return self.platform
        return "{} of compute capability {}.{}".format(self.platform, *self.capability)


class Support(NamedTuple):
    """What an implementation runs on, and when `auto` prefers it.

    Attributes:
      capability: the least compute capability of a GPU; None if it runs on every device. An
        implementation for GPUs runs on the CPU, too, interpreted: right, slow, for tests.
      dtypes: names of the dtypes that it computes in.
      widths: least and greatest width (of a head, of a row: the operation says which).
      auto: names of the dtypes for which `auto` takes it, on a device that it is made for.
    """

    capability: tuple[int, int] | None = None
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")
    widths: tuple[int, int] = (1, 2**31 - 1)
    auto: tuple[str, ...] = ("float32", "bfloat16", "float16")

    def obstacle(self, device: Device, dtype: str, width: int) -> str | None:
        """Why it can't run; None if it can."""
        if self.capability is not None and device.platform != "cpu":
            least = "GPUs of compute capability {}.{} and up".format(*self.capability)
            if device.platform != "gpu" or (device.capability or (0, 0)) < self.capability:
                return f"runs on {least}, and this is a {device}"
        if dtype not in self.dtypes:
            return f"computes in {', '.join(self.dtypes)}, not in {dtype}"
        if not self.widths[0] <= width <= self.widths[1]:
            return f"takes widths of {self.widths[0]} to {self.widths[1]}, not {width}"
        return None


PLATFORMS = ("cpu", "gpu", "tpu")
OPERATIONS = {"attention", "cross_entropy", "masking", "masking_pack", "nf4"}

# Both are part of jit's cache key: a function that was traced before is traced again within.
_assumed = jax.make_user_context(default_value=None)
_used = jax.make_user_context(default_value=())


@contextlib.contextmanager
def assume(platform: str, capability: tuple[int, int] | None = None) -> Iterator[None]:
    """Within, implementations are chosen and kernels made for this device instead of jax's own.

    For compiling for a device that is not there.

    Raises:
      ValueError: a platform that jax does not call so.
    """
    if platform not in PLATFORMS:
        raise ValueError(f"platform {platform!r} is none of {', '.join(PLATFORMS)}")
    with _assumed(Device(platform, capability)):
        yield


@contextlib.contextmanager
def use(**implementations: str) -> Iterator[None]:
    """Within, `auto` means these: `use(attention="xla")`. What a call names itself goes before.

    Of this thread alone. The name of `masking.pack` is masking_pack.

    Raises:
      ValueError: an unknown operation. An unknown implementation is told of by the operation.
    """
    unknown = sorted(set(implementations) - OPERATIONS)
    if unknown:
        raise ValueError(f"use: {', '.join(unknown)} is none of {', '.join(sorted(OPERATIONS))}")
    with _used(tuple(sorted({**dict(_used.value), **implementations}.items()))):
        yield


def device() -> Device:
    """The device that functions are traced for: the assumed one, or jax's default."""
    if _assumed.value is not None:
        return _assumed.value
    chosen = getattr(jax.config, "jax_default_device", None)
    if not isinstance(chosen, jax.Device):
        chosen = jax.devices(chosen)[0]
    return Device.of(chosen)


def interpreted() -> bool:
    """Whether kernels for GPUs are to be interpreted, since there is none."""
    return device().platform == "cpu"


def choose(
    operation: str, asked: str, table: Mapping[str, Support], *, dtype: jnp.dtype, width: int
) -> str:
    """The name of the implementation that runs.

    Args:
      operation: its name, as in `use` and in messages.
      asked: an implementation's name, or "auto": what `use` says, or the first in the table that
        is made for the device and prefers the dtype.
      table: the implementations, best first.
      dtype: that the operation computes in.
      width: as the operation defines it.

    Raises:
      ValueError: an unknown name, or an explicit choice that can't run here; says what can.
    """
    target, kind = device(), jnp.dtype(dtype).name
    named = asked != "auto"
    if not named:
        asked = dict(_used.value).get(operation, "auto")
    if asked not in (*table, "auto"):
        names = ", ".join(("auto", *table))
        raise ValueError(f"{operation}: implementation {asked!r} is none of {names}")
    if asked == "auto":
        return _automatic(operation, table, target, kind, width)
    obstacle = table[asked].obstacle(target, kind, width)
    if obstacle:
        others = [name for name in table if not table[name].obstacle(target, kind, width)]
        others += ["auto"] if others and named else []
        raise ValueError(
            f"{operation}: implementation {asked!r} {obstacle}; "
            f"{' or '.join(others) if others else 'no other'} would run here"
        )
    if table[asked].capability is not None and target.platform == "cpu":
        _say(f"{operation}: {asked} is interpreted on the CPU: right, and very slow")
    return asked


def _automatic(operation, table, target, kind, width) -> str:
    for name, support in table.items():
        made_for = support.capability is None or target.platform == "gpu"
        if made_for and kind in support.auto and not support.obstacle(target, kind, width):
            _say(f"{operation}: {name} ({target}, {kind}, width {width})")
            return name
    raise ValueError(
        f"{operation}: no implementation for {kind} of width {width} on a {target}: "
        + "; ".join(f"{name} {table[name].obstacle(target, kind, width)}" for name in table)
    )


_said: set[str] = set()


def _say(message: str) -> None:
    """Logs each message once."""
    if message not in _said:
        _said.add(message)
        log.info(message)
