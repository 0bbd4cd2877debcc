"""What tools/score.py knows of a dataset's questions is what medjax knows when it evaluates."""

from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.source import MedicalSource
from medjax.evaluation.external.truths import read_truths


def test_facts_are_those_of_the_built_dataset(drawn_medpix, tmp_path):
    source = MedicalSource(
        "medpix2", folder=drawn_medpix, data_dir=tmp_path, split="test",
        settings=Settings(leaks="off", overlays="keep"),
    )  # fmt: skip
    examples = [source[i] for i in range(len(source))]
    truths = read_truths(f"medpix2={drawn_medpix}", "test")
    assert {e.id: (e.suffix, dict(e.extra)) for e in examples} == {
        e.id: (truths[e.id].truth, truths[e.id].extra) for e in examples
    }
    assert {truth.extra["seen"] for truth in truths.values()} == {"unseen"}
    trained = read_truths(f"medpix2={drawn_medpix}", "train")
    assert {truth.extra["seen"] for truth in trained.values()} == {"seen"}
