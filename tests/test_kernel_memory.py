"""tools/kernel_memory.py: the table of what operations take on GPUs that need not be there."""

import json
import sys

import kernel_memory
import pytest

from medjax import cli

pytestmark = pytest.mark.gpu_compile


def run(monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["kernel_memory.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.run(kernel_memory.main)
    assert exit_.value.code == 0
    return capsys.readouterr().out


def test_json(monkeypatch, capsys):
    (sizes,) = json.loads(run(monkeypatch, capsys, "--only", "SigLIP 448", "--json")).values()
    assert set(sizes) == {f"{i}, {gpu}" for i, gpu in kernel_memory.COLUMNS}
    operands = 4 * 1024 * 16 * 72 * 2  # q, k, v and the gradient of the result, in float16
    logits = 16 * 1024 * 1024 * 4
    assert {size["arguments"] for size in sizes.values()} == {operands}
    assert sizes["reference, v100"]["temporaries"] > logits
    for name in ("xla, v100", "xla, a100", "pallas_triton, a100", "pallas_triton, h100"):
        assert sizes[name]["temporaries"] < logits / 4


def test_table(monkeypatch, capsys):
    head, rule, row = run(monkeypatch, capsys, "--only", "masking").splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") == len(kernel_memory.COLUMNS) + 3
    assert row.startswith("| masking, 256 samples (forward) | 0.")


def test_no_such_case(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kernel_memory.py", "--only", "magic"])
    with pytest.raises(SystemExit) as exit_:
        cli.run(kernel_memory.main)
    assert exit_.value.code == 2
    assert "is in none of: attention, SigLIP 224" in capsys.readouterr().err
