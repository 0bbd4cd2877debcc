"""What medjax computes from a recorded set of apple/ml-4m.

`python tests/parity/fourm_agreement.py` prints how far the two are apart.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import agreement
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from medjax_kernels import Tokens, use
from medjax_kernels.attention import allowed

from medjax.checkpoints import fourm, tensors
from medjax.checkpoints.safetensors_files import open_file
from medjax.checkpoints.tensors import Checkpoint
from medjax.models.fourm import (
    DecoderInput,
    EncoderInput,
    FourM,
    FourMConfig,
    by_modality,
    logit_mean,
    lookup,
    modality_mean,
)
from medjax.models.params import flatten
from medjax.models.siglip import patchify

_FILES = {"config.json", "model.safetensors", "io.npz", "grads.npz"}


def recorded_sets(root: pathlib.Path = agreement.REFERENCE) -> list[pathlib.Path]:
    """The folders, at any depth, that hold a model of 4M; others are passed over."""
    complete = [
        pathlib.Path(folder)
        for folder, _, files in os.walk(root, followlinks=True)
        if set(files) >= _FILES
    ]
    return sorted(folder for folder in complete if _is_fourm(folder / "config.json"))


def _is_fourm(config: pathlib.Path) -> bool:
    data = json.loads(config.read_text())
    return isinstance(data, dict) and set(data) >= {"dim", "encoder_depth", "modality_ids"}


def read_config(folder: pathlib.Path) -> FourMConfig:
    """The model of a set, from its config.json and the shapes of its arrays."""
    data = json.loads((folder / "config.json").read_text())
    weights = open_file(folder / fourm.WEIGHTS)

    def known_by(side: str) -> tuple[str, ...]:
        return tuple(n for n in order if f"{side}_embeddings.{n}.mod_emb" in weights)

    with np.load(folder / "io.npz") as io:
        order = [name.split("/")[1] for name in io if name.endswith("/input_mask")]
        lengths = {name: io[f"input/{name}/input_mask"].shape[1] for name in order}
    modalities = []
    for name in order:
        modality = lookup(name)
        changes: dict = {"max_length": lengths[name]}
        if modality.is_image:
            sizes = ("image_size", "patch_size")
            changes = {key: data[key] for key in sizes}
        if modality.has_ids:
            tables = [f"{s}_embeddings.{name}.token_emb.weight" for s in ("encoder", "decoder")]
            rows = [weights[table].shape[0] for table in tables if table in weights]
            changes["vocab_size"] = rows[0]
        modalities.append(dataclasses.replace(modality, **changes))
    return FourMConfig(
        width=data["dim"],
        encoder_depth=data["encoder_depth"],
        decoder_depth=data["decoder_depth"],
        num_heads=data["num_heads"],
        modalities=tuple(modalities),
        inputs=known_by("encoder"),
        targets=known_by("decoder"),
        mlp_ratio=data["mlp_ratio"],
        gated=data["gated_mlp"],
        activation=data["act"].lower(),
        qkv_bias=data["qkv_bias"],
        proj_bias=data["proj_bias"],
        mlp_bias=data["mlp_bias"],
        norm_bias=data["layer_norm_bias"],
        qk_norm=data["qk_norm"],
        num_register_tokens=data["num_register_tokens"],
        share_modality_embeddings=data["share_modality_embeddings"],
        separate_modalities=data["decoder_sep_mask"],
    )


class Batch(NamedTuple):
    """A set's inputs, packed."""

    encoder: EncoderInput
    decoder: DecoderInput
    features: dict[str, np.ndarray]


class _Slot(NamedTuple):
    """One token of a packed sequence; fields that the encoder does not need stay zero."""

    tokens: int = 0
    targets: int = 0
    positions: int = 0
    modality: int = -1
    group: int = 0  # the peer's decoder_attention_mask, summed up to make blocks
    valid: bool = False


def pack(io: Mapping[str, np.ndarray], config: FourMConfig, encoder: int, decoder: int) -> Batch:
    """Packs a set's inputs slot by slot, by the peer's masks (True: not there).

    Args:
      encoder, decoder: lengths of the packed sequences.
    """
    batch = len(io[f"input/{config.names[0]}/input_mask"])
    inputs, targets = [], []
    for row in range(batch):
        sides: tuple[list[_Slot], list[_Slot]] = ([], [])
        for name in config.names:
            of = {
                key: io[f"input/{name}/{key}"][row]
                for key in ("tensor", "input_mask", "target_mask", "decoder_attention_mask")
            }
            if name in config.inputs:
                sides[0].extend(_input_slots(of, config, name))
            if name in config.targets:
                sides[1].extend(_target_slots(of, config, name))
        for slots, length, rows in ((sides[0], encoder, inputs), (sides[1], decoder, targets)):
            rows.append((slots + [_Slot()] * length)[:length])

    def field(rows, name: str) -> np.ndarray:
        kind = bool if name == "valid" else np.int32
        return np.array([[getattr(slot, name) for slot in row] for row in rows], kind)

    features = {}
    for modality in config.modalities:
        values = io[f"input/{modality.name}/tensor"]
        if modality.is_image and not modality.has_ids:
            images = jnp.asarray(values.transpose(0, 2, 3, 1))
            features[modality.name] = np.asarray(patchify(images, modality.patch_size))
        elif not modality.has_ids:
            features[modality.name] = values
    return Batch(
        EncoderInput(*(field(inputs, name) for name in EncoderInput._fields)),
        DecoderInput(
            **{n: field(targets, n) for n in DecoderInput._fields if n != "block"},
            block=np.cumsum(field(targets, "group"), axis=1, dtype=np.int32),
        ),
        features,
    )


def _input_slots(of, config: FourMConfig, name: str) -> list[_Slot]:
    modality = config.modality(name)
    kept = np.flatnonzero(~of["input_mask"])
    ids = of["tensor"].reshape(-1) if modality.has_ids else np.zeros(kept.max(initial=0) + 1, int)
    return [
        _Slot(int(ids[i]), positions=int(i) if modality.is_image else rank,
              modality=config.index(name), valid=True)
        for rank, i in enumerate(kept)
    ]  # fmt: skip


def _target_slots(of, config: FourMConfig, name: str) -> list[_Slot]:
    modality, index = config.modality(name), config.index(name)
    kept = np.flatnonzero(~of["target_mask"])
    ids, groups = of["tensor"].reshape(-1), of["decoder_attention_mask"]
    if modality.is_image:
        return [_Slot(0, int(ids[i]), int(i), index, int(groups[i]), True) for i in kept]
    # A sequence's token predicts the next, if that is a target, too.
    return [
        _Slot(int(ids[i]), int(ids[i + 1]), rank, index, int(groups[i]), True)
        for rank, i in enumerate(kept)
        if i + 1 in kept
    ]


class Results(NamedTuple):
    """Either side's; modalities as the set's own ids, what is not valid as the peer has it."""

    encoder_output: np.ndarray
    encoder_valid: np.ndarray
    encoder_modality_id: np.ndarray
    decoder_valid: np.ndarray
    decoder_modality_id: np.ndarray
    target_ids: np.ndarray
    decoder_attention_allowed: np.ndarray
    loss_mod: np.ndarray
    loss_token: np.ndarray
    logits: dict[str, np.ndarray]
    modality_loss: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]


_NAMED = ("logits", "modality_loss", "gradients")


def recorded(folder: pathlib.Path) -> Results:
    """What the peer computed."""
    with np.load(folder / "io.npz") as io, np.load(folder / "grads.npz") as grads:
        named: dict = {"gradients": dict(grads)}
        for field in _NAMED[:-1]:
            named[field] = {n.split("/", 1)[1]: io[n] for n in io if n.startswith(f"{field}/")}
        return Results(**{f: named[f] if f in named else io[f] for f in Results._fields})


def open_set(folder: pathlib.Path) -> tuple[Checkpoint[FourMConfig], Batch]:
    """A set's model and inputs; the model's output layers are tied as its weights say."""
    checkpoint = fourm.open_folder(folder, read_config(folder))
    with np.load(folder / "io.npz") as io:
        encoder, decoder = (io[f"{side}_valid"].shape[1] for side in ("encoder", "decoder"))
        encoder -= checkpoint.config.num_register_tokens
        return checkpoint, pack(io, checkpoint.config, encoder, decoder)


def computed(folder: pathlib.Path, implementation: str) -> Results:
    """What medjax computes, with one implementation of attention and of cross entropy."""
    with (
        use(attention=implementation, cross_entropy=implementation),
        jax.default_matmul_precision("highest"),
    ):
        return _computed(folder)


def _computed(folder: pathlib.Path) -> Results:
    checkpoint, batch = open_set(folder)
    config = checkpoint.config
    graphdef, state = nnx.split(tensors.build(checkpoint))
    targets = [config.index(name) for name in config.targets]
    vocab_sizes = [config.modalities[index].vocab_size for index in targets]

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(state, batch):
        fourm_model: FourM = nnx.merge(graphdef, state)
        encoded = fourm_model.encode(batch.encoder, batch.features)
        hidden = fourm_model.decode(batch.decoder, encoded)
        logits = {name: fourm_model.logits(hidden, name) for name in config.targets}
        scores = fourm_model.score_hidden(hidden, batch.decoder)
        losses = by_modality(scores.loss, batch.decoder.modality, batch.decoder.valid, targets)
        # The peer's batch always has all modalities, and its mean counts all.
        return modality_mean(losses, absent_as_zero=True), (encoded, logits, losses)

    (loss_mod, (encoded, logits, losses)), gradients = loss(state, batch)
    official = fourm.to_tensors(tensors.in_memory(config, flatten(gradients), where="gradients"))

    ids = json.loads((folder / "config.json").read_text())["modality_ids"]
    peers = np.array([*(ids[name] for name in config.names), -1])
    registers = ((0, 0), (config.num_register_tokens, 0))
    decoder = batch.decoder
    tokens = Tokens(
        block=decoder.block,
        modality=decoder.modality if config.separate_modalities else None,
        valid=decoder.valid,
    )
    return Results(
        encoder_output=np.asarray(encoded.hidden),
        encoder_valid=np.asarray(encoded.valid),
        encoder_modality_id=np.pad(peers[batch.encoder.modality], registers, constant_values=-1),
        decoder_valid=decoder.valid,
        decoder_modality_id=peers[decoder.modality],
        target_ids=decoder.targets,
        decoder_attention_allowed=np.asarray(allowed(tokens, tokens)),
        loss_mod=np.asarray(loss_mod),
        loss_token=np.asarray(logit_mean(losses, vocab_sizes)),
        logits={name: np.asarray(array) for name, array in logits.items()},
        modality_loss=dict(zip(config.targets, np.asarray(losses.mean), strict=True)),
        gradients=dict(official),
    )


def main() -> None:
    """Prints the largest absolute differences; of gradients, relative to their array's largest."""
    for folder in recorded_sets():
        found, wanted = computed(folder, "xla"), recorded(folder)
        print(agreement.label(folder, agreement.REFERENCE))
        for field in ("encoder_output", "loss_mod", "loss_token"):
            ours, theirs = (np.asarray(getattr(results, field)) for results in (found, wanted))
            print(f"  {field:22} {np.abs(ours - theirs).max():.1e}")
        valid = wanted.decoder_valid
        for name, logits in wanted.logits.items():
            difference = np.abs(found.logits[name] - logits)[valid].max()
            print(f"  {'logits/' + name:22} {difference:.1e}")
        relative = {
            name: np.abs(found.gradients[name] - array).max() / np.abs(array).max()
            for name, array in wanted.gradients.items()
            if np.abs(array).max() > 1e-6
        }
        worst = max(relative, key=relative.__getitem__)
        print(f"  {'gradients':22} {relative[worst]:.1e} ({worst})")


if __name__ == "__main__":
    main()
