"""What conditioning does: the keys of a config's `data.conditioning` and their defaults."""

import dataclasses
import math

from medjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every step can be switched off, and then does nothing.

    Attributes:
      question_tables: files of further questions (CSV or JSON lines), see `readers.question_table`.
      languages: that are kept, such as ("en",); all if empty.
      placeholders: drop captions and answers that say nothing ("N/A", "Replace this - ...").
      beyond_slice: drop questions that one slice cannot answer.
      diagnosis_in_caption: drop diagnosis questions about images whose caption gives it away, where
        a model is also trained on the caption.
      max_answer_tokens: drop longer answers; 0: none.
      tokenizer: a sentencepiece file, to count tokens; none: that of the run, if it names one, else
        words and punctuation marks are counted.
      templates: add questions about modality, plane, organ and so on, made of what is known.
      overlays: text burned into images (watermarks, footers) is made black ("mask"), cut off
        ("crop") or left alone ("keep").
      split: "published", or "made" by patient (then `split_sizes`, `split_seed`).
      split_sizes: of train, validation and test: shares that add up to 1, or patients.
      split_seed: of the order in which patients are dealt out.
      leaks: between the parts: "error" ends the build, "drop" takes the images out of training,
        "warn" lists them only, "off" does not look.
      hash_distance: images whose hashes differ in at most so many of 64 bits are near-duplicates.
      against: other datasets that this one is trained or tested together with, each "name=folder":
        no image may be in the one's training part and in the other's validation or test part.
    """

    question_tables: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    placeholders: bool = True
    beyond_slice: bool = True
    diagnosis_in_caption: bool = True
    max_answer_tokens: int = 256
    tokenizer: str = ""
    templates: bool = False
    overlays: str = "mask"
    split: str = "published"
    split_sizes: tuple[float, ...] = (0.8, 0.1, 0.1)
    split_seed: int = 0
    leaks: str = "error"
    hash_distance: int = 6
    against: tuple[str, ...] = ()


DEFAULT = Settings()

CHOICES = {
    "overlays": ("mask", "crop", "keep"),
    "split": ("published", "made"),
    "leaks": ("error", "drop", "warn", "off"),
}


def check(settings: Settings) -> None:
    """Raises UserError for a value that cannot be."""
    for name, choices in CHOICES.items():
        if (value := getattr(settings, name)) not in choices:
            listed = ", ".join(f'"{choice}"' for choice in choices)
            raise UserError(f"data.conditioning.{name} is {value!r}: set it to one of {listed}.")
    for name in ("max_answer_tokens", "split_seed", "hash_distance"):
        if (number := getattr(settings, name)) < 0:
            raise UserError(f"data.conditioning.{name} is {number}; it must be 0 or more.")
    sizes = settings.split_sizes
    shares = all(size <= 1 for size in sizes)
    if (
        len(sizes) != 3
        or not all(isinstance(size, int | float) and size >= 0 for size in sizes)
        or not sizes[0] > 0
        or (shares and not math.isclose(sum(sizes), 1))
        or (not shares and any(size != int(size) for size in sizes))
    ):
        raise UserError(
            f"data.conditioning.split_sizes is {sizes}; write three shares that add up to 1, such "
            "as (0.8, 0.1, 0.1), or three numbers of patients, such as (600, 25, 25)."
        )
    for other in settings.against:
        if not all(other.partition("=")[::2]):
            raise UserError(
                f"data.conditioning.against has {other!r}; write name=folder, as "
                "vqa_rad=/data/vqa_rad."
            )
