"""Nothing of medjax brings in TensorFlow or PyTorch, and its parts depend on each other one way."""

import ast
import json
import pathlib
import pkgutil
import subprocess
import sys

import medjax_kernels

import medjax

# As if both were installed: whoever imports one is noted, and fails as if it were not.
WATCHED = """
import importlib.machinery, json, sys

imported = []

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "torch"):
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        imported.append(module.__name__)
        raise ImportError(f"{module.__name__} is imported")

sys.meta_path.insert(0, Watch())

def report():
    print(json.dumps(imported))
"""


def watched(code: str, *arguments: str) -> list[str]:
    """Runs code in a fresh interpreter and returns which of the two it imported."""
    result = subprocess.run(
        [sys.executable, "-c", WATCHED + code, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def submodules(package) -> list[str]:
    return [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


def test_the_watch_sees():
    code = "try:\n import torch.nn\nexcept ImportError: pass\nreport()"
    assert watched(code) == ["torch"]


def test_the_packages():
    assert watched("import medjax, medjax_kernels\nreport()") == []


def test_every_module():
    names = submodules(medjax) + submodules(medjax_kernels)
    assert {"medjax.train", "medjax.training.loop", "medjax_kernels.attention.xla"} <= set(names)
    code = "import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\nreport()"
    assert watched(code, *names) == []


def test_a_whole_run(tiny_run, tmp_path):
    """Data, training, checkpoints, evaluation and export; also what is only imported when used."""
    found = watched(
        "from medjax import cli, train\n"
        "try: cli.run(train.main)\n"
        "except SystemExit as end: assert end.code == 0\n"
        "report()",
        *tiny_run,
        f"--workdir={tmp_path / 'run'}",
        "--config.steps=6",
        "--config.export.verify=True",
    )
    assert (tmp_path / "run" / "export.json").exists()
    assert (tmp_path / "run" / "evaluation" / "predictions.png").exists()
    assert found == []


def imports(package) -> dict[str, set[str]]:
    """The modules that each file of a package imports anywhere in it."""
    root = pathlib.Path(package.__path__[0])
    found = {}
    for path in root.rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[path.relative_to(root).as_posix()] = names
    return found


def test_kernels_stand_alone():
    for path, names in imports(medjax_kernels).items():
        assert not [n for n in names if n.split(".")[0] == "medjax"], path


def test_no_module_names_foreign_frameworks():
    for path, names in (imports(medjax) | imports(medjax_kernels)).items():
        assert not [n for n in names if n.split(".")[0] in ("tensorflow", "torch")], path


# kernels <- models <- training, decoding <- commands; data knows no model.
FORBIDDEN = {
    "data": ("models", "training", "decoding", "checkpoints", "evaluation"),
    "models": ("data", "training", "decoding", "checkpoints", "evaluation"),
    "decoding": ("data", "training", "checkpoints", "evaluation"),
    "checkpoints": ("training", "decoding", "evaluation"),
}


def test_arrows_point_one_way():
    for path, names in imports(medjax).items():
        room = path.split("/")[0]
        for other in FORBIDDEN.get(room, ()):
            wrong = [n for n in names if f"{n}.".startswith(f"medjax.{other}.")]
            assert not wrong, f"{path} imports {wrong}"
