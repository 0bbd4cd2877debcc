"""What a trained 4M made: told in words, as JSON, and written as files."""

import dataclasses
import io
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from medjax.errors import UserError
from medjax.files import write_whole
from medjax.modalities import display
from medjax.modalities.table import BOXES, IMAGE, LABELS, TEXT, Modality


@dataclasses.dataclass(frozen=True)
class Made:
    """Samples of what was made of one given thing.

    Attributes:
      modalities: of all that was given or made, by name.
      given: as the command line says it.
      image: the first image that was given, uint8 [H, W, C]; None if there was none.
      samples: of each, by modality in the order in which they were made: images float32 [S, S, C]
        in [-1, 1], labels int32 [S, S], texts, boxes, or ids.
      seed: of the draws.
    """

    modalities: Mapping[str, Modality]
    given: Mapping[str, str]
    image: np.ndarray | None
    samples: list[dict[str, Any]]
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: of images their size, of labels the share of each class in the area.

        Boxes are as in the lines of one's own data, so that they can be given in turn.
        """
        samples = [
            {name: _told(self.modalities[name], value) for name, value in sample.items()}
            for sample in self.samples
        ]
        return {"given": dict(self.given), "seed": self.seed, "samples": samples}

    def lines(self) -> Iterator[str]:
        """What there is to say, in words."""
        for number, sample in enumerate(self.to_dict()["samples"]):
            for name, told in sample.items():
                where = name if len(self.samples) == 1 else f"{name} {number}"
                yield from _spoken(where, told)

    def write(self, folder: pathlib.Path) -> dict[str, Any]:
        """Writes made.json, which has all texts and boxes and names the other files.

        Images are PNGs; of labels an indexed one, whose indices are the classes, and a picture over
        the image that was given, or made before; of boxes such a picture; ids a .npy file.

        Returns:
          `to_dict`, with the `files` of each.

        Raises:
          UserError: the folder cannot be written to.
        """
        outcome = self.to_dict()
        try:
            for number, sample in enumerate(self.samples):
                ending = "" if len(self.samples) == 1 else f"-{number}"
                for name, value in sample.items():
                    modality = self.modalities[name]
                    files = _files(modality, value, self._image(sample, name))
                    named = {f"{name}{ending}{key}": data for key, data in files.items()}
                    for file, data in named.items():
                        write_whole(folder / file, data)
                    if named:
                        outcome["samples"][number][name]["files"] = list(named)
            write_whole(folder / "made.json", (json.dumps(outcome, indent=2) + "\n").encode())
        except OSError as error:
            raise UserError(f"{folder} cannot be written to ({error.strerror})") from error
        return outcome

    def _image(self, sample: Mapping[str, Any], target: str) -> np.ndarray | None:
        """What a target is shown over: the given image, else the last that was made before it."""
        if self.image is not None:
            return self.image
        before = list(sample)[: list(sample).index(target)]
        images = [n for n in before if self.modalities[n].content == IMAGE]
        return sample[images[-1]] if images else None


def _told(modality: Modality, value: Any) -> dict[str, Any]:
    if modality.content == TEXT:
        return {"text": value}
    if modality.content == BOXES:
        boxes = [{"label": b.label, "box": [round(part, 4) for part in b[1:]]} for b in value]
        return {"boxes": boxes}
    if modality.content == LABELS:
        counts = np.bincount(value.ravel(), minlength=len(modality.classes)) / value.size
        names = modality.classes or [f"class {i}" for i in range(len(counts))]
        shares = {name: round(float(x), 4) for name, x in zip(names, counts, strict=True)}
        return {"size": list(value.shape), "shares": shares}
    if modality.content == IMAGE:
        return {"size": list(value.shape[:2])}
    return {"ids": np.asarray(value).tolist()}


def _spoken(where: str, told: Mapping[str, Any]) -> Iterator[str]:
    if "text" in told:
        yield f"{where}: {told['text']}"
    elif "boxes" in told:
        yield f"{where}: {len(told['boxes']) or 'no'} box{'es' * (len(told['boxes']) != 1)}"
        for found in told["boxes"]:
            y1, x1, y2, x2 = (f"{part:.0%}" for part in found["box"])
            yield f"  {found['label']}: rows {y1} to {y2}, columns {x1} to {x2}"
    elif "ids" in told:
        yield f"{where}: {len(told['ids'])} ids"
    else:
        height, width = told["size"]
        shares = [f"{name} {share:.1%}" for name, share in told.get("shares", {}).items()]
        yield f"{where}: {', '.join(shares) or f'an image of {width} x {height} pixels'}"


def _files(modality: Modality, value: Any, image: np.ndarray | None) -> dict[str, bytes]:
    """The content of the files of a value, by the ending of their names."""
    if modality.content == IMAGE:
        return {".png": _png(Image.fromarray(display.image_picture(value)))}
    if modality.content == LABELS:
        indexed = Image.fromarray(value.astype(np.uint8))
        indexed.putpalette(display.colours().tobytes())
        files = {".png": _png(indexed)}
        if image is not None:
            # At the image's own size: the model saw all of it, as a square.
            large = indexed.resize(image.shape[1::-1], Image.Resampling.NEAREST)
            over = display.labels_picture(np.asarray(large), image)
            files["-over.png"] = _png(Image.fromarray(over))
        return files
    if modality.content == BOXES and image is not None:
        return {"-over.png": _png(Image.fromarray(display.boxes_picture(value, image)))}
    if modality.content in (TEXT, BOXES):
        return {}
    file = io.BytesIO()
    np.save(file, np.asarray(value, np.int32))
    return {".npy": file.getvalue()}


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
