"""What medjax's pages are made of: a page needs nothing but itself, and trusts no data.

A page is a template beside its module: `page_head.html` begins it, `page.css` is its style, images
are data URIs, and a content security policy lets no other script run than the template's own.
Everything that comes from data goes through `escape`, or through `json_block` where a script makes
the page of it.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import re
import string
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

from medjax.thumbnails import thumbnail

# Sky blue and orange of the palette of Okabe and Ito, which all kinds of colour vision tell apart.
TRUTH_COLOUR = "#56B4E9"
GUESS_COLOUR = "#E69F00"


class _Page(string.Template):
    """A template whose placeholders look like nothing in HTML, CSS or JavaScript."""

    delimiter = "%%"


def fill(package: str, name: str, *, title: str, **values: object) -> str:
    """A template with the head that all pages share, and its values.

    The head has the shared style, after which the template's own may follow, and lets no other
    script run than the template's own, if it has one.

    Args:
      package, name: where the template is, as `importlib.resources` finds it.
      title, values: of its placeholders, already escaped.
    """
    template = (importlib.resources.files(package) / name).read_text("utf-8")
    here = importlib.resources.files(__package__)
    head, style = ((here / part).read_text("utf-8") for part in ("page_head.html", "page.css"))
    script, allowed = re.search(r"<script>(.*?)</script>", template, re.DOTALL), ""
    if script is not None:
        inside = script[1]
        assert _Page.delimiter not in inside, f"{name}: its script is filled in after its checksum"
        digest = hashlib.sha256(inside.encode("utf-8")).digest()
        allowed = f"; script-src 'sha256-{base64.b64encode(digest).decode()}'"
    shared = _Page(head).substitute(
        scripts=allowed,
        title=title,
        style=_Page(style).substitute(truth_colour=TRUTH_COLOUR, guess_colour=GUESS_COLOUR),
    )
    return _Page(template).substitute(head=shared.removesuffix("\n"), title=title, **values)


def options(values: Iterable[tuple[object, str]], selected: object = None) -> str:
    """The options of a choice, given as (value, name)."""
    return "".join(
        f'<option value="{escape(str(value))}"{" selected" if value == selected else ""}>'
        f"{escape(name)}</option>"
        for value, name in values
    )


def data_uri(pixels: UInt8[np.ndarray, "H W 3"], max_side: int) -> tuple[str, int, int]:
    """A `thumbnail` as a data URI, with the width and height that it has."""
    made = thumbnail(pixels, max_side)
    return made.uri, made.width, made.height


def json_block(name: str, value: object) -> str:
    """Data for a page's script, which reads them by the element's id.

    A block of this type is no script, so that the content security policy allows it; nothing in it
    can end it, as "<" is written as JSON writes it when it must.

    Args:
      name: the element's id.
      value: whatever JSON can say; lone surrogates become "?".
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    text = text.encode("utf-8", "replace").decode("utf-8")
    return f'<script type="application/json" id="{name}">{text}</script>'


def numbers(values: Iterable[float | None]) -> str:
    """Numbers for a script to read; "-" for what is not known."""
    return " ".join("-" if value is None else f"{value:.6g}" for value in values)


def count(number: int, noun: str) -> str:
    """A number of things, such as "1,200 questions"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def escape(text: str) -> str:
    """Untrusted text, safe between tags and in quoted attributes; lone surrogates become "?"."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True)
