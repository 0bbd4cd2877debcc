"""Configs of image tokenizers: what does not add up is refused; JSON there and back."""

import json

import pytest

from medjax.errors import UserError
from medjax.models.tokenizers import (
    ConvConfig,
    FSQConfig,
    ImageTokenizerConfig,
    ViTConfig,
    VQConfig,
)
from medjax.models.tokenizers.config import from_dict, to_dict


def config(**changes) -> ImageTokenizerConfig:
    fields = dict(
        kind="image", image_size=16, patch_size=4, channels=2, encoder=ViTConfig(16, 2, 4),
        decoder=ConvConfig((8, 12), blocks=2), quantizer=VQConfig(32, 6), mean=(0.5, 0.25),
        std=(1.0, 2.0),
    )  # fmt: skip
    return ImageTokenizerConfig(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "video"}, "kind 'video' is none of image, mask"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 18}, "image_size 18 is no multiple of patch_size 4"),
        ({"channels": -1}, "channels is -1"),
        (
            {"decoder": ConvConfig((8,))},
            "decoder: 1 widths change the size by a factor of 2, patch",
        ),
        ({"encoder": ConvConfig((8, 8, 8))}, "encoder: 3 widths .* factor of 8, patch_size is 4"),
        ({"mean": (0.5,)}, "mean has 1 numbers for 2 channels"),
        ({"mean": (0.5, float("nan"))}, "mean .* not finite"),
        ({"std": (1.0, 0.0)}, "std .* must be above 0"),
        ({"kind": "mask"}, "mean is of images"),
        ({"kind": "mask", "mean": (), "std": (), "channels": 1}, "at least 2 classes"),
    ],
)
def test_what_does_not_add_up_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: ViTConfig(16, 0, 4), "depth is 0"),
        (lambda: ViTConfig(16, 2, 3), "width 16 is no multiple of num_heads 3"),
        (lambda: ViTConfig(18, 2, 3), "width 18 is no multiple of 4"),
        (lambda: ConvConfig(()), r"widths is \(\)"),
        (lambda: ConvConfig((8, 0)), r"widths is \(8, 0\)"),
        (lambda: VQConfig(0, 4), "num_codes is 0"),
        (lambda: VQConfig(8, 4, distance="l1"), "distance 'l1' is none of cosine, l2"),
        (lambda: VQConfig(8, 4, decay=1.0), "decay 1.0 is not between"),
        (lambda: VQConfig(8, 4, commitment=-1.0), "commitment -1.0 must be at least 0"),
        (lambda: VQConfig(8, 4, restart_below=1.0), r"restart_below 1.0 not in \[0, 1\)"),
        (lambda: FSQConfig(()), r"levels is \(\)"),
        (lambda: FSQConfig((8, 1)), r"levels \[8, 1\] must be at least 2"),
        (lambda: FSQConfig((256,) * 4), "more codes than int32"),
    ],
)
def test_parts_that_do_not_add_up_are_refused(create, message):
    with pytest.raises(UserError, match=message):
        create()


def test_sizes_that_follow_from_others():
    assert config().side == 4
    assert config().vocab_size == 32
    assert config(quantizer=FSQConfig((8, 5, 5))).vocab_size == 200
    assert ViTConfig(16, 2, 4).mlp_dim == 64


@pytest.mark.parametrize("quantizer", [VQConfig(32, 6, "l2", 0.5, 0.25, 0.1), FSQConfig((8, 5))])
def test_json_there_and_back(quantizer):
    original = config(quantizer=quantizer)
    assert from_dict(json.loads(json.dumps(to_dict(original)))) == original


def changed(*path, value="", drop=False):
    data = json.loads(json.dumps(to_dict(config())))
    where = data
    for key in path[:-1]:
        where = where[key]
    if drop:
        del where[path[-1]]
    else:
        where[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed("size", value=3), r"x.json has unknown keys \['size'\] and lacks \[\]"),
        (changed("kind", drop=True), r"x.json has unknown keys \[\] and lacks \['kind'\]"),
        (changed("encoder", "heads", value=3), r"x.json: encoder has unknown keys \['heads'\]"),
        (changed("encoder", "type", value="vq"), "encoder must hold a type, one of vit, conv"),
        (changed("quantizer", value=8), "quantizer must hold a type, one of vq, fsq"),
        (changed("image_size", value="16"), "image_size is '16'; expected a whole number"),
        (changed("image_size", value=16.5), "image_size is 16.5; expected a whole number"),
        (changed("image_size", value=True), "image_size is True; expected a whole number"),
        (changed("kind", value=None), "kind is None; expected text"),
        (changed("mean", value=0.5), "mean is 0.5; expected a list"),
        (changed("mean", value=[0, "a"]), "mean is 'a'; expected a number"),
        (changed("decoder", "widths", value=[8, None]), "widths is None; expected a whole number"),
        ([1], r"x.json is \[1\]; it must hold ImageTokenizerConfig's values by name"),
    ],
)
def test_json_that_is_no_tokenizers_is_refused(data, message):
    with pytest.raises(UserError, match=message):
        from_dict(data, "x.json")
