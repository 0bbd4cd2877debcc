"""Stages that train 4M itself."""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence

from jax.sharding import Mesh
from medjax_kernels.masking import MaskingScheme
from ml_collections import ConfigDict

from medjax.checkpoints import adapters, fourm, tensors
from medjax.data.wordpiece import WordPiece
from medjax.errors import UserError
from medjax.modalities.table import BOXES, TEXT, Modality, lookup
from medjax.models import families
from medjax.models.fourm import FourMConfig, variant
from medjax.models.fourm import config as fourm_config
from medjax.models.tokenizers import ImageTokenizer, ImageTokenizerConfig
from medjax.pipelines import fit, weights
from medjax.pipelines.fourm import data, tokenizers
from medjax.pipelines.fourm import makers as makers_lib
from medjax.pipelines.fourm.data import Source
from medjax.pipelines.fourm.makers import Maker
from medjax.pipelines.weights import Start
from medjax.scaling import kernels, precision
from medjax.training.masking_schemes import make_scheme
from medjax.training.objectives.fourm import Masking
from medjax.workdir import Workdir


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

    @property
    def channels(self) -> dict[str, int]:
        """Of what a tokenizer reads, by modality."""
        return {name: maker.tokenizer.channels for name, maker in self.makers.items()}

    def objective(self, makers: Mapping[str, ImageTokenizer]) -> Masking:
        """What the model is trained for. `makers`: the trained tokenizers, by modality."""
        loss = self.config.loss
        return Masking(
            self.model,
            self.schemes,
            makers,
            weighting=loss.weighting,
            label_smoothing=loss.label_smoothing,
        )

    def run(self, workdir: Workdir, stages: Collection[str], start: Start | None) -> None:
        """Trains the stage, or continues it, and writes its folder.

        Args:
          stages: all of the run.

        Raises:
          UserError: its tokenizers or its weights are not those that it was begun with.
        """
        config, base = self.config, None
        folders = {
            name: makers_lib.folder_of(maker.who, stages, workdir)
            for name, maker in self.makers.items()
        }
        makers_lib.keep(workdir.stage(self.name), folders)
        if start is not None and fit.leaves_weights(config):
            start = weights.hashed(start)
            base = start.origin
        model, dtype = weights.make_model(config, self.model, start, self.mesh)
        makers = {name: tokenizers.load(folder, self.mesh) for name, folder in folders.items()}
        trained = fit.fit(
            self.name,
            config,
            model,
            self.objective(makers),
            data.train_data(config, self.train),
            steps=self.steps,
            mesh=self.mesh,
            dtype=dtype,
            folder=workdir.stage(self.name),
            base=base,
            validation=data.eval_data(config, self.validation, "validation"),
        )
        texts = workdir.wordpiece if workdir.wordpiece.exists() else None
        weights.save(workdir.model(self.name), config, trained, start, texts)


def open_init(name: str, init: str, table: Mapping[str, Modality]) -> Start:
    """The weights that a stage's `init` names; modalities of an official folder are the table's.

    Raises:
      UserError: there is nothing of the kind, or it is no 4M.
    """
    path = pathlib.Path(init).expanduser()
    official = fourm.read_config(path, table) if fourm.is_folder(path) else None
    start = weights.open_start(init, official)
    families.check(start.checkpoint.config, families.FOURM, f"{name}: init {init}")
    return start


def plan(
    name: str,
    config: ConfigDict,
    table: Mapping[str, Modality],
    base: FourMConfig | None,
    wordpiece: WordPiece | None,
    stages: Mapping[str, ImageTokenizerConfig | None],
) -> Plan:
    """Checks all of a stage that can be checked before anything is written or computed.

    Args:
      table: of modalities.
      base: the model that it begins with; None from scratch.
      wordpiece: of its texts, if it has any.
      stages: see `makers.find`.

    Raises:
      UserError: something in the config, or its data, cannot be used.
    """
    if config.lora.rank and base is None:
        raise UserError(
            f"{name}: lora.rank is set, so that only adapters would learn beside weights that are "
            "random; set init to the weights to start from, or train them in an earlier stage"
        )
    model = model_config(name, config, table, base, wordpiece)
    makers = makers_lib.find(name, config, model, stages)
    channels = {key: maker.tokenizer.channels for key, maker in makers.items()}
    parts = {
        part: data.open_sources(name, config, part, model.modalities, wordpiece, channels)
        for part in ("train", "validation")
    }
    if not parts["train"]:
        raise data.lacking(name, config, ", ".join(m.value for m in model.modalities))
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
    planned = Plan(name, config, model, makers, train, parts["validation"], schemes, mesh, steps)
    fit.check_stopping(name, config, planned.objective({}).names, planned.validation)
    return planned


def check_kernels(config: ConfigDict, model: FourMConfig) -> None:
    """Raises UserError if the model cannot run here with the kernels that the config names."""
    widths = {"attention": (model.head_dim,), "cross_entropy": (model.width,)}
    kernels.check(config, widths, precision.resolve(config.dtype))


def named(name: str, config: ConfigDict, table: Mapping[str, Modality]) -> list[Modality]:
    """The modalities that a stage reads or predicts.

    Raises:
      UserError: one that the table does not have.
    """
    found: dict[str, Modality] = {}
    for side in ("inputs", "targets"):
        for key in config[side]:
            found[key] = lookup(key, table, where=f"{name}: {side}")
    return list(found.values())


def has_texts(modalities: Sequence[Modality]) -> bool:
    """Whether some are written in the text tokenizer's ids."""
    return any(modality.content in (TEXT, BOXES) for modality in modalities)


def model_config(
    name: str,
    config: ConfigDict,
    table: Mapping[str, Modality],
    base: FourMConfig | None,
    wordpiece: WordPiece | None,
) -> FourMConfig:
    """The sizes of the stage's model; from scratch, its texts' vocabulary is the tokenizer's.

    Raises:
      UserError: no model is named, or not what its weights are, or the tokenizer has more ids.
    """
    if base is not None:
        model = base
        for side in ("inputs", "targets"):
            if config[side] and tuple(config[side]) != getattr(model, side):
                raise UserError(
                    f"{name}: {side} are {', '.join(config[side])}, but the model that it begins "
                    f"with has {', '.join(getattr(model, side))}; leave {side} out, or train from "
                    "scratch"
                )
        if config.model:
            _check_same(name, _sized(name, config, model.modalities, model), model)
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
        model = _sized(name, config, named(name, config, own))
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


def _sized(
    name: str, config: ConfigDict, modalities: Sequence[Modality], like: FourMConfig | None = None
) -> FourMConfig:
    """The model of a config's `model`, inputs and targets; these are `like`'s, if it is given."""
    inputs, targets = (getattr(like or config, side) for side in ("inputs", "targets"))
    if isinstance(config.model, str):
        own = {modality.name: modality for modality in modalities}
        return variant(config.model, inputs, targets, modalities=own)
    entries = [dataclasses.asdict(modality) for modality in modalities]
    data = {"modalities": entries, "inputs": list(inputs), "targets": list(targets)}
    return fourm_config.from_dict({**config.model.to_dict(), **data}, f"{name}: model")


def _check_same(name: str, asked: FourMConfig, model: FourMConfig) -> None:
    """Raises UserError unless weights are of the model that is asked for.

    Whether output layers are tied is told by the weights.
    """
    found = {**fourm_config.to_dict(model), "tie_embeddings": asked.tie_embeddings}
    wanted = fourm_config.to_dict(asked)
    if different := [key for key in wanted if wanted[key] != found[key]]:
        key = different[0]
        raise UserError(
            f"{name}: model has {key} {wanted[key]!r}, but the one that it begins with has "
            f"{found[key]!r}; leave model out, or begin with other weights"
        )
