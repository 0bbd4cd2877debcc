"""Who makes the tokens of 4M's images and masks: a stage of the run, or a folder."""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Mapping

import jax
from ml_collections import ConfigDict

from medjax import records
from medjax.checkpoints import image_tokenizer
from medjax.checkpoints.hashes import remembered_hash
from medjax.errors import UserError
from medjax.files import write_whole
from medjax.modalities.table import IMAGE, LABELS, Modality
from medjax.models.fourm import FourMConfig
from medjax.models.tokenizers import ImageTokenizerConfig
from medjax.workdir import Workdir

# Of each modality of a stage the path and the content hash of the tokenizer that it learned from.
RECORD = "tokenizers.json"


@dataclasses.dataclass(frozen=True)
class Maker:
    """What makes the tokens of a modality, and by which name the config knows it."""

    tokenizer: ImageTokenizerConfig
    who: str


def find(
    name: str,
    config: ConfigDict,
    model: FourMConfig,
    stages: Mapping[str, ImageTokenizerConfig | None],
) -> dict[str, Maker]:
    """Who makes the tokens of each modality that needs it.

    Args:
      name: of the stage.
      stages: of the run; the tokenizers of those that train one before this stage.

    Raises:
      UserError: nobody does, or not the tokens that the modality has; or one too many.
    """
    makers = {
        modality.name: _find(f"{name}: tokenizers.{modality.name}", config, modality, stages)
        for modality in model.modalities
        if modality.is_image and modality.has_ids and modality.content in (IMAGE, LABELS)
    }
    if idle := sorted(set(config.tokenizers) - set(makers)):
        raise UserError(
            f"{name}: tokenizers.{idle[0]} is none of the modalities whose tokens are made: "
            f"{', '.join(makers) or 'none'}"
        )
    return makers


def _find(
    where: str,
    config: ConfigDict,
    modality: Modality,
    stages: Mapping[str, ImageTokenizerConfig | None],
) -> Maker:
    who = config.tokenizers.get(modality.name, "")
    if not who:
        raise UserError(
            f"{where} is not set: name the stage that trains the tokenizer of {modality.name}, or "
            "the folder of a trained one; or say that its data are ids: "
            f"modalities.{modality.name}.content='ids'"
        )
    folder = pathlib.Path(who).expanduser()
    if who in stages:
        made = stages[who]
        if made is None:
            raise UserError(
                f"{where} is the stage {who!r}, which trains no tokenizer before this stage; "
                "stage_order says which comes first"
            )
    elif folder.is_dir():
        made = image_tokenizer.read_config(folder / image_tokenizer.CONFIG)
    else:
        known = [stage for stage, made in stages.items() if made is not None]
        more = f"; stages before it that train one: {', '.join(known)}" if known else ""
        raise UserError(f"{where} is {who!r}, which is neither a stage nor a folder{more}")
    _check(f"{where}: the tokenizer {who}", made, modality)
    return Maker(made, who)


def _check(where: str, made: ImageTokenizerConfig, modality: Modality) -> None:
    """Raises UserError unless a tokenizer makes the tokens that a modality has."""
    found = (made.image_size, made.patch_size, made.vocab_size)
    wanted = (modality.image_size, modality.patch_size, modality.vocab_size)
    if found != wanted:
        raise UserError(
            f"{where} has image size, patch size and vocabulary {found}, the modality {wanted}; "
            "they must be the same"
        )
    masks = modality.content == LABELS
    if masks != (made.kind == "mask"):
        raise UserError(
            f"{where} is one of {made.kind}s, but {modality.name} has {modality.content}"
        )
    if masks and modality.classes and made.channels != len(modality.classes):
        raise UserError(
            f"{where} knows {made.channels} classes, but {modality.name} names "
            f"{len(modality.classes)}"
        )


def folder_of(who: str, stages: Collection[str], workdir: Workdir) -> pathlib.Path:
    """Where the trained tokenizer lies that `who` makes tokens with."""
    return workdir.model(who) if who in stages else pathlib.Path(who).expanduser()


def keep(folder: pathlib.Path, tokenizers: Mapping[str, pathlib.Path]) -> None:
    """Notes which tokenizers a stage learns from.

    Args:
      folder: of the stage. tokenizers: their folders, by modality.

    Raises:
      UserError: it has begun with others.
    """
    check(folder, tokenizers)
    if jax.process_index() == 0 and not (folder / RECORD).exists():
        found = {
            name: {"path": str(path.absolute()), "sha256": remembered_hash(path)}
            for name, path in tokenizers.items()
        }
        write_whole(folder / RECORD, (json.dumps(found, indent=2) + "\n").encode())


def check(folder: pathlib.Path, tokenizers: Mapping[str, pathlib.Path]) -> None:
    """Raises UserError if a stage has learned from other tokenizers: their ids mean other things.

    The arguments are those of `keep`. A stage that has not begun may have any.
    """
    file = folder / RECORD
    known = records.read_object(file) if file.exists() else {}
    for name, path in tokenizers.items():
        before = known.get(name)
        if before is not None and before["sha256"] != (now := remembered_hash(path)):
            raise UserError(
                f"{folder} learned tokens of {name} that the tokenizer {before['path']} made "
                f"(sha256 {before['sha256']:.12}...), but {path} is another one (sha256 "
                f"{now:.12}...). Put the first one back, or choose another workdir"
            )
