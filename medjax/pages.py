"""What medjax's pages are made of: a page needs nothing but itself, and trusts no data.

A page is a template beside its module: `page.css` is its style, images are data URIs, and a content
security policy lets no other script run than the template's own. Everything that comes from data
goes through `escape`.
"""

import base64
import hashlib
import html
import importlib.resources
import io
import re
import string
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Sky blue and orange of the palette of Okabe and Ito, which all kinds of colour vision tell apart.
TRUTH_COLOUR = "#56B4E9"
GUESS_COLOUR = "#E69F00"

_JPEG_QUALITY = 90


class _Page(string.Template):
    """A template whose placeholders look like nothing in HTML, CSS or JavaScript."""

    delimiter = "%%"


def fill(package: str, name: str, **values: object) -> str:
    """A template with its values, the shared style and the checksum of its script, if it has one.

    Args:
      package, name: where the template is, as `importlib.resources` finds it.
      values: of its placeholders, already escaped.
    """
    template = (importlib.resources.files(package) / name).read_text("utf-8")
    style = (importlib.resources.files(__package__) / "page.css").read_text("utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)
    if script is not None:
        inside = script[1]
        assert _Page.delimiter not in inside, f"{name}: its script is filled in after its checksum"
        digest = hashlib.sha256(inside.encode("utf-8")).digest()
        values["script_hash"] = f"sha256-{base64.b64encode(digest).decode()}"
    return _Page(template).substitute(
        style=_Page(style).substitute(truth_colour=TRUTH_COLOUR, guess_colour=GUESS_COLOUR),
        **values,
    )


def options(values: Iterable[tuple[object, str]], selected: object = None) -> str:
    """The options of a choice, given as (value, name)."""
    return "".join(
        f'<option value="{escape(str(value))}"{" selected" if value == selected else ""}>'
        f"{escape(name)}</option>"
        for value, name in values
    )


def data_uri(pixels: UInt8[np.ndarray, "H W 3"], max_side: int) -> tuple[str, int, int]:
    """The smaller of PNG and JPEG, with the width and height that it has."""
    image = Image.fromarray(pixels)
    if (pixels == pixels[..., :1]).all():
        image = image.convert("L")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    best = b""
    for format, options in (
        ("png", {"optimize": True}),
        ("jpeg", {"quality": _JPEG_QUALITY, "subsampling": 0}),
    ):
        data = io.BytesIO()
        image.save(data, format, **options)
        if not best or len(data.getvalue()) < len(best):
            best, kind = data.getvalue(), format
    return f"data:image/{kind};base64,{base64.b64encode(best).decode()}", *image.size


def numbers(values: Iterable[float | None]) -> str:
    """Numbers for a script to read; "-" for what is not known."""
    return " ".join("-" if value is None else f"{value:.6g}" for value in values)


def count(number: int, noun: str) -> str:
    """A number of things, such as "1,200 questions"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def escape(text: str) -> str:
    """Untrusted text, safe between tags and in quoted attributes; lone surrogates become "?"."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True)
