"""What the command `medjax.generate` makes with a 4M that has learned next to nothing."""

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from medjax import config as config_lib
from medjax import workdir
from medjax.data.samples import Box, Sample
from medjax.decoding.fourm import sample_keys
from medjax.errors import UserError
from medjax.modalities.transforms import nearest
from medjax.pipelines.fourm import make as make_lib
from medjax.pipelines.fourm import trained as trained_lib
from medjax.pipelines.fourm.make import make

SIDE, TOKENS = 48, 144  # of the quickstart's images
CHAIN = ("tok_tissue", "caption", "det", "tok_t1")
BOX = '[{"label": "brain", "box": [0.1, 0.2, 0.7, 0.9]}]'


@pytest.fixture(scope="module")
def trained(fourm_run):
    return trained_lib.load(fourm_run)


@pytest.fixture
def loaded(trained, monkeypatch):
    """The model is not read and compiled anew in every test."""
    monkeypatch.setattr(make_lib.trained_lib, "load", lambda path, stage: trained)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of scan.png (RGB, not square), labels.png and volume.nii.gz."""
    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 40, 3), np.uint8)).save(folder / "scan.png")
    Image.fromarray(rng.integers(0, 3, (50, 40), np.uint8)).save(folder / "labels.png")
    volume = nibabel.Nifti1Image(rng.integers(0, 3, (20, 24, 16)).astype(np.uint8), np.eye(4))
    nibabel.save(volume, folder / "volume.nii.gz")
    return folder


def test_the_command(command, loaded, fourm_run, trained, folder, tmp_path):
    """A chain of four, as files and as JSON: what the run's own settings make, step by step."""
    scan, labels = folder / "scan.png", folder / "labels.png"
    arguments = [f"--workdir={fourm_run}", f"--given=t1={scan}", "--seed=7"]
    arguments += [f"--make={name}" for name in CHAIN]
    done = command("generate", *arguments, "--json", f"--output={tmp_path / 'made'}")
    assert done.code == 0, done.err
    assert done.out.count("\n") == 1
    outcome = json.loads(done.out)
    (sample,) = outcome.pop("samples")
    assert outcome == {"given": {"t1": str(scan)}, "seed": 7}
    assert list(sample) == list(CHAIN)

    pixels = np.asarray(Image.open(scan))
    rows = trained.rows([Sample("scan", {"t1": pixels})], ["t1"])
    by_hand, features = trained.given(rows, ["t1"])
    values = {}
    for index, name in enumerate(CHAIN):
        keys = sample_keys(7, np.arange(1), index)
        step = trained.step(name)
        by_hand[name] = trained._generator.step(by_hand, step, keys, features=features)
        (values[name],) = trained.values(name, by_hand[name])
    mask = Image.open(tmp_path / "made" / "tok_tissue.png")
    assert mask.mode == "P"
    np.testing.assert_array_equal(mask, values["tok_tissue"])
    shares = {
        name: (values["tok_tissue"] == i).mean()
        for i, name in enumerate(("other", "grey matter", "white matter"))
    }
    assert sample["tok_tissue"]["shares"] == pytest.approx(shares, abs=1e-4)
    over = np.asarray(Image.open(tmp_path / "made" / "tok_tissue-over.png"))
    assert over.shape == pixels.shape
    # The middle of the scan's pixel (y, x) lies in the mask's pixel of the same part of the square.
    y, x = np.meshgrid(np.arange(50), np.arange(40), indexing="ij")
    large = values["tok_tissue"][(2 * y + 1) * SIDE // 100, (2 * x + 1) * SIDE // 80]
    # Else it lies on the border of two.
    clear = ((2 * y + 1) * SIDE % 100 > 0) & ((2 * x + 1) * SIDE % 80 > 0)
    np.testing.assert_array_equal(over[clear & (large == 0)], pixels[clear & (large == 0)])
    assert (over[clear & (large > 0)] != pixels[clear & (large > 0)]).any(-1).mean() > 0.9
    assert sample["caption"]["text"] == values["caption"]
    assert len(sample["det"]["boxes"]) == len(values["det"])
    image = np.asarray(Image.open(tmp_path / "made" / "tok_t1.png"))
    expected = np.clip((values["tok_t1"] + 1) * 127.5, 0, 255)
    assert np.abs(image[..., :1] - expected).max() <= 0.5 + 1e-3
    named = [file for told in sample.values() for file in told.get("files", ())]
    assert {p.name for p in (tmp_path / "made").iterdir()} == {*named, "made.json"}
    assert json.loads((tmp_path / "made" / "made.json").read_text())["samples"] == [sample]

    # In words, of every kind of thing that can be given.
    given = [f"--given=tok_tissue={labels}", "--given=caption=axial slice", f"--given=det={BOX}"]
    done = command("generate", f"--workdir={fourm_run}", *given, "--make=tok_t1")
    assert (done.code, done.out) == (0, f"tok_t1: an image of {SIDE} x {SIDE} pixels\n")


def made(given, targets, **more):
    """The values of each sample."""
    return make("the run", given, targets, **more).samples


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a) and list(a) == list(b)


def test_draws_follow_from_the_seed_alone(loaded, trained, folder):
    given, targets = {"t1": str(folder / "scan.png")}, ["tok_tissue", "caption"]
    hot = {"temperature": 1.0}
    # Three samples are two batches of the run's two.
    assert trained.config.evaluate.batch_size == 2
    three = made(given, targets, settings=hot, seed=1, num_samples=3)
    assert len(three) == 3
    assert not same(three[0], three[1])
    assert not same(three[1], three[2])
    again = made(given, targets, settings=hot, seed=1, num_samples=2)
    assert all(map(same, three, again))
    assert not same(three[0], made(given, targets, settings=hot, seed=2, num_samples=2)[0])


def test_guidance(loaded, folder):
    given, targets = {"t1": str(folder / "scan.png"), "caption": "axial slice"}, ["tok_tissue"]
    plain = made(given, targets)[0]
    assert not same(plain, made(given, targets, settings={"guidance": 9.0})[0])
    weights = {"t1": 9.0, "caption": -3.0}
    assert not same(plain, made(given, targets, settings={"guidance": weights})[0])
    # base + 1 * (all - base): the caption, which has no weight, is read in both.
    assert same(plain, made(given, targets, settings={"guidance": {"t1": 1.0}})[0])


def test_weights_are_of_the_conditions_that_a_step_has(trained):
    def passes(**weights):
        steps = make_lib._steps(trained, ["t1", "caption"], CHAIN[::2], {"guidance": weights})
        return [(step.guidance, tuple(step.unconditional)) for step in steps]

    assert passes(caption=2.0) == [
        ({"caption": 2.0}, ("t1",)),
        ({"caption": 2.0}, ("t1", "tok_tissue")),
    ]
    assert passes(t1=2.0, caption=3.0, tok_tissue=4.0) == [
        ({"t1": 2.0, "caption": 3.0}, ()),
        ({"t1": 2.0, "caption": 3.0, "tok_tissue": 4.0}, ()),
    ]
    assert passes(tok_tissue=4.0) == [(1.0, ()), ({"tok_tissue": 4.0}, ("t1", "caption"))]


def test_settings_reach_the_steps(loaded, trained):
    asked = make_lib._steps(
        trained,
        ["t1"],
        ["tok_tissue", "caption"],
        {"scheme": "maskgit", "num_steps": 1000, "token_schedule": "linear", "top_k": 5,
         "top_p": 0.9, "temperature": 2.0, "temperature_schedule": "linear"},
    )  # fmt: skip
    tissue, caption = asked
    for step in asked:
        assert (step.top_k, step.top_p, step.temperature) == (5, 0.9, 2.0)
    assert (tissue.scheme, tissue.num_steps, tissue.token_schedule) == ("maskgit", TOKENS, "linear")
    assert tissue.temperature_schedule == "linear"
    assert caption.scheme == "autoregressive"
    assert make_lib._steps(trained, ["t1"], ["caption"], {"top_k": 0})[0].top_k is None


def test_a_slice_of_volumes(trained, folder):
    """Image and labels of the same slice; labels are never interpolated."""
    path = str(folder / "volume.nii.gz")
    part = {"axis": "axial", "slice": 3}
    rows, image = make_lib._read(trained, {"t1": path, "tok_tissue": path}, part)
    # As displayed: rows from front to back, columns from right to left.
    labels = np.asarray(nibabel.load(path).dataobj)[::-1, ::-1, 3].T
    np.testing.assert_array_equal(rows["tok_tissue"][0], nearest(labels, SIDE))
    assert image.shape[:2] == labels.shape
    assert rows["t1"].shape == (1, SIDE, SIDE, 1)


def test_boxes_of_a_file(trained, tmp_path):
    (tmp_path / "boxes.json").write_text(BOX)
    inline, _ = make_lib._read(trained, {"det": BOX}, {})
    file, _ = make_lib._read(trained, {"det": str(tmp_path / "boxes.json")}, {})
    assert inline["det/length"] == file["det/length"] == 6
    np.testing.assert_array_equal(inline["det"], file["det"])
    last = 63  # bins of the run are 64
    expected = Box("brain", *(round(part * last) / last for part in (0.1, 0.2, 0.7, 0.9)))
    assert trained.true_values(inline, "det") == [(expected,)]


SCAN, TISSUE = {"t1": "{folder}/scan.png"}, ["tok_tissue"]


@pytest.mark.parametrize(
    ("given", "targets", "more", "message"),
    [
        ({"ct": "a.png"}, TISSUE, {}, "does not read it, only t1, tok_t1, tok_tissue, caption"),
        ({"tissue": "a.png"}, ["tok_t1"], {}, "tok_tissue is made of it"),
        ({"t1": "nowhere.png"}, TISSUE, {}, "given t1: The image nowhere.png does not exist"),
        ({"t1": "v.nii"}, TISSUE, {}, 'is a volume: write "axis".* --axis, --slice'),
        ({"tok_tissue": "{folder}/scan.png"}, ["tok_t1"], {}, "indexed or grey PNG"),
        ({"caption": "grey " * 40}, ["tok_t1"], {}, "longer than the 32 tokens"),
        ({"det": "brain"}, ["tok_t1"], {}, "neither JSON nor a file"),
        ({"det": '[{"label": "a", "box": [0, 0, 2, 1]}]'}, ["tok_t1"], {}, "from 0 to 1"),
        ({"caption": "a", "tok_t1": "b.png"}, ["tok_t1"], {}, "tok_t1 .* there already"),
        (SCAN, ["caption", "caption"], {}, "caption .* there already"),
        (SCAN, ["t1x"], {}, "does not predict 't1x', only tok_t1"),
        ({"caption": "a"}, ["t1"], {}, "does not predict 't1'"),
        ({}, TISSUE, {}, "at least one"),
        (SCAN, TISSUE, {"part": {"slice": 3}}, "--slice would do nothing.* NIfTI"),
        ({"caption": "a"}, TISSUE, {"part": {"frame": 3}}, "--frame would do nothing"),
        (SCAN, ["caption"], {"settings": {"num_steps": 3}}, "--num_steps would do nothing"),
        (SCAN, TISSUE, {"settings": {"scheme": "greedy"}}, "'greedy' is none of"),
        (SCAN, TISSUE, {"settings": {"token_schedule": "linear"}}, "only to maskgit"),
        (SCAN, TISSUE, {"settings": {"guidance": {"det": 2.0}}}, "--guidance det"),
        (SCAN, TISSUE, {"settings": {"top_p": 0.0}}, "top_p"),
        (SCAN, ["caption"], {"num_samples": 2}, "would be the same"),
        (SCAN, TISSUE, {"num_samples": 0}, "num_samples 0"),
        (SCAN, TISSUE, {"seed": -1}, "seed -1"),
    ],
)  # fmt: skip
def test_wrong_input(loaded, folder, given, targets, more, message):
    given = {name: text.replace("{folder}", str(folder)) for name, text in given.items()}
    with pytest.raises(UserError, match=message):
        make("the run", given, targets, **more)


def test_wrong_command_lines(command, fourm_run, tmp_path):
    def refused(*arguments, run=fourm_run):
        done = command("generate", f"--workdir={run}", *arguments)
        assert (done.code, done.out) == (2, "")
        return done.err

    other = refused("--image=scan.png", "--prompt=a", "--method=beam")
    assert "run of fourm" in other
    assert "does not know --image, --prompt, --method; it is asked with --given" in other
    assert "asked with --given and --make" in refused("--make=caption")
    assert "write MODALITY=VALUE" in refused("--given=scan.png", "--make=caption")
    assert "t1 is there twice" in refused("--given=t1=a", "--given=t1=b", "--make=caption")
    weights = refused("--given=t1=a", "--make=caption", "--guidance=t1=much")
    assert "t1=much is neither a number nor weights" in weights
    assert "no 4M stage 't1_tokenizer'" in refused(
        "--given=t1=a", "--make=caption", "--stage=t1_tokenizer"
    )
    (tmp_path / "file").write_text("")
    there = refused("--given=t1=a", "--make=caption", f"--output={tmp_path / 'file'}")
    assert "is no folder" in there

    run = workdir.Workdir.of(tmp_path / "run")
    workdir.create(run, config_lib.defaults())
    other = refused("--given=t1=a", "--make=caption", "--guidance=2", run=run.path)
    assert "run of paligemma" in other
    assert "does not know --given, --make, --guidance; it is asked with" in other
    assert "asked with --image and --prompt" in other
