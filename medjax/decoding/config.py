"""How answers are chosen."""

import dataclasses

from medjax.errors import UserError

METHODS = ("greedy", "sample", "beam")
MIN_TEMPERATURE = 1e-6  # below, nothing but the most probable token is ever drawn
# Settings that one method alone reads: given to another, they would silently do nothing.
_BELONGS_TO = {
    "temperature": "sample",
    "top_p": "sample",
    "num_samples": "sample",
    "num_beams": "beam",
    "length_penalty": "beam",
}


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """How answers are chosen.

    Attributes:
      method: "greedy" takes the most probable token at every step; "sample" draws; "beam" searches
        for the most probable answer.
      max_new_tokens: an answer's length in tokens at most, its end token included.
      temperature: of sampling; logits are divided by it.
      top_p: sampling draws from the fewest most probable tokens that together reach this
        probability at that temperature (nucleus sampling, arXiv:1904.09751); 1 for all tokens.
      num_samples: of sampling; that many answers are drawn for each question, and the one with the
        highest mean log-probability per token is returned (best of n).
      num_beams: unfinished answers kept by beam search, 2 at least.
      length_penalty: beam search ranks answers by log-probability / length ** length_penalty, as
        transformers does: 0 for the most probable answer, more for longer ones.
    """

    method: str = "greedy"
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    num_samples: int = 1
    num_beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self):
        if self.method not in METHODS:
            raise UserError(f"decoding: method {self.method!r} is none of {', '.join(METHODS)}")
        for field in dataclasses.fields(self):
            owner, value = _BELONGS_TO.get(field.name), getattr(self, field.name)
            if owner not in (None, self.method) and value != field.default:
                raise UserError(
                    f"decoding: {field.name} {value} means nothing to method {self.method!r}; "
                    f"choose method {owner!r} or leave {field.name} out"
                )
        for name in ("max_new_tokens", "num_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"decoding: {name} {getattr(self, name)} must be at least 1")
        if not MIN_TEMPERATURE <= self.temperature < float("inf"):
            raise UserError(
                f"decoding: temperature {self.temperature} must be at least {MIN_TEMPERATURE}; for "
                "the most probable token at every step choose method 'greedy'"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"decoding: top_p {self.top_p} is not in (0, 1]")
        if self.method == "beam" and self.num_beams < 2:
            raise UserError(
                f"decoding: num_beams {self.num_beams} must be at least 2; with one beam choose "
                "method 'greedy'"
            )
        if not abs(self.length_penalty) < float("inf"):
            raise UserError(f"decoding: length_penalty {self.length_penalty} must be finite")
