"""How questions are put whose dataset gives only the answers."""

import zlib

# Several of each, so that a model learns what is asked and not one sentence.
WORDINGS: dict[str, tuple[str, ...]] = {
    "modality": (
        "What is the modality of this image?",
        "Which imaging modality is this?",
        "How was this image acquired?",
    ),
    "plane": (
        "What is the plane of this image?",
        "In which plane was this image taken?",
        "Which plane is shown?",
    ),
    "location": (
        "What is the location shown in this image?",
        "Which location of the body does this image show?",
        "Which part of the body is this image of?",
    ),
    "image_findings": (
        "What does this image show?",
        "Which findings are visible in this image?",
        "What can be seen in this image?",
    ),
    "history": (
        "What is the history of this patient?",
        "What might have brought this patient to the clinic?",
    ),
    "findings": (
        "What are the findings of this case?",
        "Which imaging findings does this case have?",
        "Describe the imaging findings of this patient.",
    ),
    "diagnosis": (
        "What is the diagnosis?",
        "What is the most likely diagnosis?",
        "Which diagnosis does this image suggest?",
    ),
    "differential": (
        "What is the differential diagnosis?",
        "Which diagnoses should be considered?",
    ),
    "treatment": (
        "What are the treatment and the follow-up?",
        "How should this patient be treated and followed up?",
    ),
    "discussion": (
        "Discuss this case.",
        "What should be known about this case?",
    ),
}  # fmt: skip


def worded(task: str, name: str) -> str:
    """The wording of a task for an image: always the same for the same name."""
    wordings = WORDINGS[task]
    # Not Python's own hash, which differs from process to process.
    return wordings[zlib.crc32(f"{name}/{task}".encode()) % len(wordings)]
