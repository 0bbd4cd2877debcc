"""What the files of the drawn data set say of its cases and images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from medjax.data.medical.drawn.lesions import NORMAL
from medjax.data.medical.drawn.plan import DrawnCase, DrawnImage

_MODALITIES = {
    "CT": ("CT - noncontrast", "CT"),
    "T1": ("MR - T1W - noncontrast", "T1-weighted MR"),
    "T2": ("MR - T2 weighted", "T2-weighted MR"),
}
_PLACEHOLDER = "Replace this - DESCRIPTION OF THE IMAGE OR FINDINGS."
_NOT_GIVEN = "N/A"
_NO_PLANE = "NOS - Not specified"
_NO_ACR_CODE, _ACR_CODES = "-1.-1", {"Neoplasm": "1.3", "Trauma": "1.4", "Normal": "1.1"}
_LEFT_BLANK, _CITY = "Left Blank", "Bethesda, MD"
_NO_PLACE = "Brain and Neuro"
_COMPLAINTS = ("headache", "dizziness", "weakness of one arm", "a seizure", "blurred vision")
_FINAL = "Drawn for testing medjax; no patient is behind it."


def kind(image: DrawnImage) -> str:
    """CT or MR."""
    return "CT" if image.modality == "CT" else "MR"


def footer(rng: np.random.Generator) -> str:
    """The line that is burned into an image."""
    year, month, day = rng.integers((1999, 1, 1), (2016, 13, 29))
    return f"DRAWN DATA uploader-{rng.integers(1, 9)}  {year}-{month:02}-{day:02}"


def description(case: DrawnCase, image: DrawnImage, rng: np.random.Generator) -> dict[str, Any]:
    """An image's record in Descriptions.json."""
    modality = _MODALITIES[image.modality][0]
    location = case.lobe or _NO_PLACE
    if "left_blank" in image.quirks:
        location = _LEFT_BLANK
    if "city" in image.quirks:
        location = _CITY
    return {
        "Type": kind(image),
        "U_id": case.id,
        "image": image.id,
        "Description": {
            "ACR Codes": _NO_ACR_CODE if "no_acr_code" in image.quirks else _acr_code(case),
            "Age": str(case.age),
            "Caption": _caption(case, image),
            "Figure Part": str(rng.integers(1, 5)) if "figure_part" in image.quirks else None,
            "Modality": f" {modality}" if "leading_space" in image.quirks else modality,
            "Plane": _NO_PLANE if "no_plane" in image.quirks else image.plane.capitalize(),
            "Sex": _NOT_GIVEN if "no_sex" in image.quirks else case.sex,
        },
        "Location": location,
        "Location Category": "Head",
    }


def _acr_code(case: DrawnCase) -> str:
    return _ACR_CODES.get(case.diagnosis.category, "1.9")


def _caption(case: DrawnCase, image: DrawnImage) -> str:
    if "placeholder_caption" in image.quirks:
        return _PLACEHOLDER
    if "caption_not_available" in image.quirks:
        return _NOT_GIVEN
    if case.shared_caption and len(case.images) > 1:
        # True of every image of the case, whichever its plane.
        return f"Drawn head: {_seen(case, side=False)}."
    name = f"{case.diagnosis.name}, " if "caption_names_diagnosis" in image.quirks else ""
    # A sagittal slice does not show on which side it lies.
    seen = _seen(case, side=image.plane != "sagittal")
    return f"Drawn {image.plane} {_MODALITIES[image.modality][1]}: {name}{seen}."


def _seen(case: DrawnCase, *, side: bool) -> str:
    if case.diagnosis is NORMAL:
        return case.diagnosis.look
    if not case.side:
        return f"{case.diagnosis.look} in {case.lobe.lower()}"
    return f"{case.diagnosis.look} in the {case.side + ' ' if side else ''}{case.lobe.lower()}"


def case_topic(case: DrawnCase, rng: np.random.Generator) -> dict[str, Any]:
    """A case's record; what is not given is None."""
    diagnosis = case.diagnosis
    complaint = _COMPLAINTS[rng.integers(len(_COMPLAINTS))]
    treatment = "None needed." if diagnosis is NORMAL else "Follow-up by imaging after 3 months."
    return {
        "U_id": case.id,
        "TAC": [image.id for image in case.images if kind(image) == "CT"],
        "MRI": [image.id for image in case.images if kind(image) == "MR"],
        "Case": {
            "Title": diagnosis.name,
            "History": _often(
                rng, 0.97, f"Drawn history: {case.age}-year-old {case.sex} with {complaint}."
            ),
            "Exam": _often(rng, 0.6, "No finding but what the history says."),
            "Findings": _often(rng, 0.97, f"Drawn findings: {_seen(case, side=True)}."),
            "Differential Diagnosis": "\n".join((diagnosis.name, *diagnosis.others)),
            "Case Diagnosis": diagnosis.name,
            "Diagnosis By": _often(rng, 0.8, "Drawing"),
            "Treatment & Follow Up": _often(rng, 0.6, treatment),
            "Discussion": _often(
                rng, 0.6, f"{diagnosis.name} is drawn as {diagnosis.look}. {_FINAL}"
            ),
            "Media": None,
        },
        "Topic": {
            "Title": diagnosis.name,
            "Disease Discussion": f"Drawn here: {diagnosis.name} as {diagnosis.look}. {_FINAL}",
            "ACR Code": _acr_code(case),
            "Category": diagnosis.category,
            "Keywords": f"drawn{diagnosis.name}" if rng.random() < 0.5 else None,
            "Reference": _FINAL if rng.random() < 0.5 else None,
            "External Links": None,
        },
    }


def _often(rng: np.random.Generator, share: float, text: str) -> str | None:
    """The text with a probability; else null or "N/A", as the real files have both."""
    draw, given = rng.random(2)
    if draw < share:
        return text
    return None if given < 0.7 else _NOT_GIVEN


def without_nulls(record: Mapping[str, Any]) -> dict[str, Any]:
    """A case as Case_topic.json has it: keys whose value is not given are left out."""
    return {
        key: {name: text for name, text in value.items() if text is not None}
        if isinstance(value, dict)
        else value
        for key, value in record.items()
    }
