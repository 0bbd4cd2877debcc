"""Stages that train 4M itself."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from jax.sharding import Mesh
from medjax_kernels.masking import MaskingScheme
from ml_collections import ConfigDict

from medjax.checkpoints import adapters, image_tokenizer, tensors
from medjax.data.wordpiece import WordPiece
from medjax.errors import UserError
from medjax.modalities.table import BOXES, IMAGE, LABELS, TEXT, Modality, lookup
from medjax.models import families
from medjax.models.fourm import FourMConfig, variant
from medjax.models.fourm import config as fourm_config
from medjax.models.tokenizers import ImageTokenizerConfig
from medjax.pipelines import fit, weights
from medjax.pipelines.fourm import data, tokenizers
from medjax.pipelines.fourm.data import Source
from medjax.pipelines.weights import Start
from medjax.scaling import kernels, precision
from medjax.training.masking_schemes import make_scheme
from medjax.training.objectives.fourm import Masking
from medjax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Maker:
    """Who makes the tokens of a modality: a stage of the run, or a folder."""

    tokenizer: ImageTokenizerConfig
    stage: str = ""
    folder: pathlib.Path | None = None

    def path(self, workdir: Workdir) -> pathlib.Path:
        """Where the trained tokenizer lies."""
        return self.folder or workdir.model(self.stage)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A stage that can be trained as far as can be told without weights; see `plan`."""

    name: str
    config: ConfigDict
    model: FourMConfig
    makers: Mapping[str, Maker]
    train: Mapping[str, Source]
    validation: Mapping[str, Source]
    schemes: Mapping[str, MaskingScheme]
    mesh: Mesh
    steps: int

    def run(self, workdir: Workdir, start: Start | None) -> None:
        """Trains the stage, or continues it, and writes its folder."""
        config, base = self.config, None
        if start is not None and fit.leaves_weights(config):
            start = weights.hashed(start)
            base = start.origin
        model, dtype = weights.make_model(config, self.model, start, self.mesh)
        objective = Masking(
            self.model,
            self.schemes,
            {name: tokenizers.load(m.path(workdir), self.mesh) for name, m in self.makers.items()},
            weighting=config.loss.weighting,
            label_smoothing=config.loss.label_smoothing,
        )
        trained = fit.fit(
            self.name,
            config,
            model,
            objective,
            data.train_data(config, self.train),
            steps=self.steps,
            mesh=self.mesh,
            dtype=dtype,
            folder=workdir.stage(self.name),
            base=base,
            validation=data.eval_data(config, self.validation, "validation"),
        )
        weights.save(workdir.model(self.name), config, trained, start, workdir.wordpiece)


def plan(
    name: str,
    config: ConfigDict,
    table: Mapping[str, Modality],
    start: Start | None,
    wordpiece: WordPiece | None,
    stages: Mapping[str, ImageTokenizerConfig],
) -> Plan:
    """Checks all of a stage that can be checked before anything is written or computed.

    Args:
      table: of modalities.
      start: what it begins with.
      wordpiece: of its texts, if it has any.
      stages: the tokenizers that earlier stages train.

    Raises:
      UserError: something in the config, or its data, cannot be used.
    """
    model = model_config(name, config, table, start, wordpiece)
    makers = {
        modality.name: _maker(name, config, modality, stages)
        for modality in model.modalities
        if modality.is_image and modality.has_ids and modality.content in (IMAGE, LABELS)
    }
    if idle := sorted(set(config.tokenizers) - set(makers)):
        raise UserError(
            f"{name}: tokenizers.{idle[0]} is none of the modalities whose tokens are made: "
            f"{', '.join(makers) or 'none'}"
        )
    channels = {key: maker.tokenizer.channels for key, maker in makers.items()}
    parts = {
        part: data.open_sources(name, config, part, model.modalities, wordpiece, channels)
        for part in ("train", "validation")
    }
    if not parts["train"]:
        raise data.lacking(name, config, ", ".join(m.value for m in model.modalities))
    if not config.eval_every:
        parts["validation"] = {}
    sentinels = wordpiece.sentinel_ids if wordpiece else ()
    schemes = {
        key if part == "train" else f"{part}.{key}": make_scheme(
            f"{name}: data.{part}.{key}",
            source.spec,
            config.masking,
            model,
            [modality.name for modality in source.modalities],
            sentinels,
        )
        for part, sources in parts.items()
        for key, source in sources.items()
    }
    check_kernels(config, model)
    train = parts["train"]
    steps = fit.steps_of(config, sum(len(source.samples) for source in train.values()))
    adapted = fit.lora_config(config)
    shapes = tensors.specs(model) if adapted is None else adapters.adapter_specs(model, adapted)
    fit.check_optimizer(name, config, steps, shapes)
    mesh = fit.make_mesh(config)
    data.train_data(config, train).close()
    return Plan(name, config, model, makers, train, parts["validation"], schemes, mesh, steps)


def check_kernels(config: ConfigDict, model: FourMConfig) -> None:
    """Raises UserError if the model cannot run here with the kernels that the config names."""
    widths = {"attention": (model.head_dim,), "cross_entropy": (model.width,)}
    kernels.check(config, widths, precision.resolve(config.dtype))


def named(config: ConfigDict, table: Mapping[str, Modality]) -> list[Modality]:
    """The modalities that a stage reads or predicts."""
    return [lookup(name, table) for name in dict.fromkeys((*config.inputs, *config.targets))]


def has_texts(modalities: Sequence[Modality]) -> bool:
    """Whether some are written in the text tokenizer's ids."""
    return any(modality.content in (TEXT, BOXES) for modality in modalities)


def model_config(
    name: str,
    config: ConfigDict,
    table: Mapping[str, Modality],
    start: Start | None,
    wordpiece: WordPiece | None,
) -> FourMConfig:
    """The sizes of the stage's model; from scratch, its texts' vocabulary is the tokenizer's.

    Raises:
      UserError: no model is named, or not what its weights are, or the tokenizer has more ids.
    """
    if start is not None:
        families.check(start.checkpoint.config, families.FOURM, f"{name}: {start.origin.path}")
        model = start.checkpoint.config
        for side in ("inputs", "targets"):
            if config[side] and tuple(config[side]) != getattr(model, side):
                raise UserError(
                    f"{name}: {side} are {', '.join(config[side])}, but {start.origin.path} was "
                    f"trained with {', '.join(getattr(model, side))}; leave {side} out, or train "
                    "from scratch"
                )
    elif not config.model:
        raise UserError(f"{name}: model is not set; name a model, or weights as init")
    elif not config.inputs or not config.targets:
        raise UserError(f"{name}: inputs and targets must name the modalities")
    else:
        own = dict(table)
        if wordpiece is not None:
            for key, modality in table.items():
                if modality.content in (TEXT, BOXES) and modality.has_ids:
                    own[key] = dataclasses.replace(modality, vocab_size=wordpiece.vocab_size)
        if isinstance(config.model, str):
            model = variant(config.model, config.inputs, config.targets, modalities=own)
        else:
            model = fourm_config.from_dict(
                {
                    **config.model.to_dict(),
                    "modalities": [dataclasses.asdict(m) for m in named(config, own)],
                    "inputs": list(config.inputs),
                    "targets": list(config.targets),
                },
                f"{name}: model",
            )
    if wordpiece is not None:
        for modality in model.modalities:
            most = modality.vocab_size or 0
            if (
                modality.content in (TEXT, BOXES)
                and modality.has_ids
                and (wordpiece.vocab_size > most)
            ):
                raise UserError(
                    f"{name}: {wordpiece.name} has {wordpiece.vocab_size} ids, the model's "
                    f"{modality.name} only {most}: they do not belong together"
                )
    return model


def _maker(
    name: str,
    config: ConfigDict,
    modality: Modality,
    stages: Mapping[str, ImageTokenizerConfig],
) -> Maker:
    """Who makes the tokens of a modality.

    Raises:
      UserError: nobody does, or not the tokens that the modality has.
    """
    where = f"{name}: tokenizers.{modality.name}"
    who = config.tokenizers.get(modality.name, "")
    if not who:
        raise UserError(
            f"{where} is not set: name the stage that trains the tokenizer of {modality.name}, or "
            "the folder of a trained one; or say that its data are ids: "
            f"modalities.{modality.name}.content='ids'"
        )
    if who in stages:
        maker = Maker(stages[who], stage=who)
    else:
        folder = pathlib.Path(who).expanduser()
        if not folder.is_dir():
            known = f"; stages before it that train one: {', '.join(stages)}" if stages else ""
            raise UserError(f"{where} is {who!r}, which is neither a stage nor a folder{known}")
        maker = Maker(image_tokenizer.read_config(folder / image_tokenizer.CONFIG), folder=folder)
    made = maker.tokenizer
    found = (made.image_size, made.patch_size, made.vocab_size)
    wanted = (modality.image_size, modality.patch_size, modality.vocab_size)
    if found != wanted:
        raise UserError(
            f"{where}: the tokenizer {who} has image size, patch size and vocabulary {found}, the "
            f"modality {wanted}; they must be the same"
        )
    return maker
