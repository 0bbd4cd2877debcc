"""Stages that train an image tokenizer."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medjax.checkpoints import image_tokenizer
from medjax.errors import UserError
from medjax.evaluation.fourm import reconstruction
from medjax.modalities.table import IMAGE, IMAGE_TOKENS, LABELS, Modality, lookup
from medjax.models import build, params
from medjax.models.tokenizers import ImageTokenizer, ImageTokenizerConfig, ViTConfig
from medjax.models.tokenizers import config as tokenizer_config
from medjax.pipelines import fit
from medjax.pipelines.fourm import data
from medjax.pipelines.fourm.data import Source
from medjax.scaling import kernels, precision
from medjax.training.objectives.tokenizer import Reconstruction
from medjax.workdir import Workdir

# Images that mean and deviation are taken of.
_MEASURED = 1000


@dataclasses.dataclass(frozen=True)
class Plan:
    """A stage that can be trained as far as can be told; see `plan`."""

    name: str
    config: ConfigDict
    modality: Modality
    tokenizer: ImageTokenizerConfig
    train: Mapping[str, Source]
    validation: Mapping[str, Source]
    test: Mapping[str, Source]
    mesh: Mesh
    steps: int

    def run(self, workdir: Workdir) -> None:
        """Trains the stage, or continues it, and writes its folder and its reconstructions."""
        config, tokenizer = self.config, self._normalised()
        dtype = precision.resolve(config.dtype)
        model = build.fresh(
            lambda: ImageTokenizer(tokenizer, dtype=dtype, rngs=nnx.Rngs(config.seed)), self.mesh
        )
        trained = fit.fit(
            self.name,
            config,
            model,
            _objective(config, self.modality, tokenizer),
            data.train_data(config, self.train),
            steps=self.steps,
            mesh=self.mesh,
            dtype=dtype,
            folder=workdir.stage(self.name),
            validation=data.eval_data(config, self.validation, "validation"),
        )
        if jax.process_index() == 0:
            self._report(trained, workdir)
            image_tokenizer.write_folder(trained, workdir.model(self.name))

    def _normalised(self) -> ImageTokenizerConfig:
        """The tokenizer, with mean and deviation of the training images if it has none yet."""
        tokenizer = self.tokenizer
        if tokenizer.kind == "mask" or (tokenizer.mean and tokenizer.std):
            return tokenizer
        # Channels' sums, so that one image at a time is in memory.
        count, total, squares = 0, np.zeros(tokenizer.channels), np.zeros(tokenizer.channels)
        for source in self.train.values():
            for sample in data.evenly(source.samples, _MEASURED):
                pixels = source.transform(sample)[self.modality.name].astype(np.float64)
                count += pixels.shape[0] * pixels.shape[1]
                total += pixels.sum((0, 1))
                squares += (pixels**2).sum((0, 1))
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
        return dataclasses.replace(
            tokenizer,
            mean=tokenizer.mean or tuple(map(float, mean)),
            std=tokenizer.std or tuple(map(float, std)),
        )

    def _report(self, model: ImageTokenizer, workdir: Workdir) -> None:
        part, sources = data.told_of(self.train, self.validation, self.test)
        rows = [
            source.transform(sample)[self.modality.name]
            for source in sources.values()
            for sample in data.evenly(source.samples, self.config.evaluate.examples)
        ]
        found = reconstruction.measure(model, rows, self.config.evaluate.batch_size)
        folder = workdir.stage(self.name)
        reconstruction.write(folder, self.modality, found, name=self.name, part=part)


def plan(name: str, config: ConfigDict, table: Mapping[str, Modality]) -> Plan:
    """Checks all of a stage that can be checked before anything is written or computed.

    Raises:
      UserError: something in the config, or its data, cannot be used.
    """
    modality, tokenizer = described(name, config, table)
    if config.init:
        raise UserError(f"{name}: init is set, and a tokenizer begins from scratch; leave it out")
    channels = {modality.name: tokenizer.channels}
    train, validation, test = (
        data.open_sources(name, config, part, (modality,), channels=channels)
        for part in ("train", "validation", "test")
    )
    if not train:
        raise data.lacking(name, config, modality.value)
    objective = _objective(config, modality, tokenizer)
    fit.check_stopping(name, config, objective.names, validation)
    networks = (tokenizer.encoder, tokenizer.decoder)
    heads = [n.width // n.num_heads for n in networks if isinstance(n, ViTConfig)]
    kernels.check(config, {"attention": heads}, precision.resolve(config.dtype))
    steps = fit.steps_of(config, sum(len(source.samples) for source in train.values()))
    abstract = nnx.eval_shape(lambda: ImageTokenizer(tokenizer, rngs=nnx.Rngs(0)))
    shapes = {key: tuple(x.shape) for key, x in params.flatten(abstract).items()}
    fit.check_optimizer(name, config, steps, shapes)
    if config.lora.rank:
        raise UserError(f"{name}: lora.rank is set, and a tokenizer has no adapters; set it to 0")
    mesh = fit.make_mesh(config)
    planned = Plan(name, config, modality, tokenizer, train, validation, test, mesh, steps)
    data.train_data(config, train).close()
    return planned


def described(
    name: str, config: ConfigDict, table: Mapping[str, Modality]
) -> tuple[Modality, ImageTokenizerConfig]:
    """Whose tokens a stage makes, and the sizes of its tokenizer.

    Raises:
      UserError: a modality without a tokenizer, or sizes that do not fit it.
    """
    if not config.modality:
        raise UserError(f"{name}: modality is not set; name whose tokens are to be made")
    modality = lookup(config.modality, table, where=f"{name}")
    if modality.kind != IMAGE_TOKENS or modality.content not in (IMAGE, LABELS):
        raise UserError(
            f"{name}: modality {modality.name!r} ({modality.kind} of {modality.content}) is none "
            f"that a tokenizer makes; that is {IMAGE_TOKENS} of {IMAGE} or {LABELS}"
        )
    masks = modality.content == LABELS
    fixed = {
        "kind": "mask" if masks else "image",
        "image_size": modality.image_size,
        "patch_size": modality.patch_size,
    }
    given = config.tokenizer.to_dict()
    if both := sorted(set(fixed) & set(given)):
        raise UserError(f"{name}: tokenizer.{both[0]} follows from modality {modality.name!r}")
    channels = {"channels": len(modality.classes) if masks else 3}
    tokenizer = tokenizer_config.from_dict({**fixed, **channels, **given}, f"{name}: tokenizer")
    if masks and tokenizer.channels != len(modality.classes):
        raise UserError(
            f"{name}: tokenizer.channels is {tokenizer.channels}, but modality {modality.name!r} "
            f"names {len(modality.classes)} classes"
        )
    if tokenizer.vocab_size != modality.vocab_size:
        raise UserError(
            f"{name}: the tokenizer makes {tokenizer.vocab_size} ids, but modality "
            f"{modality.name!r} has a vocabulary of {modality.vocab_size}; they must be as many"
        )
    return modality, tokenizer


def _objective(
    config: ConfigDict, modality: Modality, tokenizer: ImageTokenizerConfig
) -> Reconstruction:
    default = "cross_entropy" if tokenizer.kind == "mask" else "l2"
    return Reconstruction(tokenizer, modality.name, config.reconstruction or default)


def load(path, mesh: Mesh | None = None) -> ImageTokenizer:
    """A trained tokenizer, computing in float32: ids must be the same wherever they are made."""
    return image_tokenizer.open_folder(path, dtype=jnp.float32, mesh=mesh)
