import sys

import nibabel
import numpy as np
import pytest
from PIL import Image

from medjax.data.faults import BadExample
from medjax.data.image_files import ImageFile, image_file, read_image
from medjax.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
GREY = RNG.integers(0, 256, (5, 7)).astype(np.uint8)


def _grey3(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


def _read(image: Image.Image, path, **how) -> np.ndarray:
    image.save(path, **how)
    pixels = read_image(ImageFile(path))
    assert pixels.dtype == np.uint8
    return pixels


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "ppm", "gif"])
def test_formats_without_loss(tmp_path, suffix):
    how = {"lossless": True} if suffix == "webp" else {}
    image = Image.fromarray(RGB)
    if suffix == "gif":
        image = image.quantize(64)
    pixels = _read(image, tmp_path / f"x.{suffix}", **how)
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def test_jpeg(tmp_path):
    smooth = np.linspace(0, 255, 5 * 7 * 3).reshape(5, 7, 3).astype(np.uint8)
    pixels = _read(Image.fromarray(smooth), tmp_path / "x.jpg", quality=100, subsampling=0)
    assert np.abs(pixels.astype(int) - smooth).max() <= 3


def test_grey(tmp_path):
    np.testing.assert_array_equal(_read(Image.fromarray(GREY), tmp_path / "x.png"), _grey3(GREY))


def test_black_and_white(tmp_path):
    bits = GREY > 127
    pixels = _read(Image.fromarray(bits), tmp_path / "x.png")
    np.testing.assert_array_equal(pixels, _grey3(np.where(bits, 255, 0)))


def test_transparency_is_laid_on_black(tmp_path):
    alpha = np.array([0, 51, 255], np.uint8)
    rgba = np.concatenate([np.full((1, 3, 3), 200, np.uint8), alpha[None, :, None]], axis=2)
    pixels = _read(Image.fromarray(rgba), tmp_path / "x.png")
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 40, 200])
    grey_alpha = Image.fromarray(rgba).convert("LA")
    np.testing.assert_array_equal(_read(grey_alpha, tmp_path / "la.png")[0, :, 1], [0, 40, 200])


def test_palette_and_its_transparent_colour(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert _read(image, tmp_path / "x.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    pixels = _read(image, tmp_path / "y.png", transparency=1)
    assert pixels.tolist() == [[[10, 20, 30], [0, 0, 0]]]


def test_cmyk(tmp_path):
    cmyk = Image.new("CMYK", (2, 2), (255, 0, 0, 0))
    assert _read(cmyk, tmp_path / "x.tiff")[0, 0].tolist() == [0, 255, 255]


def test_sixteen_bit_grey_counts_to_65535(tmp_path):
    stored = np.array([[0, 257, 32896, 65535]], np.uint16)
    for suffix in ("png", "tiff"):
        pixels = _read(Image.fromarray(stored), tmp_path / f"x.{suffix}")
        np.testing.assert_array_equal(pixels, _grey3(np.array([[0, 1, 128, 255]])))


def test_a_window_shows_twelve_bits_of_sixteen(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.array([[0, 819, 4095, 65535]], np.uint16)).save(path)
    pixels = read_image(ImageFile(path, window=(0, 4095)))
    assert pixels[0, :, 0].tolist() == [0, 51, 255, 255]


def test_floating_point_grey_spans_its_own_range(tmp_path):
    stored = np.array([[-1.0, 0.0, 1.0, np.nan]], np.float32)
    pixels = _read(Image.fromarray(stored), tmp_path / "x.tiff")
    assert pixels[0, :, 0].tolist() == [0, 128, 255, 0]
    constant = np.full((2, 2), 7.0, np.float32)
    assert (_read(Image.fromarray(constant), tmp_path / "y.tiff") == 0).all()


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    pixels = _read(Image.fromarray(RGB), tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(pixels, np.rot90(RGB, -1))


def test_frames_of_a_tiff(tmp_path):
    path = tmp_path / "x.tiff"
    frames = [Image.fromarray(np.full((2, 2), value, np.uint8)) for value in (10, 20)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_image(ImageFile(path))[0, 0, 0] == 10
    assert read_image(ImageFile(path, frame=1))[0, 0, 0] == 20
    with pytest.raises(BadExample, match="has frames 0 to 1, none 2"):
        read_image(ImageFile(path, frame=2))


def test_a_nifti_slice(tmp_path):
    path = tmp_path / "x.nii.gz"
    volume = RNG.integers(0, 256, (4, 5, 6)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    file = image_file(path, {"axis": "axial", "slice": 2, "window": [0, 255]})
    np.testing.assert_array_equal(read_image(file), _grey3(np.rot90(volume[:, :, 2])[:, ::-1]))
    for axis, plane in enumerate(("sagittal", "coronal", "axial")):
        by_number = image_file(path, {"axis": axis, "slice": 1})
        assert by_number == image_file(path, {"axis": plane, "slice": 1})


def test_a_missing_file(tmp_path):
    with pytest.raises(BadExample, match=r"gone.png does not exist") as info:
        read_image(ImageFile(tmp_path / "gone.png"))
    assert info.value.reason == "missing image"


@pytest.mark.parametrize("suffix", ["png", "jpg", "nii", "nii.gz", "dcm", "tiff"])
@pytest.mark.parametrize("content", [b"", b"not an image at all" * 20])
def test_a_file_of_rubbish(tmp_path, suffix, content):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    file = image_file(path, {"axis": "axial", "slice": 0})
    with pytest.raises(BadExample, match=rf"x.{suffix} can't be read") as info:
        read_image(file)
    assert info.value.reason == "unreadable image"


@pytest.mark.parametrize("suffix", ["png", "jpg", "nii.gz"])
def test_a_file_cut_short(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    noise = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    if suffix == "nii.gz":
        nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), path)
    else:
        Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadExample, match="can't be read"):
        read_image(image_file(path, {"axis": "axial", "slice": 0}))


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("x.nii", {"slice": 3}, '"axis": one of sagittal, coronal, axial'),
        ("x.nii.gz", {"axis": "oblique", "slice": 3}, '"axis": one of sagittal'),
        ("x.nii", {"axis": True, "slice": 3}, '"axis": one of sagittal'),
        ("x.NII", {"axis": "axial"}, '"slice": a number from 0 on'),
        ("x.nii", {"axis": "axial", "slice": -1}, '"slice" is -1'),
        ("x.nii", {"axis": "axial", "slice": 1.5}, '"slice" is 1.5'),
        ("x.dcm", {"frame": "2"}, "\"frame\" is '2'"),
        ("x.dcm", {"frame": True}, '"frame" is True'),
        ("x.dcm", {"window": [1]}, r'"window" is \[1\]: write it as \[low, high\]'),
        ("x.dcm", {"window": [5, 5]}, '"window" is'),
        ("x.dcm", {"window": ["a", "b"]}, '"window" is'),
    ],
)
def test_rows_that_name_no_part_of_an_image(tmp_path, name, row, message):
    with pytest.raises(BadExample, match=message):
        image_file(tmp_path / name, row)


def test_a_plain_image_ignores_what_is_only_said_about_it(tmp_path):
    assert image_file(tmp_path / "x.png", {"axis": "long", "slice": "?"}) == ImageFile(
        tmp_path / "x.png"
    )


def test_keys_differ_between_parts_of_a_file(tmp_path):
    path = tmp_path / "x.nii"
    rows = [
        {"axis": axis, "slice": index, "window": window, "frame": frame}
        for axis in ("axial", "coronal")
        for index in (0, 1)
        for window in (None, [0, 1], [0, 2])
        for frame in (None, 0, 1)
    ]
    assert len({image_file(path, row).key for row in rows}) == len(rows)
    assert image_file(path, rows[0]).key == image_file(path, dict(rows[0])).key


def test_dicom_without_pydicom_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "x.dcm"
    path.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[medical\]'") as info:
        read_image(ImageFile(path))
    # No fault of the row: leaving such rows out would leave out all of them.
    assert not isinstance(info.value, BadExample)
