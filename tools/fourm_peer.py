"""One training step of a small 4M, by medjax and by PyTorch's own layers; needs torch.

The size is that of the original's smallest model (apple/ml-4m, `fourm/models/fm.py`:
fm_tiny_6e_6d_gelu) with the patches of an image, the tokens of two more and two texts: 87 million
parameters, 128 tokens in and 128 out of each of 8 samples.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import medjax_kernels
import numpy as np
import optax
from flax import nnx
from medjax_kernels.attention import allowed
from medjax_kernels.masking import Masked, MaskingScheme, Modality

from medjax.models.fourm import FourM, FourMConfig, by_modality, token_mean, variant
from medjax.models.fourm.positions import fixed_positions
from medjax.training.step import split

BATCH, BUDGET = 8, 128
NAMES = ("rgb", "tok_rgb", "tok_semseg", "caption", "det")
# The draws of masks that the peer is given, one after another and then again.
DRAWS = 8
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05


class Outcome(NamedTuple):
    """What both sides tell of a step.

    Attributes:
      parameters: how many train.
      losses: mean of each target modality, nats a token, before the step.
      tokens: of each target modality.
    """

    parameters: int
    losses: np.ndarray
    tokens: np.ndarray


def config() -> FourMConfig:
    """The model's."""
    return variant("fm_tiny_6e_6d_gelu", NAMES, NAMES[1:])


def vocabularies() -> list[int]:
    """Of the targets."""
    return [config().modality(name).vocab_size or 0 for name in NAMES[1:]]


def scheme() -> MaskingScheme:
    """Everything from everything; texts are long enough to fill any budget."""
    modalities = [
        Modality(
            m.name, "image" if m.is_image else "sequence", m.length, input_alphas=(1.0,),
            target_alphas=(float(m.has_ids),),
        )
        for m in config().modalities
    ]  # fmt: skip
    longest = max(m.max_tokens for m in modalities)
    budget = (BUDGET, BUDGET)
    return MaskingScheme(
        tuple(modalities), budget, budget, sentinels=tuple(range(4, 5 + longest // 2))
    )


def samples() -> tuple[dict, dict]:
    """Tokens of all modalities but rgb, whose patches are the features."""
    rng = np.random.default_rng(0)
    modalities = {m.name: m for m in config().modalities}
    patches = rng.standard_normal((BATCH, modalities["rgb"].length, modalities["rgb"].features))
    tokens = {
        name: jnp.asarray(rng.integers(200, m.vocab_size, (BATCH, m.length)), jnp.int32)
        for name, m in modalities.items()
        if m.has_ids
    }
    return tokens, {"rgb": jnp.asarray(patches, jnp.float32)}


def masks(step, tokens) -> Masked:
    """The masks of a step."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), BATCH)
    modalities = scheme().modalities
    lengths = {
        m.name: jnp.full(BATCH, m.max_tokens) for m in modalities if m.kind == "sequence"
    }
    return medjax_kernels.masking(scheme(), tokens, lengths, keys)


def medjax_step() -> tuple[Callable, tuple]:
    """(step, arguments): (state, ...) -> (state, what an `Outcome` tells)."""
    still, _, params, rest = split(FourM(config(), rngs=nnx.Rngs(0)))
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    targets = [config().index(name) for name in config().targets]
    count = sum(x.size for x in params.values())

    def step(state, rest, tokens, features):
        index, params, opt_state = state
        masked = masks(index, tokens)

        def loss(params):
            model, goals = still.merge(params, rest), masked.decoder
            scores = model.score(masked.encoder, goals, features)
            sums = by_modality(scores.loss, goals.modality, goals.valid, targets)
            return token_mean(sums), sums

        grads, sums = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (index + 1, params, opt_state), Outcome(count, sums.mean, sums.tokens)

    return step, ((jnp.int32(0), params, optimizer.init(params)), rest, *samples())


def torch_step() -> tuple[Callable, tuple]:
    """(step, arguments): the same with masks that were drawn before, which it takes in turns."""
    import torch

    model = _model(torch)
    optimizer = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
    )
    count = sum(p.numel() for p in model.parameters())
    tokens, features = samples()
    draw = jax.jit(masks)
    batches = itertools.cycle([_for_torch(torch, draw(i, tokens)) for i in range(DRAWS)])
    patches = torch.from_numpy(np.array(features["rgb"]))

    def step() -> Outcome:
        losses, counts = model(*next(batches), patches)
        optimizer.zero_grad(set_to_none=True)
        (losses.sum() / counts.sum()).backward()
        optimizer.step()
        means = losses.detach() / counts.clamp(min=1)
        return Outcome(count, means.numpy(), counts.numpy())

    return step, ()


def _for_torch(torch, masked: Masked) -> tuple[dict, dict, object]:
    """Both sides' fields, and which targets may not see which, [B * N, T, T]."""
    seen = np.array(allowed(masked.decoder.attention, masked.decoder.attention))
    # A row that sees nothing would be NaN.
    hidden = ~(seen | np.eye(BUDGET, dtype=bool))
    encoder, decoder = (
        {name: torch.from_numpy(np.array(x)) for name, x in side._asdict().items()}
        for side in (masked.encoder, masked.decoder)
    )
    return encoder, decoder, torch.from_numpy(hidden.repeat(config().num_heads, axis=0))


def _model(torch):
    """The stand-in: (encoder's fields, decoder's fields and `hidden`, patches) -> sums."""
    from torch.nn import functional

    made = config()
    width, heads, inner = made.width, made.num_heads, made.mlp_dim
    places = np.zeros((len(NAMES), max(m.length for m in made.modalities), width), np.float32)
    for i, modality in enumerate(made.modalities):
        places[i, : modality.length] = fixed_positions(modality, width)[: modality.length]

    def tables():
        found = torch.nn.ModuleDict()
        for name, size in zip(NAMES[1:], vocabularies(), strict=True):
            found[name] = torch.nn.Embedding(size, width)
            torch.nn.init.normal_(found[name].weight, std=0.02)
        return found

    class StandIn(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layer = dict(
                d_model=width, nhead=heads, dim_feedforward=inner, dropout=0.0, activation="gelu",
                batch_first=True, norm_first=True,
            )  # fmt: skip
            nn = torch.nn
            self.read, self.predict = tables(), tables()
            self.patch = nn.Linear(made.modality("rgb").features, width, bias=False)
            self.modality = nn.Embedding(len(NAMES), width)
            nn.init.normal_(self.modality.weight, std=0.02)
            self.mask_token = nn.Parameter(0.02 * torch.randn(width))
            self.register_buffer("places", torch.from_numpy(places))
            self.encoder = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(**layer), made.encoder_depth, nn.LayerNorm(width),
                enable_nested_tensor=False,
            )  # fmt: skip
            self.context = nn.Linear(width, width)
            self.decoder = nn.TransformerDecoder(
                nn.TransformerDecoderLayer(**layer), made.decoder_depth, nn.LayerNorm(width)
            )

        def place(self, side):
            modality = side["modality"].clamp(min=0)
            return self.places[modality, side["positions"]] + self.modality(modality)

        def content(self, side, tables):
            # Padding, and what has no table, stays zero.
            x = torch.zeros(*side["tokens"].shape, width)
            for i, name in enumerate(NAMES):
                here = side["modality"] == i
                if name in tables:
                    x[here] = tables[name](side["tokens"][here])
            return x

        def forward(self, encoder, decoder, unseen, patches):
            x, place = self.content(encoder, self.read), self.place(encoder)
            row, column = torch.nonzero(encoder["modality"] == NAMES.index("rgb"), as_tuple=True)
            x[row, column] = self.patch(patches[row, encoder["positions"][row, column]])
            empty = ~encoder["valid"]
            context = self.context(self.encoder(x + place, src_key_padding_mask=empty)) + place
            texts = {name: self.predict[name] for name in NAMES if not made.modality(name).is_image}
            y = self.content(decoder, texts)
            images = [NAMES.index(n) for n in NAMES[1:] if made.modality(n).is_image]
            y[torch.isin(decoder["modality"], torch.tensor(images))] = self.mask_token
            y = self.decoder(
                y + self.place(decoder), context, tgt_mask=unseen, memory_key_padding_mask=empty
            )
            sums, counts = [], []
            for name, table in self.predict.items():
                here = decoder["modality"] == NAMES.index(name)
                # As in the original, a token meets its own modality's vocabulary alone.
                logits = functional.linear(y[here], table.weight)
                goals = decoder["targets"][here].long()
                sums.append(functional.cross_entropy(logits, goals, reduction="sum"))
                counts.append(here.sum())
            return torch.stack(sums), torch.stack(counts)

    return StandIn()
