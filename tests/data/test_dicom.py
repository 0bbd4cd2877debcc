import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medjax.data.dicom import read_dicom
from medjax.data.faults import BadExample
from medjax.data.image_files import ImageFile, read_image


def _write(path, pixels: np.ndarray, photometric: str = "MONOCHROME2", **elements):
    """Writes stored values [rows, columns] or [frames, rows, columns] or [rows, columns, 3]."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    colours = photometric in ("RGB", "YBR_FULL")
    data.SamplesPerPixel = 3 if colours else 1
    if colours:
        data.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    data.Rows, data.Columns = pixels.shape[:2] if colours else pixels.shape[-2:]
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PhotometricInterpretation = photometric
    data.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def _sequence(**elements) -> pydicom.Sequence:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return pydicom.Sequence([item])


def _words(*values: int) -> bytes:
    return np.array(values, "<u2").tobytes()


ROW = np.array([[0, 1000, 1040, 1080, 4000]], np.int16)
CT = {"RescaleSlope": 1, "RescaleIntercept": -1000, "WindowCenter": 40, "WindowWidth": 81}


def test_rescale_and_linear_window(tmp_path):
    # PS3.3 C.11.2.1.2.1: y = ((x - (c - 0.5)) / (w - 1) + 0.5) * 255 between its ends.
    hounsfield = np.array([-1000, 0, 40, 80, 3000])
    expected = np.clip(((hounsfield - 39.5) / 80 + 0.5) * 255, 0, 255)
    image = read_dicom(_write(tmp_path / "x.dcm", ROW, **CT))
    np.testing.assert_array_equal(image[0], np.rint(expected))


def test_the_linear_window_is_that_of_pydicom(tmp_path):
    pixels = np.arange(-50, 150, dtype=np.int16).reshape(10, 20)
    path = _write(tmp_path / "x.dcm", pixels, WindowCenter=40, WindowWidth=80)
    theirs = pydicom.pixels.apply_windowing(pixels, pydicom.dcmread(path))
    low, high = theirs.min(), theirs.max()
    np.testing.assert_array_equal(read_dicom(path), np.rint((theirs - low) / (high - low) * 255))


def test_linear_exact_and_sigmoid_windows(tmp_path):
    hounsfield = np.array([-1000, 0, 40, 80, 3000])
    exact = _write(tmp_path / "x.dcm", ROW, VOILUTFunction="LINEAR_EXACT", **CT)
    expected = np.clip((hounsfield - 40) / 81 + 0.5, 0, 1) * 255
    np.testing.assert_array_equal(read_dicom(exact)[0], np.rint(expected))
    sigmoid = _write(tmp_path / "y.dcm", ROW, VOILUTFunction="SIGMOID", **CT)
    expected = 255 / (1 + np.exp(-4 * (hounsfield - 40) / 81))
    np.testing.assert_array_equal(read_dicom(sigmoid)[0], np.rint(expected))


def test_the_first_of_several_windows(tmp_path):
    several = CT | {"WindowCenter": [40, -600], "WindowWidth": [81, 1500]}
    one, two = _write(tmp_path / "x.dcm", ROW, **CT), _write(tmp_path / "y.dcm", ROW, **several)
    np.testing.assert_array_equal(read_dicom(one), read_dicom(two))


def test_a_window_of_ones_own(tmp_path):
    path = _write(tmp_path / "x.dcm", ROW, **CT)
    assert read_dicom(path, window=(-1000, 50)).tolist() == [[0, 243, 253, 255, 255]]


def test_monochrome1_is_inverted(tmp_path):
    path = _write(tmp_path / "x.dcm", ROW, **CT)
    inverted = _write(tmp_path / "y.dcm", ROW, "MONOCHROME1", **CT)
    np.testing.assert_array_equal(read_dicom(inverted), 255 - read_dicom(path))


def test_without_a_window_the_range_of_the_frame(tmp_path):
    path = _write(tmp_path / "x.dcm", np.array([[-5, 0, 5]], np.int16))
    assert read_dicom(path).tolist() == [[0, 128, 255]]


def test_voi_and_modality_lut(tmp_path):
    lut = _sequence(LUTDescriptor=[3, 1, 8], LUTData=_words(0, 100, 255))
    path = _write(tmp_path / "x.dcm", np.array([[0, 1, 2, 3, 9]], np.uint8), VOILUTSequence=lut)
    assert read_dicom(path).tolist() == [[0, 0, 100, 255, 255]]
    lut = _sequence(LUTDescriptor=[3, 0, 16], LUTData=_words(0, 400, 1000), ModalityLUTType="US")
    path = _write(tmp_path / "y.dcm", np.array([[0, 1, 2]], np.uint8), ModalityLUTSequence=lut)
    assert read_dicom(path).tolist() == [[0, 102, 255]]


def test_frames(tmp_path):
    pixels = np.stack([np.full((2, 2), 10, np.uint8), np.full((2, 2), 20, np.uint8)])
    path = _write(tmp_path / "x.dcm", pixels)
    assert read_dicom(path, 1, (0, 255))[0, 0] == 20
    with pytest.raises(BadExample, match='holds 2 frames: say which with "frame": 0 to 1'):
        read_dicom(path)
    with pytest.raises(BadExample, match="has frames 0 to 1, none 2"):
        read_dicom(path, 2)


def test_functional_groups_of_an_enhanced_image(tmp_path):
    rescale = {"RescaleSlope": 2, "RescaleIntercept": -10}
    shared = _sequence(PixelValueTransformationSequence=_sequence(**rescale))
    frames = pydicom.Sequence(
        _sequence(
            FrameVOILUTSequence=_sequence(
                WindowCenter=center, WindowWidth=100, VOILUTFunction="LINEAR_EXACT"
            )
        )[0]
        for center in (50, 150)
    )
    pixels = np.full((2, 1, 1), 40, np.uint8)  # 70 after rescaling
    path = _write(
        tmp_path / "x.dcm",
        pixels,
        SharedFunctionalGroupsSequence=shared,
        PerFrameFunctionalGroupsSequence=frames,
    )
    assert read_dicom(path, 0).tolist() == [[round(0.7 * 255)]]
    assert read_dicom(path, 1).tolist() == [[0]]


def test_colours(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(read_dicom(_write(tmp_path / "x.dcm", rgb, "RGB")), rgb)
    ybr = np.full((1, 1, 3), [150, 128, 128], np.uint8)  # without chroma: a grey
    assert read_dicom(_write(tmp_path / "y.dcm", ybr, "YBR_FULL")).tolist() == [[[150] * 3]]


def test_palette(tmp_path):
    table = np.array([0, 65535], np.uint16)
    luts = {}
    for colour in ("Red", "Green", "Blue"):
        luts[f"{colour}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        data = table if colour == "Red" else table[::-1]
        luts[f"{colour}PaletteColorLookupTableData"] = data.tobytes()
    path = _write(tmp_path / "x.dcm", np.array([[0, 1]], np.uint8), "PALETTE COLOR", **luts)
    assert read_dicom(path).tolist() == [[[0, 255, 255], [255, 0, 0]]]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("CT_small.dcm", (128, 128)), ("MR_small.dcm", (64, 64))],
)
def test_files_of_real_scanners(name, shape):
    image = read_dicom(get_testdata_file(name, download=False))
    assert image.shape == shape
    assert image.std() > 20


@pytest.mark.parametrize("how", ["RLE", "jpeg_ls_lossless", "jp2klossless"])
def test_compressed_files(how):
    compressed, plain = (
        read_dicom(get_testdata_file(f"{name}.dcm", download=False))
        for name in (f"MR_small_{how}", "MR_small")
    )
    np.testing.assert_array_equal(compressed, plain)


def test_a_dicom_file_without_an_extension(tmp_path):
    path = _write(tmp_path / "IM0001", ROW, **CT)
    image = read_image(ImageFile(path))
    assert image.shape == (1, 5, 3)
    np.testing.assert_array_equal(image[..., 1], read_dicom(path))


def test_a_report_is_no_image():
    with pytest.raises(BadExample, match="a DICOM file without an image"):
        read_dicom(get_testdata_file("test-SR.dcm", download=False))
