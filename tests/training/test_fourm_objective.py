"""4M's objective: its losses, a batch in parts, and tokens that are made within the step."""

import functools
from typing import NamedTuple

import agreement
import fourm_agreement
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from medjax_kernels.masking import MaskingScheme
from medjax_kernels.masking import Modality as Masked

from medjax.checkpoints import tensors
from medjax.data.streams import Batch
from medjax.modalities.table import Modality
from medjax.models.fourm import (
    FourM,
    FourMConfig,
    ModalityLosses,
    by_modality,
    logit_mean,
    modality_mean,
    token_mean,
)
from medjax.models.params import flatten
from medjax.models.tokenizers import ImageTokenizer, ImageTokenizerConfig, ViTConfig, VQConfig
from medjax.training.objectives import fourm as objectives
from medjax.training.objectives.fourm import Masking
from medjax.training.step import batch_key

IMAGE = dict(image_size=8, patch_size=4)
SCAN = Modality("scan", "patches", channels=1, content="image", **IMAGE)
TOK = Modality("tok", "image_tokens", 12, content="image", source="scan", **IMAGE)
REPORT = Modality("report", "sequence", 40, max_length=7, content="text")
POSE = Modality("pose", "sequence_tokens", 90, max_length=5)
CONFIG = FourMConfig(
    16, 1, 1, 2, (SCAN, TOK, REPORT, POSE), ("scan", "tok", "report"), ("tok", "report", "pose")
)
NETWORK = ViTConfig(8, 1, 2, 2.0)
TOKENIZER = ImageTokenizerConfig("image", 8, 4, 1, NETWORK, NETWORK, VQConfig(12, 3))
ROWS = 8


def masked(modality: Modality) -> Masked:
    return Masked(
        modality.name,
        "image" if modality.is_image else "sequence",
        modality.length,
        (float(modality.name in CONFIG.inputs),),
        (float(modality.name in CONFIG.targets),),
    )


def scheme(*modalities: Modality, **changes) -> MaskingScheme:
    kwargs = dict(input_tokens=(2, 6), target_tokens=(3, 8), sentinels=tuple(range(30, 36)))
    return MaskingScheme(tuple(map(masked, modalities)), **{**kwargs, **changes})


SCHEMES = {
    "all": scheme(SCAN, TOK, REPORT, POSE),
    "images": scheme(SCAN, TOK),
    "texts": scheme(REPORT, POSE),
    # Every token of the image is read, and none is left to predict.
    "read": scheme(TOK, REPORT, input_tokens=(11, 11), target_tokens=(3, 3), encoder_length=11),
}


def randomized(make):
    """A model in which every parameter is random and matters."""
    model = nnx.eval_shape(make)
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        target = variable.get_value()
        value = 0.3 * rng.standard_normal(target.shape) + (path[-1] == "scale")
        variable.set_value(jnp.asarray(value, target.dtype))
    return model


@functools.cache
def model() -> FourM:
    return randomized(lambda: FourM(CONFIG, rngs=nnx.Rngs(0)))


@functools.cache
def tokenizer() -> ImageTokenizer:
    return randomized(lambda: ImageTokenizer(TOKENIZER, rngs=nnx.Rngs(0)))


def objective(weighting: str = "token", smoothing: float = 0.0) -> Masking:
    return Masking(
        CONFIG, SCHEMES, {"tok": tokenizer()}, weighting=weighting, label_smoothing=smoothing
    )


def batch(*names: str, rows: int = ROWS, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of some modalities."""
    rng = np.random.default_rng(seed)
    scan = rng.uniform(-1, 1, (rows, 8, 8, 1)).astype(np.float32)
    made = {"scan": scan, "tok": scan}
    for modality, ids in ((REPORT, 30), (POSE, 30)):
        length = rng.integers(1, modality.length + 1, rows).astype(np.int32)
        tokens = rng.integers(1, ids, (rows, modality.length)).astype(np.int32)
        made[modality.name] = np.where(np.arange(modality.length) < length[:, None], tokens, 0)
        made[f"{modality.name}/length"] = length
    names = names or CONFIG.names
    return {key: made[key] for key in made if key.split("/")[0] in names}


class Found(NamedTuple):
    prepared: dict
    figures: dict
    loss: jax.Array  # what is differentiated, over its divisor
    losses: ModalityLosses


@functools.cache
def compiled(weighting: str, smoothing: float):
    aim, (graphdef, state) = objective(weighting, smoothing), nnx.split(model())

    @functools.partial(jax.jit, static_argnames="source")
    def run(arrays, state, rows, key, source):
        prepared, shared = aim.prepare(arrays, rows, key, 1, source)
        total = aim.sums(nnx.merge(graphdef, state), prepared, shared, 0)
        loss = total.loss / total.divisor
        return Found(prepared, aim.figures(total), loss, total.more.losses)

    return lambda rows, key, source: run(aim.arrays, state, rows, key, source)


def found(rows, source="all", weighting="token", smoothing=0.0, number=0) -> Found:
    """What becomes of a batch, as the objective does it."""
    return compiled(weighting, smoothing)(rows, batch_key(0, number), source)


@functools.cache
def whole(weighting="token", smoothing=0.0) -> Found:
    return found(batch(), "all", weighting, smoothing)


@functools.cache
def token_losses(smoothing: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The loss of every token of `whole`, in NumPy, and whether it was the most probable."""
    prepared = whole().prepared
    hidden = model().decode(
        prepared["decoder"], model().encode(prepared["encoder"], prepared["features"])
    )
    decoder = prepared["decoder"]
    losses, right = np.zeros(decoder.targets.shape), np.zeros(decoder.targets.shape)
    for name in CONFIG.targets:
        logits = np.asarray(model().logits(hidden, name), np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        mine = np.asarray(decoder.modality == CONFIG.index(name)) & np.asarray(decoder.valid)
        targets = np.where(mine, decoder.targets, 0)
        hit = np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
        each = -(1 - smoothing) * hit - smoothing * log_probs.mean(-1)
        losses[mine] = each[mine]
        right[mine] = (logits.argmax(-1) == targets)[mine]
    return losses, right


def groups() -> dict[str, np.ndarray]:
    """Which tokens are whose."""
    decoder = whole().prepared["decoder"]
    valid = np.asarray(decoder.valid)
    return {n: valid & (np.asarray(decoder.modality) == CONFIG.index(n)) for n in CONFIG.targets}


@pytest.mark.parametrize(
    ("weighting", "smoothing"), [("token", 0.0), ("modality", 0.2), ("logit", 0.0)]
)
def test_losses_against_numpy(weighting, smoothing):
    losses, right = token_losses(smoothing)
    mine = groups()
    assert min(m.sum() for m in mine.values()) > 5
    means = {name: losses[m].mean() for name, m in mine.items()}
    sizes = {name: CONFIG.modality(name).vocab_size for name in mine}
    logits = {name: m.sum() * sizes[name] for name, m in mine.items()}
    wanted = {
        "token": losses.sum() / sum(m.sum() for m in mine.values()),
        "modality": np.mean(list(means.values())),
        "logit": sum(means[name] * logits[name] for name in mine) / sum(logits.values()),
    }
    assert np.ptp(list(wanted.values())) > 1e-2
    result = whole(weighting, smoothing)
    np.testing.assert_allclose(result.loss, wanted[weighting], rtol=2e-6)
    np.testing.assert_allclose(result.figures["loss"], wanted[weighting], rtol=2e-6)
    for name, mean in means.items():
        np.testing.assert_allclose(result.figures[f"loss/{name}"], mean, rtol=2e-6)
    assert {*result.figures} == {"tokens", *objective(weighting, smoothing).names}
    assert result.figures["tokens"] == sum(m.sum() for m in mine.values())
    accuracy = right.sum() / sum(m.sum() for m in mine.values())
    np.testing.assert_allclose(result.figures["accuracy"], accuracy, rtol=1e-6)


def test_losses_are_those_of_the_models_own_functions():
    losses, _ = token_losses()
    decoder = whole().prepared["decoder"]
    targets = [CONFIG.index(name) for name in CONFIG.targets]
    sums = by_modality(jnp.asarray(losses), decoder.modality, decoder.valid, targets)
    np.testing.assert_allclose(whole("token").loss, token_mean(sums), rtol=2e-6)
    sizes = [CONFIG.modality(n).vocab_size for n in CONFIG.targets]
    np.testing.assert_allclose(whole("logit").loss, logit_mean(sums, sizes), rtol=2e-6)
    sums = by_modality(jnp.asarray(token_losses(0.2)[0]), decoder.modality, decoder.valid, targets)
    np.testing.assert_allclose(whole("modality", 0.2).loss, modality_mean(sums), rtol=2e-6)


@pytest.mark.parametrize("folder", fourm_agreement.recorded_sets(), ids=agreement.label)
@pytest.mark.parametrize(
    ("weighting", "field"), [("modality", "loss_mod"), ("logit", "loss_token")]
)
def test_losses_are_the_originals(folder, weighting, field, monkeypatch):
    checkpoint, packed = fourm_agreement.open_set(folder)
    config = checkpoint.config
    # A set's masks were drawn elsewhere: they take the place of those that would be drawn here.
    drawn = MaskedSet(packed.encoder, packed.decoder)
    monkeypatch.setattr(objectives, "masking", lambda *args, **kwargs: drawn)
    values = {}
    with np.load(folder / "io.npz") as io:
        for m in config.modalities:
            array = io[f"input/{m.name}/tensor"]
            values[m.name] = array.transpose(0, 2, 3, 1) if m.kind == "patches" else array
            values[f"{m.name}/length"] = np.zeros(len(array), np.int32)
        wanted = {"modality": io["loss_mod"], "logit": io["loss_token"]}
    graphdef, state = nnx.split(tensors.build(checkpoint))

    @jax.jit
    def losses(state, values):
        found = {}
        for weighting in wanted:
            aim = Masking(config, {"": FakeScheme(config.modalities)}, weighting=weighting)
            rows, shared = aim.prepare((), values, jax.random.key(0), 1, "")
            total = aim.sums(nnx.merge(graphdef, state), rows, shared, 0)
            found[weighting] = total.loss / total.divisor, aim.figures(total)["loss"]
        return found

    for weighting, found in losses(state, values).items():
        np.testing.assert_allclose(found, [wanted[weighting]] * 2, rtol=1e-5, err_msg=weighting)


class MaskedSet(NamedTuple):
    encoder: NamedTuple
    decoder: NamedTuple


class FakeScheme(NamedTuple):
    modalities: tuple


def trained(rows, make_trainer, accumulation=1):
    """Figures, and how far each parameter moved: with SGD its gradient."""
    before = {name: np.asarray(x) for name, x in flatten(model()).items()}
    trainer = make_trainer(
        model(), objective=objective(), optimizer=optax.sgd(1.0), accumulation=accumulation
    )
    figures = trainer.step(rows, "all")
    moved = {name: before[name] - np.asarray(x) for name, x in trainer.state.params.items()}
    return {key: np.asarray(value) for key, value in figures.items()}, moved


def test_a_batch_in_parts_is_the_batch(make_trainer):
    figures, moved = trained(batch(), make_trainer)
    assert np.median([np.abs(x).max() for x in moved.values()]) > 1e-3
    np.testing.assert_allclose(figures["loss"], whole().loss, rtol=2e-6)
    also, other = trained(batch(), make_trainer, 4)
    for key, value in figures.items():
        np.testing.assert_allclose(also[key], value, rtol=1e-5, err_msg=key)
    for name, x in moved.items():
        np.testing.assert_allclose(other[name], x, atol=2e-6, err_msg=name)


def test_rows_that_only_fill_up_change_nothing():
    kept = 5
    rows = {key: x.copy() for key, x in batch().items()}
    for seed in (1, 2):
        for key, x in batch(seed=seed).items():
            rows[key][kept:] = x[kept:]
        filled = found({**rows, "valid": np.arange(ROWS) < kept})
        alone = found(
            {key: x[:kept] for key, x in batch().items()} | {"valid": np.ones(kept, bool)}
        )
        np.testing.assert_allclose(filled.loss, alone.loss, rtol=1e-6)
        for key, value in alone.figures.items():
            np.testing.assert_allclose(filled.figures[key], value, rtol=1e-6, err_msg=key)
    assert abs(whole().loss - alone.loss) > 1e-3


def test_validation_weighs_tokens_however_they_come(make_trainer):
    """Of batches of different sizes, too, the last of which is filled up."""
    rows = batch()
    filled = [np.ones(ROWS, bool), np.arange(ROWS) < 2]
    trainer = make_trainer(model(), objective=objective())
    batches = [Batch(rows, ("",) * ROWS, np.zeros(ROWS, bool), there, "all") for there in filled]
    told = trainer.evaluate(batches)
    parts = [
        found({**rows, "valid": there}, number=number).losses for number, there in enumerate(filled)
    ]
    total = jax.tree.map(jnp.add, *parts)
    np.testing.assert_allclose(told["loss"], token_mean(total), rtol=1e-5)
    np.testing.assert_allclose(told["loss/pose"], total.mean[2], rtol=1e-5)
    uneven = np.mean([token_mean(part) for part in parts])
    assert abs(uneven - told["loss"]) > 1e-3  # a mean of means would weigh the last ones more


def test_texts_alone(make_trainer):
    """A source without images: its batches hold none, and what it lacks costs nothing."""
    rows = batch("report", "pose")
    assert not any("scan" in key or "tok" in key for key in rows)
    there = np.ones(ROWS, bool)
    figures = found({**rows, "valid": there}, "texts", "modality").figures
    assert np.isnan(figures["loss/tok"])
    mean = (figures["loss/report"] + figures["loss/pose"]) / 2
    assert np.isfinite(mean)
    np.testing.assert_allclose(figures["loss"], mean, rtol=1e-6)
    trainer = make_trainer(model(), objective=objective("modality"))
    told = trainer.evaluate([Batch(rows, ("",) * ROWS, ~there, there, "texts")])
    np.testing.assert_allclose(told["loss"], mean, rtol=1e-6)
    assert "loss/tok" not in told  # of what there was none, nothing is told


def test_tokens_are_those_that_the_tokenizer_makes():
    rows = batch("tok", "report")
    encoder = found(rows, "read").prepared["encoder"]
    wanted = np.asarray(tokenizer().encode(rows["tok"])).reshape(ROWS, 4)
    assert len(np.unique(wanted)) > 3
    seen = 0
    for i in range(ROWS):
        mine = np.asarray(encoder.valid[i] & (encoder.modality[i] == CONFIG.index("tok")))
        positions = np.asarray(encoder.positions[i])[mine]
        np.testing.assert_array_equal(np.asarray(encoder.tokens[i])[mine], wanted[i][positions])
        seen += mine.sum()
    assert seen > 2 * ROWS


def test_no_gradient_reaches_the_tokenizer(make_trainer):
    aim, (graphdef, state) = objective(), nnx.split(model())

    def loss(arrays):
        prepared, _ = aim.prepare(arrays, batch(), batch_key(0, 0), 1, "all")
        return aim.sums(nnx.merge(graphdef, state), prepared, (), 0).loss

    for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(aim.arrays)):
        assert not np.asarray(gradient).any()
    trainer = make_trainer(model(), objective=aim)
    names = {name.split("/")[0] for name in trainer.state.params}
    assert names == {"encoder", "decoder", "encoder_embeddings", "decoder_embeddings"} | (
        names & {"context_projection", "lm_head", "register_tokens"}
    )
    assert trainer.state.carried == {}


def test_masks_are_a_function_of_seed_step_and_row():
    one, other = found(batch()).prepared, found(batch(seed=1)).prepared
    assert not np.array_equal(one["encoder"].tokens, other["encoder"].tokens)
    again = whole().prepared["encoder"]

    def draw(rows, key):
        return compiled("token", 0.0)(rows, key, "all").prepared["encoder"]

    for a, b in zip(again, one["encoder"], strict=True):
        np.testing.assert_array_equal(a, b)
    keys = {"step": batch_key(0, 1), "seed": batch_key(1, 0)}
    for name, key in keys.items():
        drawn = draw(batch(), key)
        assert not np.array_equal(drawn.positions, again.positions), name
    # Equal rows are masked differently.
    same = {key: np.repeat(x[:1], ROWS, 0) for key, x in batch().items()}
    assert len({bytes(np.asarray(x)) for x in draw(same, batch_key(0, 0)).positions}) > ROWS // 2


def test_embeddings_are_read_as_far_as_there_are_some():
    prior = Modality("prior", "sequence_embeddings", max_length=5, channels=3, content="embeddings")
    config = FourMConfig(16, 1, 1, 2, (prior, TOK), ("prior",), ("tok",))
    parts = (Masked("prior", "image", 5, (1.0,), (0.0,)), Masked("tok", "image", 4, (0.0,), (1.0,)))
    aim = Masking(config, {"all": MaskingScheme(parts, (5, 5), (4, 4))})
    rng = np.random.default_rng(0)
    vectors, lengths = rng.standard_normal((ROWS, 5, 3)).astype(np.float32), np.arange(ROWS) % 6
    ids = rng.integers(0, 12, (ROWS, 4)).astype(np.int32)
    rows = {"prior": vectors, "prior/length": lengths.astype(np.int32), "tok": ids}
    prepared = jax.jit(lambda rows: aim.prepare((), rows, batch_key(0, 0), 1, "all")[0])(rows)
    read, valid = prepared["encoder"].positions, np.asarray(prepared["encoder"].valid)
    np.testing.assert_array_equal(valid.sum(1), lengths)
    for row, length in enumerate(lengths):
        assert sorted(np.asarray(read)[row][valid[row]].tolist()) == list(range(length))
    np.testing.assert_array_equal(prepared["features"]["prior"], vectors)
    made = randomized(lambda: FourM(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(made)
    run = jax.jit(lambda state, part: aim.sums(nnx.merge(graphdef, state), part, (), 0).loss)
    assert np.isfinite(run(state, prepared))
