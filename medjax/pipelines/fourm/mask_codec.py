"""Stages that train PaliGemma's mask codec on masks of one's own."""

import dataclasses
import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medjax import records
from medjax.checkpoints import mask_codec
from medjax.data.samples.masks import CLASS, CLASS_NAME, MaskSamples, MaskTransform
from medjax.errors import UserError
from medjax.evaluation.fourm import reconstruction
from medjax.modalities.table import LABELS, Modality, lookup
from medjax.models import build, params
from medjax.models.mask_codec import GRID, NUM_CODES, SIDE, MaskCodec
from medjax.models.tokenizers import VQConfig
from medjax.pipelines import fit
from medjax.pipelines.fourm import data
from medjax.pipelines.fourm.data import Source
from medjax.training.objectives.mask_codec import QUANTIZER, MaskReconstruction, in_training
from medjax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Plan:
    """A stage that can be trained as far as can be told; see `plan`."""

    name: str
    config: ConfigDict
    modality: Modality
    objective: MaskReconstruction
    train: Mapping[str, Source]
    validation: Mapping[str, Source]
    test: Mapping[str, Source]
    mesh: Mesh
    steps: int

    def run(self, workdir: Workdir) -> None:
        """Trains the stage, or continues it, and writes its folder and its reconstructions."""
        config = self.config
        trained = fit.fit(
            self.name,
            config,
            self._start(),
            self.objective,
            data.train_data(config, self.train),
            steps=self.steps,
            mesh=self.mesh,
            dtype=np.dtype(np.float32),
            folder=workdir.stage(self.name),
            validation=data.eval_data(config, self.validation, "validation"),
        )
        if jax.process_index() == 0:
            self._report(trained, workdir)
            mask_codec.write_folder(trained, workdir.model(self.name))

    def _start(self) -> MaskCodec:
        if not self.config.init:
            return build.fresh(
                lambda: in_training(MaskCodec(rngs=nnx.Rngs(self.config.seed))), self.mesh
            )
        # Codes that are good already start as if each had been used alike, and so live a while.
        tokens = self.config.batch_size * GRID * GRID
        return in_training(_read(self.config.init), tokens / NUM_CODES)

    def _report(self, codec: MaskCodec, workdir: Workdir) -> None:
        part, sources = data.told_of(self.train, self.validation, self.test)
        shown = [
            (source, sample)
            for source in sources.values()
            for sample in data.evenly(source.samples, self.config.evaluate.examples)
        ]
        # Class by class, so that the picture, which takes them evenly, has some of each.
        shown.sort(key=lambda pair: pair[1].extra[CLASS])
        rows = [source.transform(sample)[self.modality.name] for source, sample in shown]
        labels = [sample.extra[CLASS] for _, sample in shown]
        names = [sample.extra[CLASS_NAME] for _, sample in shown]
        size = self.config.evaluate.batch_size
        found = reconstruction.measure_masks(codec, rows, size, labels, names)
        folder = workdir.stage(self.name)
        reconstruction.write(folder, self.modality, found, name=self.name, part=part)


def plan(name: str, config: ConfigDict, table: Mapping[str, Modality]) -> Plan:
    """Checks all of a stage that can be checked before anything is written or computed.

    Raises:
      UserError: something in the config, or its data, cannot be used.
    """
    modality = _described(name, config, table)
    objective = _objective(name, config, modality)
    train, validation, test = (
        _open_sources(name, config, part, modality) for part in ("train", "validation", "test")
    )
    if not train:
        raise data.lacking(name, config, modality.value)
    if config.init:
        _read(config.init)
    steps = fit.steps_of(config, sum(len(source.samples) for source in train.values()))
    abstract = nnx.eval_shape(lambda: in_training(MaskCodec(rngs=nnx.Rngs(0))))
    shapes = {key: tuple(x.shape) for key, x in params.flatten(abstract).items()}
    fit.check_optimizer(name, config, steps, shapes)
    fit.check_stopping(name, config, objective.names, validation)
    mesh = fit.make_mesh(config)
    data.train_data(config, train).close()
    return Plan(name, config, modality, objective, train, validation, test, mesh, steps)


def _described(name: str, config: ConfigDict, table: Mapping[str, Modality]) -> Modality:
    """Whose masks a stage learns.

    Raises:
      UserError: a modality that is not of labels, or keys that the codec has no use for.
    """
    if not config.modality:
        raise UserError(f"{name}: modality is not set; name whose masks are to be learned")
    modality = lookup(config.modality, table, where=f"{name}")
    if modality.content != LABELS:
        raise UserError(
            f"{name}: modality {modality.name!r} is of content {modality.content!r}; masks are of "
            f"{LABELS}"
        )
    if config.lora.rank:
        raise UserError(f"{name}: lora.rank is set, and a codec has no adapters; set it to 0")
    if config.dtype not in ("auto", "float32"):
        raise UserError(f"{name}: dtype is {config.dtype}; the mask codec computes in float32")
    return modality


def _objective(name: str, config: ConfigDict, modality: Modality) -> MaskReconstruction:
    given = config.tokenizer.to_dict()
    quantizer = given.pop("quantizer", {})
    free = ("decay", "commitment", "restart_below")
    if other := sorted({*given, *(f"quantizer.{key}" for key in set(quantizer) - set(free))}):
        raise UserError(
            f"{name}: tokenizer.{other[0]} cannot be chosen: the mask codec's sizes are fixed, and "
            f"only {', '.join(f'tokenizer.quantizer.{key}' for key in free)} are free"
        )
    known = dataclasses.asdict(QUANTIZER) | quantizer
    own = records.from_dict(VQConfig, known, f"{name}: tokenizer.quantizer")
    return MaskReconstruction(modality.name, own, config.reconstruction or "l2")


def _open_sources(
    name: str, config: ConfigDict, part: str, modality: Modality
) -> dict[str, Source]:
    """The masks of a part of the data.

    Raises:
      UserError: see `data.open_sources`; or no mask is large enough.
    """
    channels = {modality.name: len(modality.classes)} if modality.classes else {}
    transform = MaskTransform(modality.name, SIDE, data.augmentation(config, part))
    sources = {}
    for key, source in data.open_sources(
        name, config, part, (modality,), channels=channels
    ).items():
        masks = MaskSamples(
            source.samples, modality.value, modality.classes, min_pixels=config.min_pixels
        )
        if not len(masks):
            raise UserError(
                f"{name}: data.{part}.{key}: {source.spec.source} has no mask: no class but 0 of "
                f"{modality.value!r} fills {config.min_pixels} pixels (min_pixels) in any image"
            )
        sources[key] = dataclasses.replace(source, samples=masks, transform=transform)
    return sources


def _read(init: str) -> MaskCodec:
    return mask_codec.open_npz(pathlib.Path(init).expanduser())
