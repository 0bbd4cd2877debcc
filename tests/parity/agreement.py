"""What medjax computes from a recorded set of big_vision, through the code that trains models.

`python tests/parity/agreement.py` prints how far the two are apart.
"""

import functools
import json
import os
import pathlib
import tempfile
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from medjax_kernels import use

from medjax.checkpoints import big_vision, tensors
from medjax.models import config as model_config
from medjax.models.params import flatten
from medjax.scaling import sharding
from medjax.training.loop import Trainer
from medjax.training.objectives.paligemma import Answers

OWN = pathlib.Path(__file__).parents[1] / "reference"
REFERENCE = pathlib.Path(os.environ.get("MEDJAX_REFERENCE") or OWN)
IMPLEMENTATIONS = ("reference", "xla", "pallas_triton")  # the last interpreted
_FILES = {"config.json", "params.npz", "io.npz", "grads.npz"}


def recorded_sets(root: pathlib.Path = REFERENCE) -> list[pathlib.Path]:
    """The folders, at any depth, that hold a PaliGemma of big_vision; others are passed over."""
    complete = [
        pathlib.Path(folder)
        for folder, _, files in os.walk(root, followlinks=True)
        if set(files) >= _FILES
    ]
    return sorted(folder for folder in complete if _is_paligemma(folder / "config.json"))


def _is_paligemma(config: pathlib.Path) -> bool:
    data = json.loads(config.read_text())
    return isinstance(data, dict) and set(data) >= {"image_size", "llm", "img"}


def label(folder: pathlib.Path, root: pathlib.Path = REFERENCE) -> str:
    """What tests call a set: its path under the root, so that no two share a name."""
    return folder.name if folder == root else folder.relative_to(root).as_posix()


def is_own(folder: pathlib.Path) -> bool:
    """Whether a set is the project's own, of whose numbers more is known than that they agree."""
    return OWN in folder.parents


class Results(NamedTuple):
    """Either side's; gradients by big_vision's names, without `params/`."""

    image_embeddings: np.ndarray
    logits: np.ndarray
    loss_per_example: np.ndarray
    loss: np.ndarray
    loss_after_sgd_0p1: np.ndarray
    gradients: dict[str, np.ndarray]


def recorded(folder: pathlib.Path) -> Results:
    """What big_vision computed."""
    with np.load(folder / "io.npz") as io, np.load(folder / "grads.npz") as grads:
        gradients = {name.removeprefix("params/"): grads[name] for name in grads}
        return Results(*(io[field] for field in Results._fields[:-1]), gradients)


def computed(folder: pathlib.Path, implementation: str, scratch: pathlib.Path) -> Results:
    """What medjax computes, with one implementation of attention and of cross entropy."""
    with (
        use(attention=implementation, cross_entropy=implementation),
        jax.default_matmul_precision("highest"),
    ):
        return _computed(folder, scratch)


def _computed(folder: pathlib.Path, scratch: pathlib.Path) -> Results:
    config = model_config.load(folder / "config.json")
    model = tensors.build(big_vision.open_npz(folder / "params.npz", config))
    with np.load(folder / "io.npz") as io:
        batch = {name: io[name] for name in ("image", "mask_ar", "mask_loss")}
        batch["tokens"] = io["text"]

    graphdef, state = nnx.split(model)

    @jax.jit
    def forward(state, batch):
        model = nnx.merge(graphdef, state)
        inputs = batch["tokens"][:, :-1], batch["mask_ar"][:, :-1]
        return model.embed_image(batch["image"]), model(batch["image"], *inputs)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(state, batch):
        losses = nnx.merge(graphdef, state).score(**batch).loss.sum(axis=1)
        per_example = losses / batch["mask_loss"][:, 1:].sum(axis=1)
        return per_example.mean(), per_example

    (before, per_example), gradients = loss(jax.device_get(state), batch)

    # A step of the trainer itself.
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    trainer = Trainer(model, Answers(), optax.sgd(0.1), mesh=mesh, dtype=np.dtype(np.float32))
    np.testing.assert_allclose(trainer.step(batch)["loss"], before, rtol=1e-6)
    (after, _), _ = loss(jax.device_get(nnx.state(trainer.model_with())), batch)

    checkpoint = tensors.in_memory(config, flatten(gradients), where="gradients")
    big_vision.write_npz(checkpoint, scratch / "gradients.npz", prefix="")
    with np.load(scratch / "gradients.npz") as written:
        gradients = dict(written)
    return Results(
        *map(np.asarray, (*forward(state, batch), per_example, before, after)), gradients
    )


def assert_logits_agree(found: Results, wanted: Results) -> None:
    assert found.logits.shape == wanted.logits.shape
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=2e-4)


def assert_gradients_agree(found: Results, wanted: Results) -> None:
    """Every array, relative to its own largest number; zero where the peer's is zero.

    The keys' bias of softmax attention has no effect, so that its gradient is rounding: compared to
    the largest gradient of the model, not to itself.
    """
    assert set(found.gradients) == set(wanted.gradients)
    noise = 1e-7 * max(np.abs(array).max() for array in wanted.gradients.values())
    for name, array in wanted.gradients.items():
        assert found.gradients[name].shape == array.shape, name
        difference = np.abs(found.gradients[name] - array).max()
        assert difference <= 1e-3 * np.abs(array).max() + noise, (name, difference)


def main() -> None:
    """Prints the largest absolute differences; of gradients, relative to their array's largest."""
    for folder in recorded_sets():
        with tempfile.TemporaryDirectory() as scratch:
            found, wanted = computed(folder, "xla", pathlib.Path(scratch)), recorded(folder)
        print(label(folder))
        for field in Results._fields[:-1]:
            ours, theirs = (np.asarray(getattr(results, field)) for results in (found, wanted))
            print(f"  {field:22} {np.abs(ours - theirs).max():.1e}")
        relative = {
            name: np.abs(found.gradients[name] - array).max() / np.abs(array).max()
            for name, array in wanted.gradients.items()
            if not name.endswith("key/bias")  # rounding alone, see assert_gradients_agree
        }
        worst = max(relative, key=relative.__getitem__)
        print(f"  {'gradients':22} {relative[worst]:.1e} ({worst})")


if __name__ == "__main__":
    main()
