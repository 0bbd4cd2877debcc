"""Small files of one's own data for 4M, a tiny run on them, and ways to disturb one."""

import json
import pathlib
import signal

import numpy as np
import pytest
from PIL import Image

from medjax import config as config_lib
from medjax import pipelines
from medjax.training.loop import Trainer

RECIPE = pathlib.Path(__file__).with_name("recipe.py")
SIDE = 20  # pixels, and so resized


@pytest.fixture(scope="session")
def fourm_data(tmp_path_factory) -> pathlib.Path:
    """{train,validation,test}.jsonl: a bright square, its labels, caption, box, and ids."""
    folder = tmp_path_factory.mktemp("4M data")
    rng = np.random.default_rng(0)
    for part, rows in {"train": 10, "validation": 6, "test": 5}.items():
        lines = []
        for i in range(rows):
            y, x = rng.integers(2, 10, 2).tolist()
            pixels = rng.integers(0, 60, (SIDE, SIDE)).astype(np.uint8)
            labels = np.zeros((SIDE, SIDE), np.uint8)
            pixels[y : y + 8, x : x + 8] += 150
            labels[y : y + 8, x : x + 8] = 1
            Image.fromarray(pixels).save(folder / f"{part}{i}.png")
            Image.fromarray(labels).save(folder / f"{part}{i}_organ.png")
            where = f"{'upper' if y < 6 else 'lower'} {'left' if x < 6 else 'right'}"
            box = [y / SIDE, x / SIDE, (y + 8) / SIDE, (x + 8) / SIDE]
            row = {
                "id": f"{part}-{i}",
                "scan": f"{part}{i}.png",
                "organ": f"{part}{i}_organ.png",
                "code": [y % 7, x % 7, (y + x) % 7, 3],
                "caption": f"an organ at the {where}",
                "det": [{"box": box, "label": "organ"}],
                "patient": f"p{i // 2}",
            }
            lines.append(json.dumps(row))
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def fourm_arguments(fourm_data) -> tuple[str, ...]:
    """Arguments of medjax.train for the tiny run."""
    return (f"--config={RECIPE}:{fourm_data}",)


@pytest.fixture(scope="session")
def train():
    """Runs a recipe within this process: (arguments, workdir) -> what `pipelines.run` returns."""

    def run(arguments, path) -> dict:
        recipe, *overrides = arguments
        config = config_lib.load(recipe.removeprefix("--config="), overrides)
        return pipelines.run(config, path)

    return run


@pytest.fixture(scope="session")
def own_run(tmp_path_factory, train, fourm_arguments) -> pathlib.Path:
    """The workdir of the tiny run, trained, evaluated and exported. To be read only."""
    path = tmp_path_factory.mktemp("4M runs") / "finished"
    train(fourm_arguments, path)
    return path


@pytest.fixture
def stopped(train, monkeypatch):
    """Trains until SIGTERM comes at a step of a stage: (arguments, workdir, stage, step)."""
    step = Trainer.step

    def run(arguments, path, stage: str, at: int) -> str:
        def terminated(trainer, *args, **kwargs):
            begun = (path / stage / "metrics.jsonl").exists()
            if begun and not (path / stage / "model").exists() and trainer.state.step == at - 1:
                signal.raise_signal(signal.SIGTERM)
            return step(trainer, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", terminated)
            with pytest.raises(pipelines.Interrupted) as stop:
                train(arguments, path)
        return str(stop.value)

    return run


@pytest.fixture(scope="session")
def changed():
    """Changes keys of the config: (arguments, {key: value}) -> arguments."""

    def change(arguments, changes) -> list[str]:
        kept = [a for a in arguments if a.split("=")[0].removeprefix("--config.") not in changes]
        return [*kept, *(f"--config.{key}={value}" for key, value in changes.items())]

    return change


@pytest.fixture(scope="session")
def edited(fourm_arguments):
    """Arguments of the tiny run with lines of Python at its recipe's end: (lines, new file)."""

    def edit(lines: str, path: pathlib.Path) -> tuple[str, ...]:
        recipe, data = fourm_arguments[0].removeprefix("--config=").split(":")
        text, end = pathlib.Path(recipe).read_text(), "    return c\n"
        assert text.endswith(end)
        more = "".join(f"    {line}\n" for line in lines.splitlines())
        path.write_text(text.removesuffix(end) + more + end)
        return (f"--config={path}:{data}",)

    return edit


@pytest.fixture(scope="session")
def written():
    """All that a run's folder holds for good, by path; its own path is the same in all."""
    patterns = (
        "wordpiece.json", "*/tokenizers.json", "*/reconstruction.json", "*/model/*",
        "evaluation/*.json", "evaluation/results.md", "ml-4m/*",
    )  # fmt: skip

    def read(run: pathlib.Path) -> dict[str, bytes]:
        files = [path for pattern in patterns for path in run.glob(pattern)]
        name = str(run).encode()
        return {
            str(path.relative_to(run)): path.read_bytes().replace(name, b"RUN")
            for path in sorted(files)
        }

    return read
