"""What is the same for all tokens of a call."""

from typing import NamedTuple


class Options(NamedTuple):
    """Static arguments of every implementation, as `api.attention` describes them."""

    scale: float
    soft_cap: float | None = None
    window: int | None = None
