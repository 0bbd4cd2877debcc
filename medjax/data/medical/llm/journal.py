"""The journal of a model's answers: every one is on disk before it is used, and asked for once.

A file of JSON lines, to which answers are appended as they come:

    {"key": "9f2c...", "model": "llama", "prompt": "caption 1a2b...", "text": "{\\"pairs\\": ...",
     "finish": "stop", "tokens_in": 512, "tokens_out": 96}

The key is the SHA-256 of all that the answer depends on (model, messages, schema, parameters), so
a journal may serve any number of runs and tables. A process that is killed while it writes leaves
half a line behind, which the next takes off.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from medjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Answer:
    """What an endpoint gave for a request.

    Attributes:
      text: of the model.
      finish: why it stopped: "stop", "length", ...
      tokens_in: of the request, as the endpoint counts; None where it doesn't say.
      tokens_out: of the answer; None where it doesn't say.
    """

    text: str
    finish: str
    tokens_in: int | None
    tokens_out: int | None


def key_of(**content: Any) -> str:
    """The SHA-256 of what JSON can say, in hex."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """The answers of a file, and of those to come; threads may share it."""

    def __init__(self, path: Path, *, writes: bool = True):
        """Reads a file, if there is one.

        Args:
          path: of the file.
          writes: whether answers may be added; if not, nothing on disk is touched.

        Raises:
          UserError: another process is adding to it, or a line is damaged.
        """
        self.path = path
        self._answers: dict[str, Answer] = {}
        self._lock = threading.Lock()
        self._file = None
        if writes:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("ab+")
            except OSError as error:
                raise UserError(
                    f"The journal {path} can't be written ({error.strerror})."
                ) from error
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise UserError(
                    f"{path} is in use by another process: wait for it, or name another --journal."
                ) from error
            except OSError:
                pass  # some file systems have no locks
        try:
            whole = self._read()
        except UserError:
            self.close()
            raise
        if self._file:
            self._file.truncate(whole)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        if self._file:
            self._file.close()

    def get(self, key: str) -> Answer | None:
        """The answer under a key, if there is one."""
        return self._answers.get(key)

    def add(self, key: str, answer: Answer, **about: str) -> None:
        """Appends an answer; it is on disk when this returns."""
        line = json.dumps({"key": key, **about, **dataclasses.asdict(answer)}) + "\n"
        with self._lock:
            self._answers[key] = answer
            if self._file:
                self._file.write(line.encode())
                self._file.flush()
                os.fsync(self._file.fileno())

    def _read(self) -> int:
        """Reads all whole lines; how many bytes they are."""
        whole = 0
        if not self.path.exists():
            return whole
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    row = json.loads(line)
                    answer = {f.name: row[f.name] for f in dataclasses.fields(Answer)}
                    self._answers[row["key"]] = Answer(**answer)
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"{self.path}:{number} is no line of a journal ({error}): remove it, and "
                        "its request is asked again; or name another --journal."
                    ) from error
        return whole
