"""Compiling for GPUs that are not there: does it compile, and how much memory does it take?

XLA needs a description of the GPU (`gpu_targets/`, as XLA prints it of a real one), its CUDA plugin
and ptxas, all of which the extra `gpu-compile` installs; no driver, no GPU. What comes out is what
the real device would run, down to the buffers' sizes. How fast it would run nobody knows.
"""

import contextlib
import importlib.util
import pathlib
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from medjax_kernels import selection

from medjax.errors import UserError

_TARGETS = pathlib.Path(__file__).parent / "gpu_targets"
NAMES = tuple(sorted(path.stem for path in _TARGETS.glob("*.txtpb")))
_PACKAGES = {
    "jax_plugins.xla_cuda12": "jax-cuda12-plugin and jax-cuda12-pjrt",
    "nvidia.cuda_nvcc": "nvidia-cuda-nvcc-cu12",
}


def missing() -> list[str]:
    """The packages without which nothing can be compiled for a GPU here."""
    return [name for module, name in _PACKAGES.items() if not _found(module)]


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def devices(name: str, count: int = 1) -> list[jax.Device]:
    """`count` GPUs of one host that exist for the compiler alone.

    Args:
      name: one of `NAMES`.

    Raises:
      UserError: an unknown name, or packages that are not installed.
    """
    if name not in NAMES:
        raise UserError(f"GPU {name!r} is none of {', '.join(NAMES)}")
    if missing():
        raise UserError(
            f"compiling for a {name} needs {', '.join(missing())}: "
            "pip install 'medjax[gpu-compile]'"
        )
    text = (_TARGETS / f"{name}.txtpb").read_text()
    description = topologies.get_topology_desc(
        platform="cuda", topology_name=name, target_config=text, topology=f"1x1x{count}"
    )
    return list(description.devices)


def compile_for(
    name: str, function: Callable, *arguments, options: Mapping[str, str | bool] | None = None
) -> jax.stages.Compiled:
    """`function` compiled for one GPU of this name; it cannot be run.

    Args:
      function: anything that `jax.jit` takes, or what it made.
      *arguments: trees of arrays or of `jax.ShapeDtypeStruct`.
      options: of XLA, beside `compiler_options()`.

    Returns:
      The program; `memory_analysis()` tells its bytes.

    Raises:
      UserError: as `devices`.
      jax.errors.JaxRuntimeError: a program that the GPU could not run, for instance a kernel that
        takes more shared memory than there is.
    """
    target = devices(name)[0]
    sharding = NamedSharding(Mesh(np.array([target]), ("x",)), PartitionSpec())
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments
    )
    with selection.assume(*selection.Device.of(target)), _uncached():
        lowered = jax.jit(function).lower(*abstract)
        return lowered.compile(compiler_options={**compiler_options(), **(options or {})})


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """Keeps programs out of jax's persistent cache, from which these could not be read again.

    Nor would XLA write down anything of a program that comes from there.
    """
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, float("inf"))
    try:
        yield
    finally:
        jax.config.update(name, before)


def compiler_options() -> dict[str, str | bool]:
    """What `Lowered.compile` needs to know to compile for a GPU that is not there."""
    spec = importlib.util.find_spec("nvidia.cuda_nvcc")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("no CUDA compiler: pip install 'medjax[gpu-compile]'")
    return {
        "xla_gpu_cuda_data_dir": next(iter(spec.submodule_search_locations)),
        # As on the real device, whatever XLA_FLAGS says for the CPU.
        "xla_backend_optimization_level": "3",
        "xla_llvm_disable_expensive_passes": False,
    }
