"""The dataset's answers, recomputed from the volume in other ways than it computes them."""

import collections
import dataclasses
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import nilearn
import numpy as np
import pytest

from medjax.data.datasets.mni152_vqa.questions import PHRASINGS, TASKS, enclosed
from medjax.data.sources import open_source
from medjax.errors import UserError

SPLITS = ("train", "validation", "test")
PLANES = ("sagittal", "coronal", "axial")  # in the order of the volume's axes


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def sources(data_dir):
    return {split: open_source("mni152_vqa", split=split, data_dir=data_dir) for split in SPLITS}


@pytest.fixture(scope="module")
def volumes():
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    names = ("t1", "gm", "wm")
    files = [folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz" for name in names]
    images = [nibabel.load(file) for file in files]
    assert all(nibabel.aff2axcodes(image.affine) == ("R", "A", "S") for image in images)
    t1, gm, wm = (np.asarray(image.dataobj).astype(np.float64) for image in images)
    return {"t1": t1, "gm": gm / 255, "wm": wm / 255}


@pytest.fixture(scope="module")
def slices(sources):
    """For every slice: its split, an example of it, and its questions by task."""
    found = {}
    for split, source in sources.items():
        for example in source:
            _, _, asked = found.setdefault(example.image_key, (split, example, {}))
            asked.setdefault(example.extra["task"], []).append(example)
    return list(found.values())


def _cut(volume: np.ndarray, example) -> np.ndarray:
    """The slice, as an image: turned by hand for each plane."""
    index = example.extra["slice"]
    if example.extra["plane"] == "axial":
        return np.rot90(volume[:, :, index])[:, ::-1]
    if example.extra["plane"] == "coronal":
        return np.rot90(volume[:, index, :])[:, ::-1]
    return np.rot90(volume[index, :, :])[:, ::-1]


def test_the_template_is_its_own_mirror_image(volumes):
    # Why nothing is asked about sides, and why sagittal slices come from one half.
    for volume in volumes.values():
        np.testing.assert_array_equal(volume, volume[::-1])


def test_splits_are_slabs_with_gaps_between_them(slices):
    planes = collections.defaultdict(list)
    for split, example, _ in slices:
        extra = example.extra
        planes[extra["plane"]].append((extra["slice"], split, extra["slab"]))
    assert set(planes) == set(PLANES)
    for plane, places in planes.items():
        assert len(places) == len(set(places))
        for (a, split_a, slab_a), (b, split_b, slab_b) in itertools.pairwise(sorted(places)):
            # Neighbours within a slab; at least 2 mm left out between slabs.
            assert (b - a == 1) if slab_a == slab_b else (b - a >= 3)
            assert split_a == split_b or slab_a != slab_b
        # What is held out lies between slices that were seen.
        assert min(places)[1] == max(places)[1] == "train"
        slabs = collections.Counter(split for split, _ in {(s, slab) for _, s, slab in places})
        assert slabs["test"] >= 3
        assert slabs["validation"] >= 2
        if plane == "sagittal":  # one half: no slice has a mirror image in another split
            assert min(places)[0] >= 98
    counts = collections.Counter(split for split, _, _ in slices)
    assert counts["train"] / counts.total() > 0.6
    # Slabs are what intervals are over.
    assert len({e.extra["slab"] for split, e, _ in slices if split == "test"}) >= 13


def test_slices_are_those_with_tissue_in_them(slices, volumes):
    shown = {(e.extra["plane"], e.extra["slice"]) for _, e, _ in slices}
    for axis, plane in enumerate(PLANES):
        shares = (volumes["t1"] > 25.5).mean(axis=tuple({0, 1, 2} - {axis}))
        assert all(shares[index] >= 0.05 for p, index in shown if p == plane)
        # What is left out at the ends is empty.
        kept = [index for p, index in shown if p == plane]
        assert not (shares[max(kept) + 1 :] >= 0.05).any()
        if plane != "sagittal":
            assert not (shares[: min(kept)] >= 0.05).any()


def test_images_are_the_slices_as_they_are_displayed(slices, volumes):
    for _, example, _ in slices:
        assert example.image.dtype == np.uint8
        expected = _cut(volumes["t1"], example)
        np.testing.assert_array_equal(example.image, np.stack([expected] * 3, axis=-1))
    # Front up, and facing left: the cerebellum lies low and behind.
    axial = next(e.image for _, e, _ in slices if e.id.startswith("axial-026/"))
    assert axial.shape == (233, 197, 3)
    assert (axial[120:] > 25).sum() > 2 * (axial[:117] > 25).sum()
    sagittal = next(e.image for _, e, _ in slices if e.id.startswith("sagittal-008/"))
    assert sagittal.shape == (189, 233, 3)
    assert (sagittal[130:, 117:] > 25).sum() > 2 * (sagittal[130:, :117] > 25).sum()


def _answer(asked: dict, task: str) -> str:
    (suffix,) = {example.suffix for example in asked[task]}
    return suffix


def test_plane(slices):
    for _, example, asked in slices:
        assert _answer(asked, "plane") == example.extra["plane"]


LEVELS = {
    "axial": ["bottom", "lower", "middle", "upper", "top"],
    "coronal": ["back", "mid back", "middle", "mid front", "front"],
    "sagittal": ["midline", "inner", "middle", "outer", "edge"],
}


def test_level(slices, volumes):
    for axis, plane in enumerate(PLANES):
        other = tuple({0, 1, 2} - {axis})
        inside = np.nonzero((volumes["t1"] > 25.5).any(axis=other))[0]
        if plane == "sagittal":
            inside = inside[inside >= 98]
        # Each slice of the head, dealt out to five levels of equal thickness.
        level = {index: 5 * place // len(inside) for place, index in enumerate(inside)}
        for _, example, asked in slices:
            if example.extra["plane"] == plane:
                assert _answer(asked, "level") == LEVELS[plane][level[example.extra["slice"]]]


def test_share_and_balance(slices, volumes):
    for _, example, asked in slices:
        grey = (_cut(volumes["gm"], example) > 0.5).sum()
        white = (_cut(volumes["wm"], example) > 0.5).sum()
        percent = 100 * grey / example.image[..., 0].size
        expected = (
            "under 15 percent"
            if percent < 15
            else "15 to 23 percent"
            if percent < 23
            else "over 23 percent"
        )
        assert _answer(asked, "share") == expected
        assert _answer(asked, "balance") == ("yes" if grey > 2 * white else "no")


def _flooded_from_outside(free: np.ndarray) -> np.ndarray:
    """Spreads from the edge over the free pixels, step by step."""
    padded = np.pad(free, 1, constant_values=True)
    flooded = np.zeros_like(padded)
    flooded[[0, -1]] = flooded[:, [0, -1]] = True
    while True:
        wider = flooded.copy()
        wider[1:] |= flooded[:-1]
        wider[:-1] |= flooded[1:]
        wider[:, 1:] |= flooded[:, :-1]
        wider[:, :-1] |= flooded[:, 1:]
        wider &= padded
        if (wider == flooded).all():
            return flooded[1:-1, 1:-1]
        flooded = wider


def test_fluid(slices, volumes):
    for _, example, asked in slices[::6]:
        brain = _cut(volumes["gm"] + volumes["wm"], example) > 0.5
        inside = ~brain & ~_flooded_from_outside(~brain)
        assert _answer(asked, "fluid") == ("yes" if inside.mean() >= 0.005 else "no")


def test_enclosed_counts_no_diagonal_path_as_a_way_out():
    region = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    assert enclosed(region).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    region[0, 1] = False
    assert not enclosed(region).any()


@pytest.mark.parametrize("task", ["detect_brain", "detect_white_matter"])
def test_boxes(slices, volumes, task):
    tissue = volumes["wm"] + (volumes["gm"] if task == "detect_brain" else 0)
    missing = 0
    for _, example, asked in slices:
        region = _cut(tissue, example) > 0.5
        if region.mean() < 0.005:
            missing += 1
            assert task not in asked
            continue
        suffix = _answer(asked, task)
        label = task.removeprefix("detect_").replace("_", " ")
        match = re.fullmatch(r"(?:<loc(\d{4})>)" * 4 + f" {label}", suffix)
        bins = np.array([int(number) for number in match.groups()])
        y, x = np.nonzero(region)
        pixels = np.array([y.min(), x.min(), y.max() + 1, x.max() + 1])
        size = np.array([*region.shape, *region.shape])
        np.testing.assert_array_equal(bins, np.minimum(pixels * 1024 // size, 1023))
    assert missing == (0 if task == "detect_brain" else 14)


def test_captions_say_what_the_answers_say(slices):
    for _, example, asked in slices:
        white = {"yes": "little", "no": "much"}[_answer(asked, "balance")]
        fluid = {"yes": "much", "no": "little"}[_answer(asked, "fluid")]
        assert _answer(asked, "caption") == (
            f"{example.extra['plane']} slice, {_answer(asked, 'level')}, "
            f"{_answer(asked, 'share')} grey, {white} white, {fluid} fluid"
        )


def test_wordings(sources, slices):
    ids = [example.id for source in sources.values() for example in source]
    assert len(ids) == len(set(ids))
    for split, _, asked in slices:
        for task, examples in asked.items():
            assert len(examples) == (len(PHRASINGS[task]) if split == "train" else 1)
            for example in examples:
                assert example.prefix == example.prefix.lower()
                assert "{" not in example.prefix
                if task in ("plane", "level", "share", "balance", "fluid"):
                    assert example.prefix.startswith("answer en ")
                    assert len(PHRASINGS[task]) >= 4
                if task != "level":
                    # The question does not give the plane away.
                    assert example.prefix in PHRASINGS[task]
                assert not re.search(r"\b(left|right)\b", example.prefix + example.suffix)
    prefixes = {example.prefix for example in sources["train"]}
    # Held-out splits ask in words of train, and in many of them.
    for split in ("validation", "test"):
        theirs = {example.prefix for example in sources[split]}
        assert theirs <= prefixes
        assert len(theirs) > 0.8 * len(prefixes)


def test_no_answer_wins_by_being_common(slices):
    for split, most in (("train", 0.65), ("validation", 0.65), ("test", 0.65)):
        for task in ("plane", "level", "share", "balance", "fluid"):
            answers = collections.Counter(
                _answer(asked, task) for split_, _, asked in slices if split_ == split
            )
            assert answers.most_common(1)[0][1] / answers.total() < most, (split, task)
    # The test split asks for every level of axial and coronal slices, and for most sagittal ones.
    tested = {(e.extra["plane"], _answer(a, "level")) for split, e, a in slices if split == "test"}
    assert collections.Counter(p for p, _ in tested) == {"axial": 5, "coronal": 5, "sagittal": 4}


def test_examples_are_what_the_index_says(sources):
    source = sources["test"]
    assert source.faults == {}
    example = source[len(source) - 1]
    assert set(example.extra) == {"task", "phrasing", "plane", "slice", "slab", "voxel_mm"}
    assert example.extra["voxel_mm"] == 1.0
    assert example.id.startswith(f"{example.image_key.split('/')[-1]}/{example.extra['task']}/")
    with pytest.raises(IndexError):
        source[len(source)]


def test_another_process_reads_the_same(sources):
    copy = pickle.loads(pickle.dumps(sources["validation"]))
    ours, theirs = sources["validation"][5], copy[5]
    assert (ours.id, ours.suffix) == (theirs.id, theirs.suffix)
    np.testing.assert_array_equal(ours.image, theirs.image)


def test_only_some_tasks(data_dir, sources):
    source = open_source("mni152_vqa", split="test", tasks=("level", "caption"), data_dir=data_dir)
    wanted = [e.id for e in sources["test"] if e.extra["task"] in ("level", "caption")]
    assert [example.id for example in source] == wanted
    with pytest.raises(UserError, match=f"no task 'levle': name some of {', '.join(TASKS)}"):
        open_source("mni152_vqa", split="test", tasks=("levle",), data_dir=data_dir)
    with pytest.raises(UserError, match="no split 'dev': name one of train, validation, test"):
        open_source("mni152_vqa", split="dev", data_dir=data_dir)


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't be built in .*/file .*: give a data_dir"):
        open_source("mni152_vqa", split="train", data_dir=tmp_path / "file")


_BUILD = """
import sys
from medjax.data.sources import open_source
source = open_source("mni152_vqa", split="train", data_dir=sys.argv[1])
print(len(source), source[0].image.shape, [m for m in ("tensorflow", "torch") if m in sys.modules])
"""


@pytest.fixture
def environment(tmp_path):
    """A process in which `import tensorflow` and `import torch` would succeed, and be noticed."""
    for name in ("tensorflow", "torch"):
        (tmp_path / "decoys" / name).mkdir(parents=True)
        (tmp_path / "decoys" / name / "__init__.py").touch()
    paths = [str(tmp_path / "decoys"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def test_a_second_build_is_the_same_and_needs_no_tensorflow(
    tmp_path, data_dir, sources, environment
):
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, tmp_path / "again"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    # Nothing but what it was told to print is on standard output.
    assert done.stdout == f"{len(sources['train'])} {sources['train'][0].image.shape} []\n"
    left = {str(p.relative_to(tmp_path / "again")) for p in (tmp_path / "again").rglob("*.*")}
    assert left == {str(p.relative_to(data_dir)) for p in data_dir.rglob("*.*")}
    # Records are compared and not files: protobuf leaves the order of a record's fields open.
    for split in SPLITS:
        again = open_source("mni152_vqa", split=split, data_dir=tmp_path / "again")
        for ours, theirs in zip(sources[split], again, strict=True):
            assert ours.image.tobytes() == theirs.image.tobytes()
            ours, theirs = (dataclasses.replace(e, pixels=None) for e in (ours, theirs))
            assert repr(ours) == repr(theirs)


def test_a_killed_build_leaves_nothing_in_the_way(tmp_path, sources, environment):
    data_dir = tmp_path / "data"
    process = subprocess.Popen([sys.executable, "-c", _BUILD, data_dir], env=environment)
    deadline = time.monotonic() + 60
    while not list(data_dir.glob("mni152_vqa/incomplete.*/*")):
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(data_dir.glob("mni152_vqa/incomplete.*"))
    assert not (data_dir / "mni152_vqa" / "1.3.0").exists()
    source = open_source("mni152_vqa", split="test", data_dir=data_dir)
    assert [example.id for example in source] == [example.id for example in sources["test"]]
    assert [path.name for path in (data_dir / "mni152_vqa").iterdir()] == ["1.3.0"]
