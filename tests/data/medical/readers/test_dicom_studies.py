import io
import logging
import shutil

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from reader_files import faults, read

from medjax.data.dicom import read_dicom
from medjax.data.faults import BadExample
from medjax.data.medical.readers.dicom_identity import KEPT, KEY_FILE, without_identity
from medjax.errors import UserError

AXIAL, CORONAL, SAGITTAL = (
    [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1],
)  # fmt: skip
# Stands wherever a file may say whose it is.
SECRET = "DRAWN SECRET"


def _write(path, pixels, *, syntax=ExplicitVRLittleEndian, **elements):
    """Writes stored values [rows, columns] or [frames, rows, columns]."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.Rows, data.Columns = pixels.shape[-2:]
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    defaults = {
        "PatientID": "1", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3",
        "SOPInstanceUID": f"1.2.3.{int(path.name.encode().hex(), 16)}", "Modality": "CT",
    }  # fmt: skip
    for name, value in (defaults | elements).items():
        setattr(data, name, value)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    if syntax == RLELossless:
        data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def _sequence(**elements):
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return pydicom.Sequence([item])


def _stack(folder, count, **elements):
    """A series of axial slices, whose names and numbers are not in the order of their positions."""
    for i in range(count):
        _write(
            folder / f"{(i * 7) % count:02d}", np.full((2, 2), i, np.uint8),
            SOPInstanceUID=f"1.2.3.{i}", InstanceNumber=count - i,
            ImageOrientationPatient=AXIAL, ImagePositionPatient=[0, 0, 5.0 * i],
            WindowCenter=128, WindowWidth=256, **elements,
        )  # fmt: skip
    return folder


def _slices(records):
    """Which slices of `_stack` records are."""
    return [int(pydicom.dcmread(io.BytesIO(r.image.read())).pixel_array[0, 0]) for r in records]


def _identified(path, **elements):
    """A file that says whose it is in every way that it can."""
    words = np.array([0, 40000, 65535], "<u2").tobytes()
    lut = _sequence(LUTDescriptor=[3, 0, 16], LUTData=words, LUTExplanation=SECRET)
    shared = _sequence(
        PixelValueTransformationSequence=_sequence(
            RescaleSlope=1, RescaleIntercept=-1, RescaleType="US"
        ),
        FrameAnatomySequence=_sequence(AnatomicRegionSequence=_sequence(CodeMeaning=SECRET)),
    )
    path = _write(
        path, np.array([[1, 2], [3, 1]], np.int16),
        PatientName=SECRET, PatientID=SECRET, PatientBirthDate="19010203", PatientAge="091Y",
        PatientSex="F", AccessionNumber=SECRET, StudyDescription=SECRET, SeriesDescription=SECRET,
        StudyDate="20200102", InstitutionName=SECRET, ImageComments=SECRET, VOILUTSequence=lut,
        ReferringPhysicianName=SECRET, SOPInstanceUID="1.2.3.4567", BodyPartExamined="HEAD",
        RequestAttributesSequence=_sequence(RequestedProcedureDescription=SECRET),
        SharedFunctionalGroupsSequence=shared, ImageOrientationPatient=CORONAL,
        **elements,
    )  # fmt: skip
    data = pydicom.dcmread(path)
    block = data.private_block(0x0011, SECRET, create=True)
    block.add_new(1, "LO", SECRET)
    data.add_new((0x6000, 0x4000), "LO", SECRET)  # an overlay's label
    data.preamble = SECRET.encode().ljust(128, b"\0")
    data.save_as(path)
    assert path.read_bytes().count(SECRET.encode()) >= 15
    return path


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless])
def test_a_copy_has_the_pixels_and_nobodys_name(tmp_path, syntax):
    path = _identified(tmp_path / f"{SECRET}.dcm", syntax=syntax)
    (record,) = read("dicom_studies", tmp_path)
    content = record.image.read()
    assert SECRET.encode() not in content
    for value in (b"19010203", b"20200102", b"1.2.3", b"091Y"):
        assert value not in content

    copy, source = pydicom.dcmread(io.BytesIO(content)), pydicom.dcmread(path)
    assert copy.PixelData == source.PixelData
    assert copy.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID == syntax
    for element in copy.iterall():
        assert element.keyword in KEPT | {"SOPInstanceUID", "PixelData"}
    # It looks the same, through rescaling and the table of its greys.
    np.testing.assert_array_equal(record.image.pixels()[..., 0], read_dicom(path))
    assert len(np.unique(record.image.pixels())) == 3


def test_nothing_of_a_record_says_whose_it_is(tmp_path):
    _identified(tmp_path / f"{SECRET}.dcm")
    (record,) = read("dicom_studies", tmp_path)
    for text in (repr(record), record.image.key, record.where):
        for value in (SECRET, str(tmp_path), "19010203", "20200102", "1.2.3", "091Y"):
            assert value not in text
    assert record.facts == {
        "type": "CT", "modality": "CT", "plane": "coronal", "location": "head", "sex": "female",
        "age": "90+",
    }  # fmt: skip
    assert record.questions == ()


def test_pseudonyms_hang_on_the_folders_key(tmp_path):
    for folder in ("a", "b"):
        _write(tmp_path / folder / "1", np.zeros((2, 2), np.uint8), PatientID="7")
        _write(tmp_path / folder / "2", np.zeros((2, 2), np.uint8), PatientID="7",
               SeriesInstanceUID="1.2.4")  # fmt: skip
        _write(tmp_path / folder / "3", np.zeros((2, 2), np.uint8), PatientID="8",
               SeriesInstanceUID="1.2.5")  # fmt: skip
        _write(tmp_path / folder / "4", np.zeros((2, 2), np.uint8), PatientID="",
               SeriesInstanceUID="1.2.6")  # fmt: skip
    first = read("dicom_studies", tmp_path / "a")
    one, same, other, unknown = [record.patient for record in first]
    assert one == same
    assert len({one, other, unknown}) == 3
    again = read("dicom_studies", tmp_path / "a")
    assert again == first
    assert [r.image.read() for r in again] == [r.image.read() for r in first]
    assert (tmp_path / "a" / KEY_FILE).stat().st_mode & 0o077 == 0
    # Another key gives other names; the same key gives the same.
    assert read("dicom_studies", tmp_path / "b")[0].patient != one
    shutil.copy(tmp_path / "a" / KEY_FILE, tmp_path / "b" / KEY_FILE)
    assert read("dicom_studies", tmp_path / "b")[0].patient == one
    (tmp_path / "b" / KEY_FILE).write_text("short")
    with pytest.raises(UserError, match="too short for a key"):
        read("dicom_studies", tmp_path / "b")


def test_the_middle_slice_stands_for_a_series_and_three_for_a_long_one(tmp_path):
    few = read("dicom_studies", _stack(tmp_path / "few", 5))
    many = read("dicom_studies", _stack(tmp_path / "deep" / "er" / "many", 32))
    assert _slices(few) == [2]
    assert _slices(many) == [8, 16, 24]
    assert {r.patient for r in many} == {many[0].patient}


def test_without_one_plane_the_numbers_order_a_series(tmp_path):
    orientations = (AXIAL, CORONAL, SAGITTAL)
    for i, orientation in enumerate(orientations):
        _write(tmp_path / f"{i}", np.full((2, 2), i, np.uint8), InstanceNumber=(30, 10, 20)[i],
               ImageOrientationPatient=orientation, ImagePositionPatient=[0, 0, i])  # fmt: skip
    (record,) = read("dicom_studies", tmp_path)
    assert _slices([record]) == [2]
    assert record.facts["plane"] == "sagittal"


def test_frames_of_an_enhanced_image_are_slices(tmp_path):
    pixels = np.arange(3 * 9, dtype=np.uint8).reshape(3, 3, 3)
    groups = [
        _sequence(
            PlanePositionSequence=_sequence(ImagePositionPatient=[0, 0, z]),
            PixelValueTransformationSequence=_sequence(RescaleSlope=1, RescaleIntercept=z),
        )[0]
        for z in (30, 10, 20)
    ]
    shared = _sequence(PlaneOrientationSequence=_sequence(ImageOrientationPatient=AXIAL))
    kept = {"SharedFunctionalGroupsSequence": shared,
            "PerFrameFunctionalGroupsSequence": pydicom.Sequence(groups)}  # fmt: skip
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        folder = tmp_path / syntax.name
        path = _write(folder / "x", pixels, syntax=syntax, **kept)
        (record,) = read("dicom_studies", folder)
        copy = pydicom.dcmread(io.BytesIO(record.image.read()))
        np.testing.assert_array_equal(copy.pixel_array, pixels[2])
        (group,) = copy.PerFrameFunctionalGroupsSequence
        assert group.PixelValueTransformationSequence[0].RescaleIntercept == 20
        assert "PlanePositionSequence" not in group
        np.testing.assert_array_equal(record.image.pixels()[..., 0], read_dicom(path, frame=2))
        assert record.facts["plane"] == "axial"


def test_a_frame_that_ends_within_a_byte_is_refused(tmp_path):
    bits = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    path = _write(tmp_path / "x", np.zeros((2, 2, 2), np.uint8), **bits)
    with pytest.raises(BadExample, match=r"x can't be read \(ValueError: its frames are no whole"):
        without_identity(path, 1, "abc")


@pytest.mark.parametrize(
    ("age", "years"),
    [("045Y", "45"), ("089Y", "89"), ("090Y", "90+"), ("102Y", "90+"), ("018M", "1"),
     ("012M", "1"), ("003W", "0"), ("400D", "1"), ("45", None), ("", None)],
)  # fmt: skip
def test_ages_are_years_and_the_oldest_one_group(tmp_path, age, years):
    _write(tmp_path / "x", np.zeros((2, 2), np.uint8), PatientAge=age)
    (record,) = read("dicom_studies", tmp_path)
    assert record.facts.get("age") == years


@pytest.mark.parametrize(
    ("part", "location"),
    [("HEAD", "head"), ("L SPINE", "lspine"), ("Chest", "chest"), ("ANYNAME", None), ("", None)],
)
def test_body_parts_are_codes_and_no_texts(tmp_path, part, location):
    _write(tmp_path / "x", np.zeros((2, 2), np.uint8), BodyPartExamined=part,
           ImageOrientationPatient=[1, 0, 0, 0, 0.7, 0.7])  # fmt: skip
    (record,) = read("dicom_studies", tmp_path)
    assert record.facts.get("location") == location
    assert record.facts["plane"] == "oblique"


def test_what_is_no_image_is_passed_over(tmp_path):
    _stack(tmp_path / "s", 1)
    shutil.copy(tmp_path / "s" / "00", tmp_path / "second copy")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "notes.txt").write_text("DRAWN DATA")
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID, report.Modality = BasicTextSRStorage, "1.9", "SR"
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.save_as(tmp_path / "report", enforce_file_format=True)
    _write(tmp_path / "seg", np.zeros((2, 2), np.uint8), Modality="SEG")
    assert len(read("dicom_studies", tmp_path)) == 1


def test_labels_become_questions_and_choose_slices_and_parts(tmp_path):
    _stack(tmp_path / "s", 5)
    _write(tmp_path / "t", np.full((2, 2), 9, np.uint8), PatientID="2", SeriesInstanceUID="1.5")
    # Slice 0 lies first by its position; its file is called 00.
    (tmp_path / "labels.csv").write_text(
        "path,SOPInstanceUID,SeriesInstanceUID,question,answer,split\n"
        "s/00,,,Is it dark?,yes,Train\n"
        ",1.2.3.4,,Which part?,the head,\n"
        ",,1.2.3,Whole series?,No,train\n"
        "t,,,Which?,other,valid\n"
    )
    records = read("dicom_studies", tmp_path)
    assert _slices(records) == [0, 2, 4, 9]
    asked = [[(q.question, q.answer, q.task) for q in r.questions] for r in records]
    whole = ("Whole series?", "No", "closed")
    assert asked == [
        [("Is it dark?", "yes", "closed"), whole],
        [whole],
        [("Which part?", "the head", "open"), whole],
        [("Which?", "other", "open")],
    ]
    # The part is the patient's: also of images whose labels don't say it.
    assert [r.split for r in records] == ["train"] * 3 + ["validation"]
    assert len({q.id for r in records for q in r.questions}) == 6


@pytest.mark.parametrize(
    ("row", "reason", "message"),
    [
        ("s/99,q,a,", "unknown image", "there is no DICOM image of path 's/99'"),
        (",q,a,", "missing key", "one of path, SOPInstanceUID, SeriesInstanceUID must name"),
        ("s/00,q,,", "empty answer", "the answer is empty"),
        ("s/00,,a,", "empty question", "the question is empty"),
        ("s/00,q,a,later", "unknown split", '"split" is .later.'),
        ("s/00,q,a,test", "split conflict", r"'test', but at .*labels\.csv:2 in 'train'"),
    ],
)
def test_bad_labels_are_named_by_line(tmp_path, row, reason, message):
    _stack(tmp_path / "s", 1)
    (tmp_path / "labels.csv").write_text(f"path,question,answer,split\ns/00,q,a,train\n{row}\n")
    with pytest.raises(UserError, match=rf"labels\.csv:3: .*{message}"):
        read("dicom_studies", tmp_path)
    assert faults("dicom_studies", tmp_path) == {reason: 1}


def test_burned_in_text_is_warned_of(tmp_path, caplog):
    for i, (modality, said) in enumerate((("CT", "YES"), ("US", ""), ("US", "NO"), ("CT", "NO"))):
        _write(tmp_path / f"{i}", np.zeros((2, 2), np.uint8), Modality=modality,
               BurnedInAnnotation=said, SeriesInstanceUID=f"1.{i}")  # fmt: skip
    with caplog.at_level(logging.WARNING):
        read("dicom_studies", tmp_path)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(
        "Of 4 DICOM images, 1 say that text is burned into their pixels, and 1"
    )


def test_damaged_files_are_named(tmp_path):
    path = _stack(tmp_path / "s", 1) / "00"
    (tmp_path / "text.dcm").write_text("DRAWN DATA")
    with pytest.raises(UserError, match=r"text\.dcm is not DICOM"):
        read("dicom_studies", tmp_path)
    content = path.read_bytes()
    (tmp_path / "cut").write_bytes(content[:-100])  # within the header
    (tmp_path / "cut short").write_bytes(content[:150])
    _write(tmp_path / "nameless", np.zeros((2, 2), np.uint8), SeriesInstanceUID="")
    assert faults("dicom_studies", tmp_path) == {"unreadable image": 1, "missing element": 3}
    # The header is whole, the pixels are not there.
    data = pydicom.dcmread(path)
    del data.PixelData
    data.save_as(path)
    with pytest.raises(BadExample, match=r"s/00 can't be read"):
        without_identity(path, None, "0")
    with pytest.raises(BadExample, match=r"s/01 does not exist"):
        without_identity(path.with_name("01"), None, "0")


def test_a_folder_without_images(tmp_path):
    with pytest.raises(UserError, match="holds no DICOM image"):
        read("dicom_studies", tmp_path)
    assert not (tmp_path / KEY_FILE).exists()
