"""What the kernels of a program take of a GPU that is not there: shared memory, registers, spills.

XLA tells the shared memory, ptxas the rest. Registers that do not fit spill into slow memory, which
a good tile size avoids.
"""

import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from medjax.scaling import gpus


class Resources(NamedTuple):
    """What one thread block of a kernel takes.

    Attributes:
      shared: bytes of shared memory.
      registers: 32-bit registers of a thread.
      spilled: bytes of a thread's registers that are stored elsewhere.
    """

    shared: int
    registers: int
    spilled: int


def resources(gpu: str, function: Callable, *arguments) -> dict[str, Resources]:
    """Of each kernel of a program, Pallas' and XLA's own, by the kernel's name.

    Args:
      gpu: one of `gpus.NAMES`.
      function: what `jax.jit` takes.
      *arguments: trees of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
      UserError: an unknown GPU, or packages that are not installed.
      jax.errors.JaxRuntimeError: a kernel takes more shared memory than there is.
    """
    cuda = pathlib.Path(str(gpus.compiler_options()["xla_gpu_cuda_data_dir"]))
    with tempfile.TemporaryDirectory() as folder:
        gpus.compile_for(gpu, function, *arguments, options={"xla_dump_to": folder})
        return _read(pathlib.Path(folder), cuda)


def _read(folder: pathlib.Path, cuda: pathlib.Path) -> dict[str, Resources]:
    thunks = "\n".join(path.read_text() for path in folder.glob("*thunk_sequence.txt"))
    shared = re.findall(r"kCustomKernel.*\] (\w+) grid:.*shared_memory: (\d+) bytes", thunks)
    said = "".join(_assembled(path, cuda) for path in folder.glob("*.ptx"))
    return {
        name: Resources(int(size), *_registers(said, name))
        for name, size in shared
        if f"'{name}'" in said
    }


def _assembled(path: pathlib.Path, cuda: pathlib.Path) -> str:
    """What ptxas says of a file."""
    target = re.search(r"^\.target (\w+)", path.read_text(), re.MULTILINE)
    if target is None:
        return ""  # a module without code
    call = [str(cuda / "bin" / "ptxas"), "-v", f"-arch={target[1]}", str(path), "-o", os.devnull]
    return subprocess.run(call, check=True, capture_output=True, text=True).stderr


def _registers(said: str, name: str) -> tuple[int, int]:
    """(registers, bytes of spill stores) of one kernel."""
    text = said[said.index(f"'{name}'") :]
    (spilled, *_), (used, *_) = (
        re.findall(rf"{before}(\d+) {after}", text)
        for before, after in (("", "bytes spill stores"), ("Used ", "registers"))
    )
    return int(used), int(spilled)
