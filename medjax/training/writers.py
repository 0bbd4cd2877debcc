"""Where numbers go as training goes on: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping

from medjax.files import write_whole


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Within it, a module that is not loaded yet seems not to be installed."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # Python's way to say so
    try:
        yield
    finally:
        del sys.modules[module]


with _hidden("torch"):  # tensorboardX loads all of PyTorch where there is one, to know its tensors
    from tensorboardX import SummaryWriter


class MetricsWriter:
    """Appends one JSON object a line, {"step": ..., name: value, ...}, and TensorBoard scalars."""

    def __init__(self, folder: pathlib.Path, resume_step: int = 0):
        """Drops lines of steps after `resume_step`, which will be written again."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        if path.exists():
            _keep_until(path, resume_step)
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of one step."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._events.close()


def _keep_until(path: pathlib.Path, step: int) -> None:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that a kill cut short
        if row["step"] <= step:
            kept.append(line)
    write_whole(path, "".join(line + "\n" for line in kept).encode())
