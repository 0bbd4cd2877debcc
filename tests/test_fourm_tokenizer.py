"""The recipe for tokenizers of one's own data, cut short: images, masks, and the mask codec."""

import json
import pathlib
import shutil

import jax
import medjax_kernels
import numpy as np
import pytest
from PIL import Image

from medjax import config as config_lib
from medjax.checkpoints import mask_codec
from medjax.data.samples.masks import crop
from medjax.errors import UserError
from medjax.modalities.table import with_entries
from medjax.models.tokenizers import ConvConfig, FSQConfig
from medjax.pipelines.fourm import data as fourm_data
from medjax.pipelines.fourm import mask_codec as stage
from medjax.pipelines.fourm import tokenizers

RECIPE = pathlib.Path(__file__).parents[1] / "configs" / "fourm_tokenizer.py"
PARTS = {"train": 32, "validation": 4, "test": 8}
STEPS, SAVED = 40, 36
CLASSES = "('nothing', 'wedge', 'dot')"


def labels(rng: np.random.Generator) -> np.ndarray:
    """A wedge (class 1) in one of the four corners of its box, somewhere; a dot of 9 pixels (2)."""
    side = int(rng.integers(20, 30))
    wedge = np.tri(side, dtype=np.uint8)[:: rng.choice([1, -1]), :: rng.choice([1, -1])]
    result = np.zeros((40, 44), np.uint8)
    y, x = rng.integers(0, 10, 2)
    result[y : y + side, x : x + side] = wedge
    result[-3:, -3:] = 2
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    """A folder with {train,validation,test}.jsonl, each line of an image and a map of organs."""
    folder = tmp_path_factory.mktemp("organs")
    rng = np.random.default_rng(0)
    for part, count in PARTS.items():
        lines = []
        for i in range(count):
            organs = labels(rng)
            image = (organs == 1) * 150 + rng.integers(0, 60, organs.shape)
            names = {"ct": f"{part}{i}.png", "organ": f"{part}{i}-organs.png"}
            for name, pixels in zip(names.values(), (image, organs), strict=True):
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
            lines.append(json.dumps({"id": f"{part}-{i}"} | names))
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def arguments(what: str, data: pathlib.Path, **more) -> list[str]:
    """What a user types who has data of their own, and wants it over soon."""
    values = {f"data.{part}.own.source": data / f"{part}.jsonl" for part in PARTS}
    values |= {"modalities.tok_image.source": "ct"} if what.startswith("image") else {
        "modalities.tok_mask.source": "organ", "modalities.tok_mask.classes": CLASSES,
    }  # fmt: skip
    values |= {"steps": 4, "eval_every": 2, "optimizer.warmup_steps": 1, "batch_size": 4}
    values |= {"evaluate.batch_size": 4} | {key.replace("__", "."): v for key, v in more.items()}
    return [f"--config={RECIPE}:{what}", *(f"--config.{k}={v}" for k, v in values.items())]


@pytest.fixture(scope="module")
def codec_arguments(data):
    return arguments(
        "mask_codec", data, steps=STEPS, eval_every=0, checkpoint_every=SAVED, keep_latest=2,
        batch_size=8, tokenizer__quantizer__decay=0.8,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(codec_arguments, tmp_path_factory) -> pathlib.Path:
    """The workdir of a run that trained the mask codec."""
    from medjax import pipelines

    path = tmp_path_factory.mktemp("codec") / "run"
    recipe, *overrides = codec_arguments
    pipelines.run(config_lib.load(recipe.removeprefix("--config="), overrides), path)
    return path


def test_the_codec_learns_masks_that_it_never_saw(done, data):
    found = json.loads((done / "train" / "reconstruction.json").read_text())
    print(found)
    assert found["part"] == "test"
    assert found["images"] == PARTS["test"]  # dots are too small
    assert found["dice"] == found["dice/wedge"] > found["iou"]
    # The best mask of them all: half of it is right.
    assert found["dice"] > 2 / 3 + 0.1
    assert Image.open(done / "train" / "reconstruction.png").width > 500


def test_what_it_wrote_is_the_official_format(done):
    path = done / "train" / "model" / mask_codec.FILE
    with np.load(path) as arrays:
        assert set(arrays.files) == set(mask_codec.NAMES.values())
        codebook = arrays["_vq_vae._embedding"]
    codec = mask_codec.open_npz(path)
    rng = np.random.default_rng(1)
    masks = np.stack([crop(labels(rng) == 1, 64) for _ in range(8)])
    codes = jax.jit(codec.encode)(masks)
    again = mask_codec.open_npz(path.parent)
    np.testing.assert_array_equal(jax.jit(again.encode)(masks), codes)
    np.testing.assert_array_equal(codec.codebook.get_value(), codebook)
    inside = np.asarray(jax.jit(codec.decode)(codes)) > 0
    dice = 2 * (inside & (masks > 0.5)).sum() / (inside.sum() + (masks > 0.5).sum())
    found = json.loads((done / "train" / "reconstruction.json").read_text())
    assert abs(dice - found["dice"]) < 0.1


def test_it_goes_on_to_the_same_bits(done, codec_arguments, tmp_path, command):
    path = tmp_path / "run"
    shutil.copytree(done, path)
    for of_the_end in ("model", "reconstruction.json", f"checkpoints/{STEPS}"):
        place = path / "train" / of_the_end
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    result = command("train", *codec_arguments, f"--workdir={path}")
    assert result.code == 0, result.err
    assert f"continuing from step {SAVED}" in result.err
    for name in (f"model/{mask_codec.FILE}", "reconstruction.json"):
        ours, theirs = (p / "train" / name for p in (path, done))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_it_starts_from_a_file(done, data, tmp_path, command):
    before = json.loads((done / "train" / "reconstruction.json").read_text())
    given = arguments(
        "mask_codec", data, init=done / "train" / "model", steps=1, eval_every=0, batch_size=8,
        optimizer__learning_rate=1e-6, optimizer__warmup_steps=0,
    )  # fmt: skip
    path = tmp_path / "run"
    result = command("train", *given, f"--workdir={path}", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)["reconstructions"]["train"]
    # Its codebook lives on: with one of nothing counted, the step would have made another of it.
    assert abs(found["dice"] - before["dice"]) < 0.02
    old, new = (
        mask_codec.open_npz(p / "train" / "model").codebook.get_value() for p in (done, path)
    )
    moved = np.linalg.norm(new - old, axis=1) / np.linalg.norm(old, axis=1)
    assert 0 < moved.max() < 0.5


def test_a_tokenizer_by_the_command(data, tmp_path, command):
    network = {f"tokenizer__{side}__{key}": n for side in ("encoder", "decoder")
               for key, n in (("width", 16), ("depth", 1), ("num_heads", 2))}  # fmt: skip
    path = tmp_path / "run"
    given = arguments("image", data, steps=2, eval_every=0, **network)
    result = command("train", *given, f"--workdir={path}", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)["reconstructions"]["train"]
    assert found["part"] == "test"
    assert found["images"] == PARTS["test"]
    assert found["codes"] == 256
    assert 0 < found["psnr"] < 40
    files = {p.name for p in (path / "train" / "model").iterdir()}
    assert files == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("what", ["image,fsq", "image,conv", "mask", "mask,conv,fsq"])
def test_every_variant_can_be_trained(what, data):
    recipe, *overrides = arguments(what, data)
    config = config_lib.load(recipe.removeprefix("--config="), overrides)
    plan = tokenizers.plan("train", config, with_entries(config.modalities.to_dict()))
    assert plan.steps == 4
    assert plan.tokenizer.kind == what.split(",")[0]
    assert isinstance(plan.tokenizer.encoder, ConvConfig) == ("conv" in what)
    assert isinstance(plan.tokenizer.quantizer, FSQConfig) == ("fsq" in what)


@pytest.mark.parametrize("what", ["image", "mask_codec"])
def test_without_test_data_validation_tells_how_good_it_is(what, data):
    """Also where it is not looked at during training."""
    recipe, *overrides = arguments(what, data, eval_every=0, data__test__own__source="")
    config = config_lib.load(recipe.removeprefix("--config="), overrides)
    table = with_entries(config.modalities.to_dict())
    plan = (stage if what == "mask_codec" else tokenizers).plan("train", config, table)
    part, sources = fourm_data.told_of(plan.train, plan.validation, plan.test)
    assert (part, list(sources)) == ("validation", ["own"])
    assert fourm_data.eval_data(config, plan.validation, "validation") is None


@pytest.mark.parametrize("kept", [0, 1])
def test_images_are_kept_in_memory_as_far_as_is_said(kept, data):
    recipe, *overrides = arguments("image", data, data__image_cache_mib=kept)
    config = config_lib.load(recipe.removeprefix("--config="), overrides)
    image = with_entries(config.modalities.to_dict())["tok_image"]
    source = fourm_data.open_sources("train", config, "train", (image,))["own"]
    sample = source.samples[0]
    assert (sample.value("ct") is sample.value("ct")) == bool(kept)


def test_a_kernel_that_cannot_run_is_told_of_before(data):
    recipe, *overrides = arguments("mask", data, kernels__attention="pallas_triton")
    config = config_lib.load(recipe.removeprefix("--config="), overrides)
    table = with_entries(config.modalities.to_dict())
    with (
        medjax_kernels.assume("gpu", (7, 0)),
        pytest.raises(UserError, match=r"kernels\.attention.*pallas_triton"),
    ):
        tokenizers.plan("train", config, table)


def test_a_tokenizer_starts_from_scratch(data):
    recipe, *overrides = arguments("mask", data, init="weights.npz")
    config = config_lib.load(recipe.removeprefix("--config="), overrides)
    with pytest.raises(UserError, match="train: init is set, and a tokenizer begins"):
        tokenizers.plan("train", config, with_entries(config.modalities.to_dict()))


def test_what_the_recipe_does_not_know():
    with pytest.raises(UserError, match="'masks' is none of image, mask, mask_codec"):
        config_lib.load(f"{RECIPE}:masks")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": ""}, "codec: modality is not set"),
        ({"modality": "caption"}, "modality 'caption' is of content 'text'; masks are of labels"),
        ({"dtype": "bfloat16"}, "dtype is bfloat16; the mask codec computes in float32"),
        ({"lora.rank": 4}, "lora.rank is set"),
        ({"tokenizer": {"channels": 2}}, "tokenizer.channels cannot be chosen"),
        (
            {"tokenizer": {"quantizer": {"num_codes": 64}}},
            "tokenizer.quantizer.num_codes cannot be chosen.*tokenizer.quantizer.decay",
        ),
        ({"tokenizer": {"quantizer": {"decay": 1.5}}}, "decay 1.5 is not between 0 and 1"),
        ({"reconstruction": "cross_entropy"}, "of the mask codec it is one of l2, l1"),
        ({"min_pixels": 1000}, "train.jsonl has no mask: no class but 0 of 'organ' fills 1000"),
        ({"init": "nowhere.npz"}, "nowhere.npz cannot be read as the mask codec's npz file"),
        ({"data.train.own.source": ""}, "there is no data with organ to train on"),
        ({"steps": 0}, "set steps or epochs"),
    ],
)
def test_what_the_codec_cannot_be_trained_on(change, message, data):
    flat = {key: value for key, value in change.items() if not isinstance(value, dict)}
    recipe, *overrides = arguments("mask_codec", data, **flat)
    config = config_lib.load(recipe.removeprefix("--config="), overrides)
    with config.unlocked(), config.ignore_type():
        config.update({key: value for key, value in change.items() if key not in flat})
    with pytest.raises(UserError, match=message):
        stage.plan("codec", config, with_entries(config.modalities.to_dict()))
