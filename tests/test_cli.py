"""The commands: exit codes, one clear line for each mistake, nothing left behind by one."""

import collections
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from medjax import cli
from medjax.checkpoints.model_folder import read_config
from medjax.data.tokenizer import train_tokenizer
from medjax.errors import UserError
from medjax.pipelines.paligemma import run as pipeline

Outcome = collections.namedtuple("Outcome", "code out err")

COMMANDS = ("train", "evaluate", "generate")


@pytest.mark.parametrize("name", COMMANDS)
def test_help(command, name):
    done = command(name, "--help")
    assert done.code == 0
    assert f"python -m medjax.{name}" in done.out
    assert "--workdir" in done.out
    assert "--json" in done.out
    assert ("MEDJAX_DATA" in done.out) == (name == "train")
    assert done.err == ""


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (None, 0, ""),
        (UserError("the key is wrong"), 2, "error: the key is wrong\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(capsys, outcome, code, said):
    def main():
        if outcome is not None:
            raise outcome

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == code
    assert capsys.readouterr() == ("", said)


def test_a_bug_is_shown_whole(capsys):
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)


def test_a_real_process(tmp_path):
    """What the shell sees; the other tests stay within this process."""
    run = [sys.executable, "-m", "medjax.train", "--config=nowhere.py"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: config 'nowhere.py' is no file")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# A mistake: changed overrides (None: left out), and what the error says.
MISTAKES = {
    "unknown key": ({"optimizer.schedul": "cosine"}, "unknown key optimizer.schedul"),
    "misspelt value": ({"optimizer.schedule": "cosin"}, "none of cosine, linear, constant"),
    "wrong type": ({"batch_size": "many"}, "batch_size=many"),
    "misspelt method": ({"decode.method": "gredy"}, "'gredy' is none of greedy, sample, beam"),
    "misspelt optimizer": ({"optimizer.optax_name": "adamm"}, "optax has no 'adamm'"),
    "optimizer of another kind": ({"optimizer.optax_name": "lbfgs"}, "optax.lbfgs .* fails"),
    "optimizer without schedules": ({"optimizer.optax_name": "rprop"}, "optax.rprop .* fails"),
    "misspelt target": ({"lora.targets": "('q_prj',)"}, "is called q_prj"),
    "misspelt tower": ({"lora.towers": "('eyes',)"}, "'eyes' is none of language_model"),
    "no scale": ({"lora.alpha": "0"}, "lora.alpha 0.0 must be a number above 0"),
    "all dropped": ({"lora.dropout": "1"}, r"lora.dropout 1.0 is not in \[0, 1\)"),
    "misspelt init": ({"lora.init": "zero"}, "'zero' is none of kaiming"),
    "pattern for nothing": (
        {"optimizer.lr_multipliers": "(('lora_c',0.1),)"}, "lora_c.*must name a parameter"
    ),
    "missing file": ({"data.train.own.source": "there.jsonl"}, "no file there.jsonl"),
    "missing test file": ({"data.test.own.source": "there.jsonl"}, "no file there.jsonl"),
    "missing dataset": ({"data.train.own.source": "mni125"}, "no dataset 'mni125': name one of"),
    "no data": ({"data.train.own.source": ""}, "set data.train.own.source to"),
    "missing folder": ({"data.train.own.image_root": "there"}, "image_root is there"),
    "task that is none": ({"data.train.own.tasks": "('find',)"}, 'no row with "task" .find'),
    "group that is none": ({"evaluate.group": "patient"}, "test-0 of own has no such key"),
    "unknown metric": ({"evaluate.metrics": "basic,blue"}, "no metric 'blue': name groups"),
    "results by nothing": ({"evaluate.by": "modality"}, "no results by 'modality'"),
    "unknown model": ({"model": "paligemma-4b"}, "'paligemma-4b' is neither a .json file nor"),
    "missing model": ({"model": "there.json"}, "there.json cannot be read"),
    "no weights": ({"init": ""}, "set init to the weights to start from"),
    "missing weights": ({"init": "there.npz"}, "init there.npz does not exist"),
    "other image size": ({"image_size": "42"}, "made for images of 28 pixels, not of 42"),
    "no tokenizer": ({"tokenizer": ""}, "brings no tokenizer; set tokenizer to Gemma's"),
    "missing tokenizer": ({"tokenizer": "there.model"}, "Cannot read the tokenizer there.model"),
    "steps and epochs": ({"epochs": "1"}, "set steps or epochs, and not both"),
    "neither": ({"steps": "0"}, "set steps or epochs"),
    "long warm-up": ({"optimizer.warmup_steps": "12"}, "warmup_steps 12 must be in"),
    "long text": (
        {"text_length": "13", "data.on_long_text": "error"},
        r"train.jsonl:\d+: the text of 'train-\d+' takes \d+ tokens, text_length is 13",
    ),
    "long question": (
        {"text_length": "2", "data.on_long_text": "error", "data.on_bad_example": "skip"},
        r"own has no row to use \(18 long text\)",
    ),
    "no room for text": ({"text_length": "1"}, "text_length is 1; it must be at least 2"),
    "large shift": ({"data.augment.shift": "2.0"}, r"data.augment.shift 2.0 is not in \[0, 1\)"),
    "nothing at all": (
        {"data.train.own.source": "", "init": "", "tokenizer": ""},
        "set data.train.own.source to .* set init to the weights to start from.* and tokenizer to",
    ),
    "mesh": ({"mesh.tensor": "3"}, "mesh data -1 x fsdp 1 x tensor 3 does not fit 1 devices"),
    "accumulation": ({"accumulation": "3"}, "batch_size 4 cannot be cut"),
}  # fmt: skip


def changed(arguments, changes) -> list[str]:
    kept = [a for a in arguments if a.split("=")[0].removeprefix("--config.") not in changes]
    return [*kept, *(f"--config.{key}={value}" for key, value in changes.items())]


def one_error(done) -> str:
    """The error of a command; what it said before is not looked at."""
    assert done.code == 2, done.err
    assert done.out == ""
    *_, last = done.err.splitlines()
    assert last.startswith("error: "), done.err
    assert done.err.count("error: ") == 1
    assert "Traceback" not in done.err
    return last


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(command, tiny_run, tmp_path, monkeypatch, name):
    changes, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    done = command("train", *changed(tiny_run, changes), "--workdir=run")
    assert re.search(message, one_error(done)), done.err
    assert list(tmp_path.iterdir()) == []


def test_mistakes_in_the_recipe(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "give a recipe" in one_error(command("train", "--config=there.py"))
    (tmp_path / "recipe.py").write_text("def get_config(): raise ValueError('no such disk')")
    done = command("train", "--config=recipe.py")
    assert "config recipe.py fails: ValueError: no such disk" in one_error(done)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.py"]


def test_a_tokenizer_that_is_too_large(command, tiny_run, tiny_weights, own_data, tmp_path):
    larger = tmp_path / "larger.model"
    found = train_tokenizer([f"word{chr(97 + i)}{i} " * 3 for i in range(26)], larger, 330)
    size = read_size(tiny_weights)
    assert found.vocab_size > size
    changes = {"tokenizer": larger}
    done = command("train", *changed(tiny_run, changes), f"--workdir={tmp_path / 'run'}")
    wanted = f"the tokenizer has {found.vocab_size} tokens, the model only {size}"
    assert wanted in one_error(done)
    assert not (tmp_path / "run").exists()


def test_what_transformers_lacks_is_told_of_before_training(
    command, tiny_run, tiny_weights, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    capped = json.loads((tiny_weights / "tiny.json").read_text())
    capped["llm"]["attn_logits_softcap"] = 5.0
    (tmp_path / "capped.json").write_text(json.dumps(capped))
    unigram = ModelProto.FromString((tiny_weights / "tokenizer.model").read_bytes())
    unigram.trainer_spec.model_type = unigram.trainer_spec.UNIGRAM
    (tmp_path / "unigram.model").write_bytes(unigram.SerializeToString())
    before = sorted(path.name for path in tmp_path.iterdir())
    for changes, message in [
        ({"model": "capped.json"}, "transformers' Gemma 1 knows neither attn_logits_softcap nor"),
        ({"tokenizer": "unigram.model"}, "unigram.model is no byte-pair encoding"),
    ]:
        error = one_error(command("train", *changed(tiny_run, changes), "--workdir=run"))
        assert message in error
        assert "set export.huggingface to False" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    changes |= {"export.huggingface": "False", "steps": "6", "data.test.own.source": ""}
    done = command("train", *changed(tiny_run, changes), "--workdir=run")
    assert done.code == 0, done.err


def read_size(weights) -> int:
    return json.loads((weights / "tiny.json").read_text())["llm"]["vocab_size"]


@pytest.fixture
def bad_data(own_data, tmp_path):
    """A train.jsonl whose third row names no image and whose fifth one is no image."""
    folder = shutil.copytree(own_data, tmp_path / "data")
    (folder / "train2.png").unlink()
    (folder / "train4.png").write_bytes(b"nothing")
    return folder / "train.jsonl"


def test_a_bad_row_stops_with_file_and_line(command, tiny_run, tmp_path, bad_data):
    arguments = changed(tiny_run, {"data.train.own.source": bad_data})
    error = one_error(command("train", *arguments, f"--workdir={tmp_path / 'run'}"))
    assert f"{bad_data}:3: the image {bad_data.parent / 'train2.png'} does not exist" in error
    assert "on_bad_example" in error
    assert not (tmp_path / "run").exists()


def test_bad_rows_may_be_left_out_and_are_counted(command, tiny_run, tmp_path, bad_data):
    changes = {
        "data.train.own.source": bad_data,
        "data.on_bad_example": "skip",
        # Found out after the data have been read.
        "optimizer.warmup_steps": 99,
    }
    done = command("train", *changed(tiny_run, changes), f"--workdir={tmp_path / 'run'}")
    assert "own: bad rows left out: " in done.err
    assert "1 missing image" in done.err
    one_error(done)


def test_long_texts_may_be_left_out_or_cut_and_are_counted(command, tiny_run, tmp_path, caplog):
    changes = {"text_length": 20, "optimizer.warmup_steps": 99}  # found out after the data are read
    arguments = changed(tiny_run, changes)
    left_out = ["--config.data.on_long_text=error", "--config.data.on_bad_example=skip"]
    done = command("train", *arguments, *left_out, f"--workdir={tmp_path / 'run'}")
    one_error(done)
    assert "own: bad rows left out: 9 long text" in done.err
    done = command("train", *arguments, f"--workdir={tmp_path / 'run'}")
    one_error(done)
    assert (
        "train: data.train.own: 9 of 18 texts take more than text_length = 20 tokens" in caplog.text
    )
    assert "train: data.validation.own: 3 of 6 texts take" in caplog.text


@pytest.fixture
def snapshot(finished_run):
    """What the finished run's folder holds, to see that it is left alone."""

    def take() -> dict:
        return {p: p.stat().st_mtime_ns for p in finished_run.rglob("*") if p.is_file()}

    return take


def test_a_finished_run_is_told_of_at_once(command, tiny_run, finished_run, snapshot):
    before = snapshot()
    done = command("train", *tiny_run, f"--workdir={finished_run}", "--json")
    assert done.code == 0
    for word in ("trained already", "evaluated already", "exported already"):
        assert word in done.err
    results = json.loads((finished_run / "evaluation" / "results.json").read_text())
    outcome = json.loads(done.out)
    assert outcome["results"] == results
    assert outcome["export"]["huggingface"] == str(finished_run / "huggingface")
    changed_files = {p.name for p, when in snapshot().items() if before.get(p) != when}
    assert changed_files <= {"config.json"}


def test_a_workdir_of_another_config(command, tiny_run, finished_run, snapshot):
    before = snapshot()
    done = command("train", *changed(tiny_run, {"seed": 1}), f"--workdir={finished_run}")
    assert "belongs to another config: seed was 0 and is now 1" in one_error(done)
    assert snapshot() == before


def test_a_workdir_of_other_things(command, tiny_run, own_data):
    before = sorted(own_data.iterdir())
    done = command("train", *tiny_run, f"--workdir={own_data}")
    assert "holds something else" in one_error(done)
    assert sorted(own_data.iterdir()) == before


def test_a_workdir_that_cannot_be_written_to(command, tiny_run, own_data):
    done = command("train", *tiny_run, f"--workdir={own_data / 'train.jsonl' / 'run'}")
    assert "cannot be written to" in one_error(done)


CHECKPOINT_FILES = (
    "data/metadata", "state/_METADATA", "state/array_metadatas/*", "state/manifest.ocdbt",
    "state/d/*", "state/ocdbt.process_0/d/*",
)  # fmt: skip


@pytest.mark.parametrize("kind", CHECKPOINT_FILES)
def test_a_truncated_checkpoint(tiny_run, finished_run, tmp_path, kind):
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run / "train" / "model")
    (step,) = (run / "train" / "checkpoints").iterdir()
    for path in step.glob(kind):
        path.write_bytes(path.read_bytes()[:100])

    def snapshot():
        return {p: p.stat().st_mtime_ns for p in (run / "train").rglob("*") if p.is_file()}

    before = snapshot()
    # A process of its own: what orbax' threads would say comes at its end.
    started = [sys.executable, "-m", "medjax.train", *tiny_run, f"--workdir={run}"]
    done = subprocess.run(started, capture_output=True, text=True)
    error = one_error(Outcome(done.returncode, done.stdout, done.stderr))
    assert f"{step} cannot be restored: it is damaged" in error
    assert snapshot() == before


def test_a_run_goes_on_from_its_checkpoint(command, tiny_run, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run / "train" / "model")
    done = command("train", *tiny_run, f"--workdir={run}")
    assert done.code == 0
    assert "continuing from step 12" in done.err


def test_a_home_folder_is_found(command, tiny_run, finished_run, own_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.copy(own_data / "test1.png", tmp_path / "scan.png")
    done = command("train", *tiny_run, "--workdir=~/run")
    assert "trained already" in done.err
    done = command("evaluate", "--workdir=~/run", "--config.evaluate.group=patient")
    assert "has no such key" in one_error(done)
    done = command("generate", "--workdir=~/run", "--image=~/scan.png", "--prompt=answer en what?")
    assert done.code == 0, done.err


def test_evaluate_again(command, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run / "evaluation")
    shutil.rmtree(run / "train" / "checkpoints")  # not needed any more
    done = command("evaluate", f"--workdir={run}", "--json")
    assert done.code == 0, done.err
    wanted = json.loads((finished_run / "evaluation" / "results.json").read_text())
    assert json.loads(done.out) == wanted
    files = (
        "results.json",
        "results.md",
        "predictions.jsonl",
        "predictions.parquet",
        "settings.json",
    )
    for name in files:
        ours, theirs = ((p / "evaluation" / name).read_bytes() for p in (run, finished_run))
        assert ours == theirs, name


def test_evaluate_another_part(command, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    done = command(
        "evaluate", f"--workdir={run}", "--part=validation", "--json",
        "--config.evaluate.majority=False", "--config.evaluate.examples=3",
    )  # fmt: skip
    assert done.code == 0, done.err
    outcome = json.loads(done.out)
    assert outcome["systems"] == ["train"]
    assert outcome["overall"]["exact_match"]["questions"] == 3
    assert len((run / "evaluation_validation" / "predictions.jsonl").read_text().splitlines()) == 3
    # The test's results are still the test's.
    done = command("train", f"--config={_recipe_of(run)}", f"--workdir={run}")
    assert "evaluated already" in done.err


def test_cut_questions_are_counted(command, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    done = command("evaluate", f"--workdir={run}", "--json", "--config.text_length=8")
    assert done.code == 0, done.err
    assert json.loads(done.out)["truncated"] == {"majority answer": 0, "train": 5}
    assert "read without their end: train 5." in done.err
    refused = command(
        "evaluate", f"--workdir={run}", "--config.text_length=8", "--config.data.on_long_text=error"
    )
    assert "test.jsonl:1: the text of 'test-0' takes" in one_error(refused)


def _recipe_of(run: pathlib.Path) -> pathlib.Path:
    """A recipe that says what a run's config.json says."""
    path = run.parent / "recipe.py"
    path.write_text(
        "import json\nfrom ml_collections import ConfigDict\n"
        f"def get_config(): return ConfigDict(json.load(open({str(run / 'config.json')!r})))\n"
    )
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=there"], "there is no workdir of a run"),
        (["--workdir={run}", "--config.decode.method=gredy"], "'gredy' is none of"),
        (["--workdir={run}", "--config.decode.metod=x"], "unknown key decode.metod"),
        (["--workdir={run}", "--config.evaluate.group=patient"], "has no such key"),
    ],
)
def test_evaluate_mistakes(command, finished_run, snapshot, arguments, message):
    before = snapshot()
    done = command("evaluate", *(a.format(run=finished_run) for a in arguments))
    assert message in one_error(done)
    assert snapshot() == before


def test_evaluate_before_training(command, finished_run, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(finished_run / "config.json", tmp_path / "run")
    done = command("evaluate", f"--workdir={tmp_path / 'run'}")
    assert "stage train is not trained yet; run medjax.train" in one_error(done)


def test_the_models_sizes_are_in_its_folder(finished_run, tiny_weights):
    assert read_config(finished_run / "train" / "model").llm.vocab_size == read_size(tiny_weights)


@pytest.mark.parametrize("name", ["huggingface", "huggingface/tokenizer.model"])
def test_an_export_that_is_gone_is_made_again(command, tiny_run, finished_run, tmp_path, name):
    run = shutil.copytree(finished_run, tmp_path / "run")
    wanted = (run / "export.json").read_bytes().replace(bytes(finished_run), bytes(run))
    (run / "huggingface" / "README.md").write_text("the user's own")
    done = command("train", *tiny_run, f"--workdir={run}")
    assert "exported already" in done.err
    _remove(run / name)
    done = command("train", *tiny_run, f"--workdir={run}")
    assert done.code == 0, done.err
    assert "evaluated already" in done.err
    assert f"exported to {run / 'huggingface'}; not verified" in done.err
    assert (run / name).exists()
    assert (run / "export.json").read_bytes() == wanted


@pytest.mark.parametrize("name", ["results.json", "results.md", "predictions.html"])
def test_an_evaluation_of_which_a_file_is_gone_is_made_again(
    command, tiny_run, finished_run, tmp_path, name
):
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "evaluation" / name).unlink()
    done = command("train", *tiny_run, f"--workdir={run}", "--json")
    assert done.code == 0, done.err
    assert "exported already" in done.err
    assert json.loads(done.out)["results"]["systems"] == ["majority answer", "train"]
    assert (run / "evaluation" / name).exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"settings": {}, "files": 3}', "\xff"])
def test_what_is_damaged_counts_as_not_done(
    command, tiny_run, finished_run, tmp_path, monkeypatch, content
):
    made = []
    monkeypatch.setattr(pipeline, "evaluate", lambda *_: made.append("evaluation"))
    monkeypatch.setattr(pipeline, "export", lambda *_: made.append("export"))
    run = shutil.copytree(finished_run, tmp_path / "run")
    for path in (run / "export.json", run / "evaluation" / "settings.json"):
        path.write_bytes(content.encode("latin-1"))
    done = command("train", *tiny_run, f"--workdir={run}")
    assert done.code == 0, done.err
    assert made == ["evaluation", "export"]


def _remove(path: pathlib.Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_another_export_is_made_when_asked_for(command, tiny_run, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    arguments = changed(tiny_run, {"export.dtype": "bfloat16", "export.verify": "True"})
    done = command("train", *arguments, f"--workdir={run}", "--json")
    assert done.code == 0, done.err
    assert "evaluated already" in done.err
    assert json.loads(done.out)["export"]["max_logit_difference"] > 0
    sizes = [(p / "huggingface" / "model.safetensors").stat().st_size for p in (run, finished_run)]
    assert 0.4 < sizes[0] / sizes[1] < 0.6
