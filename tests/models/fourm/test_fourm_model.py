"""What the recorded sets do not show, on a tiny 4M with a modality of every kind."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from medjax.errors import UserError
from medjax.models.fourm import FourM, by_modality, modality_mean
from medjax.models.params import flatten
from medjax.scaling import sharding


@functools.partial(jax.jit, static_argnums=0)
def _outputs(graphdef, state, batch):
    def loss(state):
        model = nnx.merge(graphdef, state)
        encoded = model.encode(batch.encoder, batch.features)
        hidden = model.decode(batch.decoder, encoded)
        scores = model.score_hidden(hidden, batch.decoder)
        targets = [model.config.index(name) for name in model.config.targets]
        losses = by_modality(scores.loss, batch.decoder.modality, batch.decoder.valid, targets)
        return modality_mean(losses), (encoded, hidden, scores)

    (value, outputs), gradients = jax.value_and_grad(loss, has_aux=True)(state)
    return value, *outputs, gradients


def outputs(model: FourM, batch):
    """(loss, Encoded, decoder's hidden states, TokenScores, gradients by name)."""
    *values, gradients = _outputs(*nnx.split(model), batch)
    return *values, flatten(gradients)


@functools.partial(jax.jit, static_argnums=0)
def _hidden(graphdef, state, batch):
    return nnx.merge(graphdef, state).hidden(*batch)


def hidden_states(model: FourM, batch) -> np.ndarray:
    """The decoder's, without gradients."""
    return np.asarray(_hidden(*nnx.split(model), batch))


def seen(a: np.ndarray, b: np.ndarray) -> list[bool]:
    """At which tokens of the first sample two results differ."""
    return [bool(difference) for difference in np.ptp(a - b, axis=-1)[0]]


@pytest.fixture(scope="module")
def model(build, config) -> FourM:
    return build(config())


@pytest.fixture(scope="module")
def results(model, batch):
    return outputs(model, batch)


def test_shapes_and_dtypes(config, batch, results):
    loss, encoded, hidden, scores, _ = results
    assert encoded.hidden.shape == encoded.context.shape == (2, 7, 16)
    np.testing.assert_array_equal(encoded.valid, batch.encoder.valid)
    assert hidden.shape == (2, 6, 16)
    assert scores.loss.shape == scores.argmax.shape == (2, 6)
    assert loss.dtype == encoded.hidden.dtype == hidden.dtype == jnp.float32


def test_scores_are_those_of_each_modalitys_own_vocabulary(config, model, batch, results):
    _, _, hidden, scores, _ = results
    wanted = np.zeros((2, 6))
    for i, j in np.argwhere(batch.decoder.valid):
        name = config().names[batch.decoder.modality[i, j]]
        logits = np.asarray(model.logits(hidden[i, j], name), np.float64)
        assert len(logits) == config().modality(name).vocab_size
        wanted[i, j] = np.log(np.exp(logits).sum()) - logits[batch.decoder.targets[i, j]]
        assert scores.argmax[i, j] == logits.argmax()
    np.testing.assert_allclose(scores.loss, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores.log_prob, -wanted, rtol=1e-5, atol=1e-6)


def test_what_is_padding_changes_nothing(model, batch, results):
    rng = np.random.default_rng(3)

    def spoiled(side):
        fields = {
            name: np.where(side.valid, value, rng.integers(-3, 40, value.shape)).astype(np.int32)
            for name, value in side._asdict().items()
            if name != "valid"
        }
        return side._replace(**fields)

    # Patches and embeddings that no token points to.
    features = {name: value.copy() for name, value in batch.features.items()}
    features["scan"][0, [0, 2]] = np.nan
    features["prior"][1, 1:] = np.inf
    other = type(batch)(spoiled(batch.encoder), spoiled(batch.decoder), features)
    assert not np.array_equal(other.decoder.targets, batch.decoder.targets)
    for a, b in zip(jax.tree.leaves(results), jax.tree.leaves(outputs(model, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def changed(batch, side: str, field: str, row: int, slot: int, value: int):
    array = getattr(getattr(batch, side), field).copy()
    array[row, slot] = value
    return batch._replace(**{side: getattr(batch, side)._replace(**{field: array})})


def test_who_sees_whom_in_the_decoder(model, batch):
    hidden = hidden_states(model, batch)
    # The report's second token: seen by itself and the third, not by the first nor by the image.
    other = hidden_states(model, changed(batch, "decoder", "tokens", 0, 3, 7))
    assert seen(hidden, other) == [False] * 3 + [True] * 2 + [False]
    # A position in the image: seen by the whole image and by nothing else.
    other = hidden_states(model, changed(batch, "decoder", "positions", 0, 1, 4))
    assert seen(hidden, other) == [True] * 2 + [False] * 4
    # An image's own token is what is to be predicted, and never read.
    other = hidden_states(model, changed(batch, "decoder", "tokens", 0, 1, 4))
    np.testing.assert_array_equal(hidden, other)


def test_modalities_that_are_not_separate_see_those_before(build, config, batch):
    joint = build(config(separate_modalities=False))
    hidden = hidden_states(joint, batch)
    other = hidden_states(joint, changed(batch, "decoder", "positions", 0, 1, 4))
    assert seen(hidden, other) == [True] * 5 + [False]


def test_every_input_token_matters_to_the_decoder(model, batch):
    hidden = hidden_states(model, batch)
    for field, slot, value in [("positions", 0, 0), ("tokens", 2, 9), ("tokens", 3, 9),
                               ("positions", 4, 1)]:  # fmt: skip
        other = hidden_states(model, changed(batch, "encoder", field, 0, slot, value))
        assert np.abs(other - hidden)[0, :5].min() > 0


def test_modalities_that_are_no_input_are_not_read(build, config, batch):
    inputs = tuple(name for name in config().inputs if name != "pose")
    encoded = build(config(inputs=inputs)).encode(batch.encoder, batch.features)
    np.testing.assert_array_equal(encoded.valid[1], [True, False, False, True, True, True, True])


def test_embeddings_of_every_kind(config, model, batch):
    embeddings, names = model.encoder_embeddings, config().names
    named = {name: np.asarray(value) for name, value in flatten(embeddings).items()}
    mine = {
        name: jnp.asarray((batch.encoder.modality == i) & batch.encoder.valid)
        for i, name in enumerate(names)
    }
    content = embeddings.content(*batch.encoder[:2], mine, batch.features)
    place = embeddings.place(batch.encoder.positions, mine)

    prior = batch.features["prior"][0, 2] @ named["projection/prior/kernel"]
    wanted = {
        (0, 1): batch.features["scan"][0, 3] @ named["projection/scan/kernel"],
        (0, 3): named["embed_tokens/report"][16],
        (0, 4): prior + named["projection/prior/bias"],
        (1, 1): named["embed_tokens/pose"][3],
        (1, 4): named["embed_tokens/tok_global"][0],
        (0, 6): np.zeros(16),
    }
    for slot, row in wanted.items():
        np.testing.assert_allclose(content[slot], row, rtol=1e-5, atol=1e-6)

    def sincos(index, width):
        angles = index / 10_000.0 ** (np.arange(width // 2) / (width // 2))
        return np.concatenate([np.sin(angles), np.cos(angles)])

    wanted = {
        (0, 1): ("scan", np.concatenate([sincos(1, 8), sincos(1, 8)])),
        (0, 4): ("prior", sincos(2, 16)),
        (1, 0): ("tok_scan", np.concatenate([sincos(2, 8), sincos(2, 8)])),
        (1, 2): ("pose", sincos(1, 16)),
        (1, 4): ("tok_global", named["position_embedding/tok_global"][3]),
    }
    for slot, (name, row) in wanted.items():
        row = row + named[f"modality_embedding/{name}"]
        np.testing.assert_allclose(place[slot], row, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(place[0, 6], np.zeros(16))


def test_reading_the_padding_id_of_a_sequence_never_trains_it(model, batch):
    batch = changed(batch, "encoder", "tokens", 0, 2, 0)
    gradients = outputs(model, batch)[-1]
    report = gradients["encoder_embeddings/embed_tokens/report"]
    assert np.abs(report[16]).max() > 0
    np.testing.assert_array_equal(report[0], 0)
    # Of an image, 0 is a token like any other.
    assert np.abs(gradients["encoder_embeddings/embed_tokens/tok_global"][0]).max() > 0


def test_every_parameter_has_a_gradient(results):
    *_, gradients = results
    idle = {name for name, array in gradients.items() if not np.abs(array).max() > 0}
    assert idle == set()


def test_grouped_heads_are_heads_that_repeat(build, config, batch):
    grouped = build(config(num_kv_heads=2, qk_norm=True), seed=5)
    full = build(config(qk_norm=True))
    named = flatten(grouped)
    assert named["encoder/layers/self_attn/k_proj/kernel"].shape == (2, 16, 8)
    for path, variable in nnx.to_flat_state(nnx.state(full, nnx.Param)):
        value = named["/".join(map(str, path))]
        if path[-2] in ("k_proj", "v_proj"):
            heads = value.reshape(*value.shape[:-1], 2, 4)
            value = jnp.repeat(heads, 2, axis=-2).reshape(*value.shape[:-1], 16)
        variable.set_value(value)
    valid = batch.decoder.valid
    hidden, wanted = (hidden_states(model, batch)[valid] for model in (grouped, full))
    np.testing.assert_allclose(hidden, wanted, rtol=0, atol=1e-5)


def test_register_tokens_stand_in_front(build, config, batch):
    model = build(config(num_register_tokens=3))
    encoded = model.encode(batch.encoder, batch.features)
    assert encoded.hidden.shape == (2, 10, 16)
    np.testing.assert_array_equal(encoded.valid[:, :3], True)
    np.testing.assert_array_equal(encoded.valid[:, 3:], batch.encoder.valid)
    hidden = np.asarray(model.decode(batch.decoder, encoded))
    registers = model.encoder.register_tokens
    registers.set_value(registers.get_value().at[1].mul(-1.0))
    other = np.asarray(model.hidden(*batch))
    assert np.abs(other - hidden)[batch.decoder.valid].max() > 1e-3


def test_options_are_parameters_that_there_are(config):
    def names(**changes):
        return set(flatten(nnx.eval_shape(lambda: FourM(config(**changes), rngs=nnx.Rngs(0)))))

    plain = names()
    heads = {f"lm_head/{name}" for name in config().targets}
    assert names(tie_embeddings=False) - plain == heads
    own = {f"decoder_embeddings/modality_embedding/{name}" for name in config().targets}
    assert names(share_modality_embeddings=False) - plain == own
    assert plain - names(norm_bias=False) == {n for n in plain if "norm" in n and "bias" in n}
    gates = {f"{side}/layers/mlp/gate_proj/{leaf}" for side in ("encoder", "decoder")
             for leaf in ("kernel", "bias")}  # fmt: skip
    assert names(gated=True) - plain == gates
    bare = names(qkv_bias=False, proj_bias=False, mlp_bias=False)
    assert {n.split("/")[-2] for n in plain - bare} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_output_layers_and_modality_embeddings_of_their_own(build, config, batch):
    model = build(config(tie_embeddings=False, share_modality_embeddings=False))
    assert model.vocabulary("report") is model.lm_head["report"].get_value()
    embeddings, index = model.decoder_embeddings, config().index("report")
    mine = {"report": jnp.asarray((batch.decoder.modality == index) & batch.decoder.valid)}
    places = [
        embeddings.place(batch.decoder.positions, mine, other)[0, 2]
        for other in (None, model.encoder_embeddings)
    ]
    np.testing.assert_array_equal(*places)
    wanted = embeddings.modality_embedding["report"].get_value()
    start = np.repeat([0.0, 1.0], 8)  # sines and cosines of position 0
    np.testing.assert_allclose(places[0] - start, wanted, atol=1e-6)


def test_bfloat16_computes_in_bfloat16_and_sums_in_float32(build, config, model, batch):
    half = build(config(), dtype=jnp.bfloat16)
    assert all(value.dtype == jnp.float32 for value in flatten(half).values())
    hidden = hidden_states(half, batch)
    assert hidden.dtype == jnp.float32
    difference = np.abs(hidden - hidden_states(model, batch))[batch.decoder.valid].max()
    assert 1e-4 < difference < 0.2
    stored = nnx.eval_shape(lambda: FourM(config(), param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    assert all(value.dtype == jnp.bfloat16 for value in flatten(stored).values())


def test_what_is_recomputed_is_as_asked(build, config, batch):
    def program(remat: str) -> str:
        graphdef, state = nnx.split(build(config(), remat=remat))
        return str(jax.make_jaxpr(lambda s: nnx.merge(graphdef, s).hidden(*batch))(state))

    assert "remat" not in program("none")
    assert program("full").count("remat") == 2
    with pytest.raises(UserError, match="remat 'all' is none of"):
        FourM(config(), remat="all", rngs=nnx.Rngs(0))


def test_every_parameter_knows_its_axes(model):
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        axes = variable.get_metadata().get("axes")
        assert axes is not None, path
        assert set(axes) <= set(sharding.RULES), path
        sharding.parameter_sharding(variable, mesh)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, "no features of modality 'scan'"),
        ({"scan": np.zeros((2, 4, 15), np.float32)}, r"'scan' have shape \(2, 4, 15\); .* 16\]"),
    ],
)
def test_features_that_do_not_fit(model, batch, features, message):
    with pytest.raises(UserError, match=message):
        model.encode(batch.encoder, features)
