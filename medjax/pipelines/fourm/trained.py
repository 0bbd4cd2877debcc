"""A trained 4M with all that makes tokens of values and values of tokens."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from ml_collections import ConfigDict

from medjax import config as config_lib
from medjax import workdir as workdir_lib
from medjax.data.samples import Sample
from medjax.data.wordpiece import WordPiece
from medjax.decoding.fourm.generator import Generator
from medjax.decoding.fourm.known import Known, features_of, full, pack
from medjax.decoding.fourm.steps import Step
from medjax.errors import UserError
from medjax.modalities.boxes import parse_boxes
from medjax.modalities.table import BOXES, LABELS, TEXT
from medjax.modalities.transforms import SampleTransform
from medjax.models.fourm import FourM
from medjax.models.fourm.packed import all_features
from medjax.models.tokenizers import ImageTokenizer
from medjax.pipelines import fit, weights
from medjax.pipelines.fourm import makers, tokenizers
from medjax.pipelines.fourm.model import has_texts
from medjax.pipelines.fourm.steps import make_step
from medjax.scaling import precision
from medjax.training.objectives.fourm import patches
from medjax.workdir import Workdir

Rows = Mapping[str, np.ndarray]


class Trained:
    """A model with its tokenizers.

    Attributes:
      config: of the stage that trained it.
      model: 4M. wordpiece: of its texts, if it has any.
      tokenizers: by modality, who makes its tokens.
    """

    def __init__(
        self,
        config: ConfigDict,
        model: FourM,
        tokenizers: Mapping[str, ImageTokenizer],
        wordpiece: WordPiece | None,
    ):
        self.config, self.model, self.wordpiece = config, model, wordpiece
        self.tokenizers = dict(tokenizers)
        sequences = [m.name for m in model.config.modalities if m.name in model.config.inputs]
        sequences = [n for n in sequences if has_texts([model.config.modality(n)])]
        # What stands for a text that a pass of guidance does not read, as in training.
        blanks = {name: wordpiece.sentinel_ids[0] for name in sequences} if wordpiece else {}
        self._generator = Generator(model, blanks=blanks)
        split = {name: nnx.split(tokenizer) for name, tokenizer in self.tokenizers.items()}
        self._states = {name: state for name, (_, state) in split.items()}
        self._encode, self._decode = {}, {}
        for name, (graphdef, _) in split.items():
            self._encode[name] = jax.jit(_method(graphdef, "encode"))
            self._decode[name] = jax.jit(_method(graphdef, "decode"))
        of_model, self._state = nnx.split(model)
        self._hidden = jax.jit(_mean_hidden(of_model), static_argnames="name")

    def transform(self, names: Sequence[str]) -> SampleTransform:
        """Samples to rows of these modalities."""
        chosen = [self.model.config.modality(name) for name in names]
        channels = {name: t.config.channels for name, t in self.tokenizers.items()}
        return SampleTransform(chosen, self.wordpiece, channels)

    def rows(self, samples: Sequence[Sample], names: Sequence[str]) -> dict[str, np.ndarray]:
        """What the modalities of some samples are as arrays, stacked."""
        made = [self.transform(names)(sample) for sample in samples]
        return {key: np.stack([row[key] for row in made]) for key in made[0]}

    def tokens(self, rows: Rows, name: str) -> np.ndarray:
        """The ids of an image's tokens, int32 [B, n]."""
        if name not in self.tokenizers:
            return rows[name]
        ids = self._encode[name](self._states[name], rows[name])
        return np.asarray(ids).reshape(len(ids), -1)

    def given(
        self, rows: Rows, names: Sequence[str]
    ) -> tuple[dict[str, Known], dict[str, jax.Array]]:
        """Modalities as `Generator` takes them: what is known, and features."""
        known, features = {}, {}
        for name in names:
            modality, value = self.model.config.modality(name), rows[name]
            if modality.is_image and not modality.has_ids:
                features[name] = patches(jnp.asarray(value), modality)
                known[name] = features_of(modality, len(value))
            elif modality.is_image:
                known[name] = full(self.tokens(rows, name))
            else:
                valid = np.arange(value.shape[1]) < rows[f"{name}/length"][:, None]
                known[name] = Known(value, valid)
                if not modality.has_ids:
                    features[name] = jnp.asarray(value)
                    known[name] = Known(np.zeros(valid.shape, np.int32), valid)
        return known, features

    def step(self, target: str, **changes: Any) -> Step:
        """How a modality is made, as the config's `evaluate` says; see `make_step`."""
        evaluate, model = self.config.evaluate, self.model.config
        return make_step(evaluate, model, self.wordpiece, target, **changes)

    def make(
        self,
        rows: Rows,
        given: Sequence[str],
        steps: Sequence[Step],
        *,
        seed: int = 0,
        first: int = 0,
    ) -> dict[str, Known]:
        """Does the steps of a schedule; see `Generator`.

        Args:
          rows: of samples, as `rows` gives them.
          given: names of the modalities of theirs that are known.
          first: number of the first sample, by which draws differ.
        """
        known, features = self.given(rows, given)
        batch = len(next(iter(known.values())).tokens)
        numbers = jnp.arange(first, first + batch)
        return self._generator(known, steps, features=features, seed=seed, rows=numbers)

    def values(self, name: str, made: Known) -> list[Any]:
        """What tokens say: images float32 [H, W, C], labels int32 [H, W], texts, or boxes."""
        modality = self.model.config.modality(name)
        tokens, valid = np.asarray(made.tokens), np.asarray(made.valid)
        if name in self.tokenizers:
            grid = tokens.reshape(-1, modality.side, modality.side)
            decoded = np.asarray(self._decode[name](self._states[name], grid))
            return list(decoded.argmax(-1).astype(np.int32) if self._masks(name) else decoded)
        texts = [row[there] for row, there in zip(tokens, valid, strict=True)]
        if self.wordpiece is not None and modality.content == TEXT:
            return [self.wordpiece.decode(row) for row in texts]
        if self.wordpiece is not None and modality.content == BOXES:
            return [parse_boxes(self.wordpiece, row.tolist()) for row in texts]
        return texts

    def true_values(self, rows: Rows, name: str) -> list[Any]:
        """The values of samples as `values` would give them, of images and labels as they are."""
        if name in self.tokenizers or not self.model.config.modality(name).has_ids:
            return list(rows[name])
        known, _ = self.given(rows, [name])
        return self.values(name, known[name])

    def there_and_back(self, rows: Rows, name: str) -> list[Any]:
        """What a tokenizer alone makes of its own tokens: no model of them can do better."""
        return self.values(name, full(self.tokens(rows, name)))

    def features(self, rows: Rows, name: str) -> Float[np.ndarray, "B D"]:
        """The mean of the encoder's output tokens for one modality given alone, float32."""
        known, features = self.given(rows, [name])
        batch = len(known[name].tokens)
        # The model asks for the features of every modality, there or not.
        absent = [m for m in self.model.config.modalities if not m.has_ids and m.name != name]
        features |= {m.name: jnp.zeros((batch, 1, m.features)) for m in absent}
        return np.asarray(
            self._hidden(self._state, pack(self.model.config, known, batch), features, name=name)
        )

    def _masks(self, name: str) -> bool:
        return self.model.config.modality(name).content == LABELS


def _method(graphdef, name: str):
    def call(state, values):
        return getattr(nnx.merge(graphdef, state), name)(values)

    return call


def _mean_hidden(graphdef):
    def call(state, inputs, features, name):
        del name  # one program a modality
        model = nnx.merge(graphdef, state)
        model.eval()
        encoded = model.encode(inputs, all_features(model.config, features, len(inputs.tokens)))
        registers = encoded.hidden.shape[1] - inputs.valid.shape[1]
        hidden, valid = encoded.hidden[:, registers:], inputs.valid[..., None]
        return jnp.where(valid, hidden, 0.0).sum(1) / jnp.maximum(valid.sum(1), 1)

    return call


def load(path: str | pathlib.Path, stage: str | None = None) -> Trained:
    """The model of a run's folder; the last stage that trained one, if none is named.

    Raises:
      UserError: no such run or stage, or it is not trained yet.
    """
    return load_stage(workdir_lib.read_config(path), Workdir.of(path), stage)


def load_stage(config: ConfigDict, workdir: Workdir, stage: str | None = None) -> Trained:
    """See `load`."""
    stage, own, folders = find_stage(config, workdir, stage)
    makers.check(workdir.stage(stage), folders)
    mesh = fit.own_mesh(own)
    model = weights.load_result(workdir.model(stage), precision.resolve(own.dtype), mesh)
    model.eval()
    texts = has_texts(model.config.modalities)
    return Trained(
        own,
        model,
        {name: tokenizers.load(folder, mesh) for name, folder in folders.items()},
        WordPiece.load(workdir.wordpiece) if texts else None,
    )


def find_stage(
    config: ConfigDict, workdir: Workdir, stage: str | None = None
) -> tuple[str, ConfigDict, dict[str, pathlib.Path]]:
    """The name of a trained stage, its config, and the folders of its tokenizers by modality.

    Arguments and errors are those of `load`.
    """
    if config.family != "fourm":
        raise UserError(f"{workdir.path} is a run of {config.family}, not of 4M")
    configs = {n: config_lib.stage_config(config, n) for n in config_lib.stage_names(config)}
    models = [name for name, of in configs.items() if of.kind == "fourm"]
    if not models:
        raise UserError(f"{workdir.path} has no stage of kind fourm")
    stage = models[-1] if stage is None else stage
    if stage not in models:
        raise UserError(f"{workdir.path} has no 4M stage {stage!r}; it has {', '.join(models)}")
    own = configs[stage]
    folders = {
        name: makers.folder_of(who, configs, workdir) for name, who in own.tokenizers.items()
    }
    for name, folder in (*folders.items(), (stage, workdir.model(stage))):
        if not folder.exists():
            raise UserError(f"{workdir.path}: {name} is not trained yet; run medjax.train")
    return stage, own, folders
