"""Folders of image tokenizers: what is written is read, and nothing else is."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import numpy as safetensors

from medjax.checkpoints import image_tokenizer
from medjax.errors import UserError
from medjax.models.params import flatten
from medjax.models.tokenizers import (
    ConvConfig,
    FSQConfig,
    ImageTokenizer,
    ImageTokenizerConfig,
    ViTConfig,
    VQConfig,
)
from medjax.scaling import sharding


def tokenizer(quantizer=None, **kwargs) -> ImageTokenizer:
    config = ImageTokenizerConfig(
        "image", 8, 4, 2, ViTConfig(8, 2, 2), ConvConfig((4, 6)), quantizer or VQConfig(11, 3),
        mean=(0.1, 0.2), std=(1.5, 2.5),
    )  # fmt: skip
    return ImageTokenizer(config, rngs=nnx.Rngs(0), **kwargs)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[ImageTokenizer, pathlib.Path]:
    model = tokenizer()
    model.quantizer.counts.set_value(jnp.arange(11.0))
    folder = tmp_path_factory.mktemp("tokenizer") / "model"
    image_tokenizer.write_folder(model, folder)
    return model, folder


def copy(folder: pathlib.Path, to: pathlib.Path, change=lambda arrays: arrays) -> pathlib.Path:
    """A folder with other arrays."""
    to.mkdir()
    (to / "config.json").write_bytes((folder / "config.json").read_bytes())
    arrays = change(safetensors.load_file(folder / "model.safetensors"))
    safetensors.save_file(arrays, to / "model.safetensors")
    return to


def test_there_and_back(written):
    model, folder = written
    found = image_tokenizer.open_folder(folder)
    assert found.config == model.config
    ours, theirs = (flatten(nnx.state(m)) for m in (model, found))
    assert ours.keys() == theirs.keys()
    assert {"quantizer/codes", "quantizer/counts"} < ours.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(theirs[name], array, err_msg=name)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 2)).astype(np.float32)
    np.testing.assert_array_equal(found.encode(images), model.encode(images))
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_normalisation_is_in_the_config(written):
    data = json.loads((written[1] / "config.json").read_text())
    assert (data["mean"], data["std"]) == ([0.1, 0.2], [1.5, 2.5])


def test_other_dtypes_and_meshes(written, tmp_path):
    mesh = sharding.make_mesh({"data": 1})
    found = image_tokenizer.open_folder(written[1], param_dtype=jnp.bfloat16, mesh=mesh)
    dtypes = {name: array.dtype for name, array in flatten(nnx.state(found)).items()}
    assert dtypes["encoder/to_code/kernel"] == jnp.bfloat16
    assert dtypes["quantizer/codes"] == jnp.float32
    assert sharding.mesh_of(nnx.state(found)) == mesh
    image_tokenizer.write_folder(found, tmp_path / "half")
    again = image_tokenizer.open_folder(tmp_path / "half", param_dtype=jnp.bfloat16)
    for name, array in flatten(nnx.state(found)).items():
        np.testing.assert_array_equal(flatten(nnx.state(again))[name], array, err_msg=name)


def test_without_a_codebook(tmp_path):
    model = tokenizer(FSQConfig((3, 4)))
    image_tokenizer.write_folder(model, tmp_path / "fsq")
    found = image_tokenizer.open_folder(tmp_path / "fsq")
    assert found.config.quantizer == FSQConfig((3, 4))
    ids = np.arange(12, dtype=np.int32).reshape(3, 2, 2)
    np.testing.assert_array_equal(found.decode(ids), model.decode(ids))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {n: x for n, x in a.items() if n != "quantizer/codes"},
         r"1 missing \['quantizer/codes'\], 0 unexpected"),
        (lambda a: a | {"extra": np.zeros(1, np.float32)}, r"0 missing .* 1 unexpected"),
        (lambda a: a | {"quantizer/codes": np.zeros((11, 4), np.float32)},
         r"quantizer/codes has shape \(11, 4\), the model config asks for \(11, 3\)"),
    ],
)  # fmt: skip
def test_other_names_and_shapes_are_refused(written, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        image_tokenizer.open_folder(copy(written[1], tmp_path / "changed", change))


def test_files_that_cannot_be_read(written, tmp_path):
    with pytest.raises(UserError, match=r"config.json cannot be read: .*No such file"):
        image_tokenizer.open_folder(tmp_path / "nothing")
    folder = copy(written[1], tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"model.safetensors is no safetensors file"):
        image_tokenizer.open_folder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json cannot be read"):
        image_tokenizer.open_folder(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"config.json has unknown keys \[\] and lacks \['channels'"
    ):
        image_tokenizer.open_folder(folder)


def test_an_earlier_result_is_overwritten_only_if_wanted(written, tmp_path):
    folder = copy(written[1], tmp_path / "there")
    with pytest.raises(UserError, match="not empty"):
        image_tokenizer.write_folder(written[0], folder)
    image_tokenizer.write_folder(written[0], folder, overwrite=True)
    assert image_tokenizer.open_folder(folder).config == written[0].config
