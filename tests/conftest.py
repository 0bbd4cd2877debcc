"""What tests share: one device, a cache of compiled programs, and small files of one's own data.

The settings are environment variables, so that commands which tests start have them too.
"""

import os
import pathlib

_CACHE = pathlib.Path(__file__).parents[1] / ".cache"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("MEDJAX_DATA", str(_CACHE / "data"))
os.environ.setdefault("XDG_CACHE_HOME", str(_CACHE))
# Tests compile many programs and run each a few times; XLA's newer emitters of fused operations
# take a third of all the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

import dataclasses  # noqa: E402
import importlib  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402
from xdist.scheduler import LoadScopeScheduling  # noqa: E402

from medjax import cli  # noqa: E402

_RECIPES = pathlib.Path(__file__).parents[1] / "configs"
RECIPE = _RECIPES / "paligemma_lora.py"
COLORS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (20, 40, 190)}
FOURM_STAGES = ("t1_tokenizer", "tissue_tokenizer", "fourm")
TINY = {
    "img": {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "patch_size": 14},
    "llm": {
        "width": 16, "depth": 2, "mlp_dim": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8,
    },
}  # fmt: skip

# Files that share a fixture which costs more than being spread over the workers gains.
_TOGETHER = (
    ("test_paligemma_lora.py", "test_cli.py"),  # finished_run
    ("pipelines/fourm/test_fourm_resume.py", "pipelines/fourm/test_fourm_run.py"),  # own_run
    ("test_generate_fourm.py", "test_gqa_ablation.py"),  # fourm_run
)
# The files that take longest, longest first: who begins with them is not waited for in the end.
_FIRST = (
    "pipelines/fourm/test_fourm_resume.py",
    "scaling/test_sharding.py",
    "test_paligemma_lora.py",
    "training/test_fourm_objective.py",
    "kernels/test_attention.py",
    "test_fourm_recipe.py",
    "test_quickstart.py",
    "test_generate_fourm.py",
    "kernels/test_masking_rules.py",
    "parity/test_big_vision.py",
)


def _unit(nodeid: str) -> str:
    """What one worker does on its own: a file of tests, or files that share a costly fixture."""
    file = nodeid.split("::")[0].removeprefix("tests/")
    return next((files[0] for files in _TOGETHER if file in files), file)


class _Units(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return _unit(nodeid)


def pytest_xdist_make_scheduler(config, log):
    return _Units(config, log)


def pytest_xdist_auto_num_workers(config):
    """No workers where they would only be waited for, or keep what a test prints to themselves."""
    one_file = len(config.args) == 1 and ".py" in config.args[0]
    return 0 if one_file or config.option.capture == "no" else None


def pytest_collection_modifyitems(config, items):
    """The longest files first; what compiles for GPUs needs the extra `gpu-compile`."""
    from medjax.scaling import gpus

    rank = {file: i for i, file in enumerate(_FIRST)}
    items.sort(key=lambda item: rank.get(_unit(item.nodeid), len(rank)))
    if gpus.missing():
        reason = f"not installed (extra gpu-compile): {', '.join(gpus.missing())}"
        for item in items:
            if item.get_closest_marker("gpu_compile"):
                item.add_marker(pytest.mark.skip(reason=reason))


_files = itertools.count(1)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Compiled programs go now and then: those of all files would take 7 GB."""
    if nextitem is not None and nextitem.path != item.path and next(_files) % 8 == 0:
        jax.clear_caches()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code, and what it said where."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `python -m medjax.<name> arguments...` within this process, which saves its imports."""

    def run(name: str, *arguments) -> Outcome:
        main = importlib.import_module(f"medjax.{name}").main
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.run(main)
        return Outcome(exit_.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def own_data(tmp_path_factory) -> pathlib.Path:
    """A folder with {train,validation,test}.jsonl: colored squares, and what color they have."""
    folder = tmp_path_factory.mktemp("own data")
    rng = np.random.default_rng(0)
    for part, rows in {"train": 18, "validation": 6, "test": 5}.items():
        lines = []
        for i in range(rows):
            color = list(COLORS)[i % len(COLORS)]
            noise = rng.integers(-20, 20, (30, 30, 3))
            pixels = np.clip(np.array(COLORS[color]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{part}{i}.png")
            # Answers of different lengths, so that batches are ragged.
            answer = color if i % 2 else f"it is {color} all over"
            row = {"image": f"{part}{i}.png", "prefix": "answer en which color?", "suffix": answer}
            lines.append(json.dumps({"id": f"{part}-{i}"} | row))
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory, own_data) -> pathlib.Path:
    """A folder with tiny.npz (big_vision's format), tiny.json (its sizes) and tokenizer.model."""
    from medjax.checkpoints import big_vision, tensors
    from medjax.data.tokenizer import train_tokenizer
    from medjax.models import config as model_config

    folder = tmp_path_factory.mktemp("weights")
    rows = [json.loads(line) for line in (own_data / "train.jsonl").read_text().splitlines()]
    texts = [text for row in rows for text in (row["prefix"], row["suffix"])]
    tokenizer = train_tokenizer(texts, folder / "tokenizer.model", vocab_size=290)
    llm = TINY["llm"] | {"vocab_size": tokenizer.vocab_size}
    data = {"image_size": 28, "img": TINY["img"], "llm": llm}
    (folder / "tiny.json").write_text(json.dumps(data))
    config = model_config.from_dict(data)
    rng = np.random.default_rng(0)
    named = {
        name: (0.25 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in tensors.specs(config).items()
    }
    big_vision.write_npz(tensors.in_memory(config, named), folder / "tiny.npz")
    return folder


@pytest.fixture(scope="session")
def tiny_run(own_data, tiny_weights) -> tuple[str, ...]:
    """Arguments of medjax.train: the recipe for one's own data, at a tiny size, for 12 steps."""
    values = {
        "model": tiny_weights / "tiny.json",
        "init": tiny_weights / "tiny.npz",
        "tokenizer": tiny_weights / "tokenizer.model",
        "data.train.own.source": own_data / "train.jsonl",
        "data.validation.own.source": own_data / "validation.jsonl",
        "data.test.own.source": own_data / "test.jsonl",
        "image_size": 28,
        "text_length": 24,
        "batch_size": 4,
        "accumulation": 2,
        "epochs": 0,
        "steps": 12,
        "eval_every": 6,
        "log_every": 4,
        "optimizer.learning_rate": 0.03,
        "lora.dropout": 0.1,
        "decode.max_new_tokens": 6,
        "evaluate.batch_size": 4,
    }
    overrides = [f"--config.{key}={value}" for key, value in values.items()]
    return (f"--config={RECIPE}", *overrides)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, tiny_run) -> pathlib.Path:
    """The workdir of `tiny_run`, trained, evaluated and exported. To be read only."""
    from medjax import config as config_lib
    from medjax import pipelines

    path = tmp_path_factory.mktemp("runs") / "finished"
    recipe, *overrides = tiny_run
    pipelines.run(config_lib.load(recipe.removeprefix("--config="), overrides), path)
    return path


@pytest.fixture(scope="session")
def fourm_run(tmp_path_factory) -> pathlib.Path:
    """The workdir of 4M's quickstart, tiny and after a few steps. To be read only."""
    from medjax import config as config_lib
    from medjax import pipelines

    values = {
        "wordpiece_vocab_size": 400,
        "evaluate.examples": 3,
        "evaluate.batch_size": 2,
        "evaluate.num_steps": 2,
        "evaluate.directions": "t1 -> tok_tissue",
        "stages.fourm.batch_size": 4,
        "stages.fourm.steps": 6,
        "stages.fourm.model.width": 32,
        "stages.fourm.model.encoder_depth": 1,
        "stages.fourm.model.decoder_depth": 1,
    }
    for name in ("t1_tokenizer", "tissue_tokenizer"):
        values[f"stages.{name}.steps"] = 10
        values[f"stages.{name}.batch_size"] = 4
        for network in ("encoder", "decoder"):
            values[f"stages.{name}.tokenizer.{network}.width"] = 16
            values[f"stages.{name}.tokenizer.{network}.depth"] = 1
    overrides = [f"--config.{key}={value}" for key, value in values.items()]
    overrides += [f"--config.stages.{name}.eval_every=0" for name in FOURM_STAGES]
    overrides += [f"--config.stages.{name}.optimizer.warmup_steps=2" for name in FOURM_STAGES]
    path = tmp_path_factory.mktemp("runs") / "fourm"
    pipelines.run(config_lib.load(str(_RECIPES / "fourm_quickstart.py"), overrides), path)
    return path
