"""What a model is sent for a record, and how much that is."""

import base64
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from medjax.data.medical.llm import answers, journal
from medjax.data.medical.llm.prompt import Prompt
from medjax.data.medical.record import Record, shown

Messages = Sequence[Mapping[str, Any]]

# Rules of thumb, for estimates and limits; what is counted is what the endpoint says.
_LETTERS_A_TOKEN = 4
_TOKENS_A_MESSAGE = 8
_TOKENS_AN_IMAGE = 1000
_TOKENS_A_PAIR = 45
_TOKENS_AT_MOST = 4096  # of an answer whose length is not limited
_LENGTH_KEYS = ("max_tokens", "max_completion_tokens")


@dataclasses.dataclass(frozen=True)
class Asking:
    """How a model is asked.

    Attributes:
      model: as the endpoint calls it.
      pairs: of question and answer that a request may give at most.
      attempts: how often a request is asked until its answer can be used.
      language: of the pairs, ISO 639-1.
      images: whether the image is sent.
      parameters: of the request's body: temperature, max_tokens, ...
    """

    model: str
    pairs: int = 6
    attempts: int = 3
    language: str = "en"
    images: bool = False
    parameters: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"temperature": 0, "max_tokens": 1500}
    )

    def schema(self, prompt: Prompt) -> dict[str, Any]:
        """That an answer must have."""
        return answers.schema(prompt.tasks, self.pairs)

    def key(self, prompt: Prompt, messages: Messages) -> str:
        """Of a request: all that its answer depends on."""
        return journal.key_of(
            model=self.model,
            messages=list(messages),
            schema=self.schema(prompt),
            parameters=dict(self.parameters),
        )

    @property
    def tokens_out_at_most(self) -> int:
        """Of an answer."""
        limits = [self.parameters[key] for key in _LENGTH_KEYS if self.parameters.get(key)]
        return min([int(limit) for limit in limits], default=_TOKENS_AT_MOST)

    @property
    def tokens_out_expected(self) -> int:
        """Of an answer that nothing is known of."""
        return min(self.pairs * _TOKENS_A_PAIR, self.tokens_out_at_most)


def first(prompt: Prompt, record: Record, asking: Asking) -> list[dict[str, Any]]:
    """The messages of the first request about a record, in the form of OpenAI's chat completions.

    Raises:
      BadExample: images are sent, and this one can't be read.
    """
    settings = {"pairs": str(asking.pairs), "language": asking.language}
    system, user = prompt.texts(record, settings)
    user = f"{user}\n\n{answers.in_words(prompt.tasks, asking.pairs)}"
    content: Any = user
    if asking.images:
        image = {"type": "image_url", "image_url": {"url": data_uri(record)}}
        content = [{"type": "text", "text": user}, image]
    messages = [{"role": "user", "content": content}]
    return [{"role": "system", "content": system}, *messages] if system else messages


def again(messages: Messages, text: str, fault: str) -> list[Mapping[str, Any]]:
    """The messages that ask for a better answer than `text`."""
    complaint = f"{fault} Write the whole JSON object again, and nothing else."
    return [
        *messages,
        {"role": "assistant", "content": text},
        {"role": "user", "content": complaint},
    ]


def data_uri(record: Record) -> str:
    """The record's image as a PNG in a URI, what is hidden made black and cropped.

    Raises:
      BadExample: it can't be read.
    """
    pixels = shown(record.image.pixels(), record.hidden, record.crop)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def estimate(messages: Messages) -> int:
    """About how many tokens messages are."""
    tokens = 0
    for message in messages:
        content = message["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for part in parts:
            text = part["type"] == "text"
            tokens += estimate_text(part["text"]) if text else _TOKENS_AN_IMAGE
        tokens += _TOKENS_A_MESSAGE
    return tokens


def estimate_text(text: str) -> int:
    """About how many tokens a text is; letters beyond ASCII take more of them."""
    return math.ceil(len(json.dumps(text)) / _LETTERS_A_TOKEN)
