"""The step: what is hidden or cut off, counted and shown."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from medjax.data.medical.conditioning import overlays
from medjax.data.medical.conditioning.settings import Settings
from medjax.data.medical.record import shown


@pytest.fixture
def records(folder, drawn):
    """Grey and RGBA files with text, one without, one that is missing."""
    made = []
    for i, d in enumerate(drawn[:40:2]):
        pixels = d.pixels
        if i % 3 == 0:
            opaque = np.full((*pixels.shape, 1), 255, np.uint8)
            pixels = np.concatenate([np.repeat(pixels[..., None], 3, axis=2), opaque], axis=2)
        made.append(folder.record(f"scan{i}", pixels))
    made.append(folder.record("clean", drawn[50].clean))
    missing = folder.record("missing", drawn[0].clean)
    missing.image.file.path.unlink()
    return [*made, missing]


@pytest.mark.parametrize("how", ["mask", "crop"])
def test_text_goes(records, drawn, how):
    done, report = overlays.step(records, Settings(overlays=how))
    assert [record.id for record in done] == [record.id for record in records]
    shares = []
    for record, before, d in zip(done, records, drawn[:40:2], strict=False):
        assert record == dataclasses.replace(before, hidden=record.hidden, crop=record.crop)
        text = np.repeat(np.maximum(d.footer, d.mark)[..., None], 3, axis=2)
        left = shown(text, record.hidden, record.crop)
        shares.append(left.sum() / text.sum())
        if how == "mask":
            assert record.crop is None
            assert left.shape == text.shape
        elif not record.hidden:
            assert left.size >= 0.7 * text.size
    assert np.mean(shares) < 0.03
    assert sum(bool(record.crop) for record in done) == (0 if how == "mask" else 20)
    assert done[-2:] == records[-2:]
    word = "masked" if how == "mask" else "cut off"
    # So few images do not tell a watermark from a header.
    counts = [report.changed.get(f"{kind} {word}", 0) for kind in ("footer", "watermark", "header")]
    assert counts[0] >= 19
    assert counts[1] + counts[2] >= 19
    assert report.figures["nothing found"] == report.figures["image can't be read"] == 1
    assert len(report.warnings) == 1
    assert {case.why for case in report.cases} >= {*report.changed, "nothing found"}
    assert report.cases[0].record.hidden or report.cases[0].record.crop


def test_the_same_every_time(records):
    first, second = (overlays.step(records, Settings()) for _ in range(2))
    assert first == second


def test_what_was_hidden_stays_hidden(records):
    name = (1, 2, 3, 4)
    records = [dataclasses.replace(record, hidden=(name,)) for record in records]
    done, _ = overlays.step(records, Settings())
    assert all(record.hidden[0] == name for record in done)
    again, _ = overlays.step(done, Settings())
    assert again == done


def test_images_without_text_are_no_news(folder, anatomy):
    records = [folder.record(f"scan{i}", slice_) for i, slice_ in enumerate(anatomy[:18])]
    done, report = overlays.step(records, Settings())
    assert done == records
    assert not report.changed
    assert not report.cases
    assert not report.warnings


def test_cuts():
    footer, corner, middle = (90, 10, 98, 80), (2, 70, 10, 98), (45, 40, 55, 60)
    assert overlays.cut((100, 100), [footer]) == ((0, 0, 90, 100), [])
    assert overlays.cut((100, 100), [footer, corner]) == ((10, 0, 90, 100), [])
    assert overlays.cut((100, 100), [middle]) == (None, [middle])
    assert overlays.cut((100, 100), [middle, footer]) == ((0, 0, 90, 100), [middle])
    assert overlays.cut((100, 100), [footer], (0, 0, 80, 80)) == ((0, 0, 80, 80), [])
    assert overlays.cut((100, 100), []) == (None, [])


def test_one_thread_or_many(folder, anatomy, monkeypatch):
    records = [folder.record(f"scan{i}", slice_) for i, slice_ in enumerate(anatomy[:9])]
    sums = [int(np.asarray(Image.open(r.image.file.path)).sum()) * 3 for r in records]
    for threads in (1, 4):
        monkeypatch.setattr(overlays.os, "cpu_count", lambda threads=threads: threads)
        found = overlays.of_images(
            records, lambda record, pixels: (record.id, pixels.sum()), "sums"
        )
        assert list(found) == [(r.id, total) for r, total in zip(records, sums, strict=True)]
