"""Plain words for what datasets write in many ways: "AX" is axial, "CT - noncontrast" is CT.

`terms.json` lists the ways. Its values are the modalities and planes of MedPix (as listed by
VQA-Med 2019, github.com/abachaa/VQA-Med-2019), the codes of DICOM's attribute Modality (PS3.3
C.7.3.1.1.1) and Body Part Examined (PS3.16), and the organs of SLAKE and VQA-RAD.
"""

import functools
from collections.abc import Mapping

from medjax.data.medical.conditioning.placeholders import says_nothing
from medjax.data.medical.conditioning.words import same, table, words

_LONGEST_PLACE = 6  # words; longer ones are sentences
_LONGEST_NORMAL = 120  # characters; longer ones say more than "normal"


def modality(facts: Mapping[str, str]) -> str:
    """The modality without its variants ("CT", "MRI", "X-ray", ...); "" if it is not clear."""
    return _only("modality", facts.get("modality", "")) or _only("modality", facts.get("type", ""))


def plane(facts: Mapping[str, str]) -> str:
    """ "axial", "coronal", "sagittal", ...; "" if it is not clear, or there are two."""
    return _only("plane", facts.get("plane", ""))


def location(facts: Mapping[str, str]) -> str:
    """The place in the body in small letters, the finer one that is known; "" if none is."""
    for name in ("location", "location_category"):
        text = facts.get(name, "")
        if not text or says_nothing(text):
            continue
        if len(spelt := words(text)) <= _LONGEST_PLACE:
            plain = " ".join(text.replace("_", " ").split()).lower()
            return _ways("location").get(spelt, plain)
    return ""


def normal(facts: Mapping[str, str]) -> str:
    """ "normal" or "abnormal" where diagnosis or findings say so; "" where they do not.

    A diagnosis that is not normal makes an image abnormal. Texts that only begin with it ("normal
    variant", "normal pressure hydrocephalus") say neither, nor do two that contradict each other.
    """
    diagnosis, findings = facts.get("diagnosis", ""), facts.get("findings", "")
    if _is_normal(diagnosis) or (not diagnosis and _is_normal(findings)):
        return "normal"
    unsure = {"normal", "unremarkable", "negative", "no", "without"}
    if not words(diagnosis) or says_nothing(diagnosis) or unsure & set(words(diagnosis)):
        return ""
    return "" if _is_normal(findings) else "abnormal"


@functools.lru_cache(maxsize=4096)
def _is_normal(text: str) -> bool:
    """Whether a text says "normal" and of what, and nothing else."""
    if len(text) > _LONGEST_NORMAL:
        return False
    rest = f" {same(text)} "
    of = set(table("terms.json")["normal"]["of"])
    for way in sorted(table("terms.json")["normal"]["normal"], key=len, reverse=True):
        if f" {way} " in rest:
            return set(rest.replace(f" {way} ", " ", 1).split()) <= of
    return False


@functools.lru_cache(maxsize=4096)  # datasets repeat a few values
def _only(kind: str, text: str) -> str:
    """The one value of a kind that a text names; "" if it names none, or several."""
    ways, spelt, found = _ways(kind), words(text), set()
    start = 0
    while start < len(spelt):
        for end in range(len(spelt), start, -1):  # the longest way: "pet ct" is no "pet"
            if spelt[start:end] in ways:
                found.add(ways[spelt[start:end]])
                start = end - 1
                break
        start += 1
    return found.pop() if len(found) == 1 else ""


@functools.cache
def _ways(kind: str) -> dict[tuple[str, ...], str]:
    listed = table("terms.json")[kind].items()
    return {tuple(way.split()): value for value, ways in listed for way in ways}
