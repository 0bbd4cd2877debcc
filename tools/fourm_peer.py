"""PyTorch's side of the duel `fourm_train`: a 4M of torch's own layers; needs torch."""

import itertools
from collections.abc import Callable

import fourm_training
import jax
import numpy as np
from fourm_training import NAMES, Outcome
from medjax_kernels.attention import allowed
from medjax_kernels.masking import Masked

from medjax.models.fourm.positions import fixed_positions

# Masks are drawn before, and taken in turns.
DRAWS = 8


def step() -> Callable[[], Outcome]:
    """The step, which keeps the model and the optimizer's state to itself."""
    import torch

    model = _model(torch)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        fourm_training.LEARNING_RATE,
        weight_decay=fourm_training.WEIGHT_DECAY,
        fused=True,
    )
    count = sum(p.numel() for p in model.parameters())
    tokens, features = fourm_training.samples()
    draw = jax.jit(fourm_training.masks)
    batches = itertools.cycle([_for_torch(torch, draw(i, tokens)) for i in range(DRAWS)])
    patches = torch.from_numpy(np.array(features["rgb"]))

    def run() -> Outcome:
        losses, counts = model(*next(batches), patches)
        optimizer.zero_grad(set_to_none=True)
        (losses.sum() / counts.sum()).backward()
        optimizer.step()
        means = losses.detach() / counts.clamp(min=1)
        return Outcome(count, means.numpy(), counts.numpy())

    return run


def _for_torch(torch, masked: Masked) -> tuple[dict, dict, object]:
    """Both sides' fields, and which targets may not see which, [B * N, T, T]."""
    seen = np.array(allowed(masked.decoder.attention, masked.decoder.attention))
    # A row that sees nothing would be NaN.
    hidden = ~(seen | np.eye(seen.shape[-1], dtype=bool))
    encoder, decoder = (
        {name: torch.from_numpy(np.array(x)) for name, x in side._asdict().items()}
        for side in (masked.encoder, masked.decoder)
    )
    heads = fourm_training.config().num_heads
    return encoder, decoder, torch.from_numpy(hidden.repeat(heads, axis=0))


def _model(torch):
    """The stand-in: (encoder's fields, decoder's fields and `hidden`, patches) -> sums."""
    from torch.nn import functional

    made = fourm_training.config()
    width, heads, inner = made.width, made.num_heads, made.mlp_dim
    places = np.zeros((len(NAMES), max(m.length for m in made.modalities), width), np.float32)
    for i, modality in enumerate(made.modalities):
        places[i, : modality.length] = fixed_positions(modality, width)[: modality.length]

    def tables():
        found = torch.nn.ModuleDict()
        for name, size in zip(NAMES[1:], fourm_training.vocabularies(), strict=True):
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
