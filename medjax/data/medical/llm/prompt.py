"""Prompts: Markdown files with a head, a part for the system and a part for the user.

    ---
    source: caption
    mode: pre_training
    requires: caption
    tasks: modality, plane, findings
    ---
    # System
    You write questions ...
    # User
    Caption: {caption}
    Write at most {pairs} pairs.

`{name}` stands for a fact of the record (`record.SHORT_FACTS`, `record.LONG_FACTS`) or for one of
`SETTINGS`; braces around anything but a name are left as they are. A line of which every fact is
unknown is left out. `source` ("caption" or "case") and `mode` ("pre_training" or "alignment") go
into the table; `requires` names the facts without which a record is not asked about; `tasks` are
those among which the model chooses. The system's part may be empty: some models have none.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from medjax.data.medical.record import LONG_FACTS, SHORT_FACTS, Record
from medjax.errors import UserError

NAMES = ("caption", "case")
SOURCES = ("caption", "case")
MODES = ("pre_training", "alignment")
FACTS = (*SHORT_FACTS, *LONG_FACTS)
SETTINGS = ("pairs", "language")

_HEAD = ("source", "mode", "requires", "tasks")
_PARTS = re.compile(
    r"\A---\n(?P<head>.*?)^---\n\s*^# System[ ]*\n(?P<system>.*?)^# User[ ]*\n(?P<user>.*)\Z",
    re.DOTALL | re.MULTILINE,
)
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt as its file has it.

    Attributes:
      name: of the file, without extension.
      digest: the first 12 hex digits of its content's SHA-256.
      source: what the pairs are made from, one of `SOURCES`.
      mode: of the questions, one of `MODES`.
      requires: facts without which a record is not asked about.
      tasks: that a question may have.
      system: part of the message; may be empty.
      user: part of the message.
    """

    name: str
    digest: str
    source: str
    mode: str
    requires: tuple[str, ...]
    tasks: tuple[str, ...]
    system: str
    user: str

    @property
    def label(self) -> str:
        """Name and digest, by which a pair remembers it."""
        return f"{self.name} {self.digest}"

    @property
    def facts(self) -> tuple[str, ...]:
        """The facts that it tells the model, in `FACTS`' order."""
        named = _named(self.system) | _named(self.user)
        return tuple(fact for fact in FACTS if fact in named)

    def lacks(self, record: Record) -> str:
        """The first required fact that is unknown of a record; "" if there is none."""
        known = record.facts
        return next((fact for fact in self.requires if not known.get(fact, "").strip()), "")

    def texts(self, record: Record, settings: Mapping[str, str]) -> tuple[str, str]:
        """System's and user's part for a record.

        Args:
          record: of which `lacks` is "".
          settings: a value for each of `SETTINGS`.
        """
        known = {fact: text for fact, text in record.facts.items() if text.strip()}
        known |= settings
        return _filled(self.system, known), _filled(self.user, known)


def read(name: str) -> Prompt:
    """Reads one of `NAMES`, or a file.

    Raises:
      UserError: there is no such file, its form is wrong, or a placeholder is unknown.
    """
    if name in NAMES:
        path = resources.files(__package__) / "prompts" / f"{name}.md"
        return parse(path.read_text("utf-8"), name, where=f"{name}.md")
    file = Path(name).expanduser()
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The prompt {name} can't be read ({error}): give a text file, or one of "
            f"{', '.join(NAMES)}."
        ) from error
    return parse(text, file.stem, where=str(file))


def parse(text: str, name: str, where: str) -> Prompt:
    """Makes a prompt of a file's content; `where` is for messages.

    Raises:
      UserError: as in `read`.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not (parts := _PARTS.match(text)):
        raise UserError(
            f'{where}: a prompt is a head between two lines "---", a line "# System" with what '
            'follows it, and a line "# User" with what follows it.'
        )
    head = _head(parts["head"], where)
    user = parts["user"].strip()
    if not user:
        raise UserError(f'{where}: nothing follows "# User": write what the model is asked.')
    requires, tasks = _list(head["requires"]), _list(head["tasks"])
    if not tasks:
        raise UserError(f"{where}: tasks is empty: name what questions may be counted under.")
    known = (*FACTS, *SETTINGS)
    if unknown := sorted((_named(parts["system"]) | _named(user)) - set(known)):
        raise UserError(
            f"{where}: unknown placeholder {', '.join(f'{{{name}}}' for name in unknown)}; known "
            f"are {', '.join(known)}."
        )
    if unknown := [fact for fact in requires if fact not in FACTS]:
        raise UserError(
            f"{where}: requires names {', '.join(unknown)}; the facts are {', '.join(FACTS)}."
        )
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    system = parts["system"].strip()
    return Prompt(name, digest, head["source"], head["mode"], requires, tasks, system, user)


def _head(text: str, where: str) -> dict[str, str]:
    head = dict.fromkeys(("requires",), "")
    for line in filter(None, map(str.strip, text.splitlines())):
        key, colon, value = line.partition(":")
        if not colon or key.strip() not in _HEAD:
            raise UserError(
                f'{where}: the head has the line {line!r}: write "key: value"; keys are '
                f"{', '.join(_HEAD)}."
            )
        head[key.strip()] = value.strip()
    if missing := [key for key in _HEAD if key not in head]:
        raise UserError(f"{where}: the head lacks {', '.join(missing)}.")
    for key, choices in (("source", SOURCES), ("mode", MODES)):
        if head[key] not in choices:
            raise UserError(f"{where}: {key} is {head[key]!r}: choose one of {', '.join(choices)}.")
    return head


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _named(text: str) -> set[str]:
    return set(_PLACEHOLDER.findall(text))


def _filled(text: str, known: Mapping[str, str]) -> str:
    lines = []
    for line in text.splitlines():
        named = _named(line)
        if named and not named & known.keys():
            continue
        # In one pass, so that braces within a fact mean nothing.
        lines.append(_PLACEHOLDER.sub(lambda found: known.get(found[1], "unknown").strip(), line))
    return "\n".join(lines)
