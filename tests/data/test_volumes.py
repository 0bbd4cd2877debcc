import nibabel
import numpy as np
import pytest

from medjax.data.faults import BadExample
from medjax.data.volumes import load_ras, read_nifti_slice, slice_for_display

# A volume [right 2, front 3, top 4] whose voxel (x, y, z) holds 100 x + 10 y + z.
VOLUME = np.add.outer(np.add.outer([0, 100], [0, 10, 20]), [0, 1, 2, 3])


def test_axial_slices_have_the_front_up_and_the_right_on_the_left():
    expected = [[122, 22], [112, 12], [102, 2]]
    assert slice_for_display(VOLUME, "axial", 2).tolist() == expected


def test_coronal_slices_have_the_top_up_and_the_right_on_the_left():
    expected = [[113, 13], [112, 12], [111, 11], [110, 10]]
    assert slice_for_display(VOLUME, "coronal", 1).tolist() == expected


def test_sagittal_slices_have_the_top_up_and_face_left():
    expected = [[123, 113, 103], [122, 112, 102], [121, 111, 101], [120, 110, 100]]
    assert slice_for_display(VOLUME, "sagittal", 1).tolist() == expected


@pytest.fixture
def stored_otherwise(tmp_path):
    """VOLUME in a file whose axes run down, left, front."""
    stored = np.flip(np.moveaxis(VOLUME, (2, 0, 1), (0, 1, 2)), (0, 1)).astype(np.int16)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = -1, -1, 1, 1
    assert nibabel.aff2axcodes(affine) == ("I", "L", "A")
    path = tmp_path / "volume.nii.gz"
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)
    return path


def test_a_file_is_turned_into_ras_order(stored_otherwise):
    np.testing.assert_array_equal(np.asarray(load_ras(stored_otherwise).dataobj), VOLUME)


def test_a_slice_of_a_file_within_a_window(stored_otherwise):
    image = read_nifti_slice(stored_otherwise, "axial", 2, window=(2, 122))
    assert image.dtype == np.uint8
    expected = np.rint((np.array([[122, 22], [112, 12], [102, 2]]) - 2) / 120 * 255)
    np.testing.assert_array_equal(image, expected)


def test_without_a_window_all_slices_of_a_volume_share_one(tmp_path):
    volume = np.zeros((10, 10, 10), np.float32)
    volume[..., 5:] = 50
    volume[..., 9] = 100
    volume[0, 0, 0] = 1e6  # one voxel in a thousand does not darken the rest
    volume[0, 0, 1] = np.nan
    path = tmp_path / "volume.nii"
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    assert (read_nifti_slice(path, "axial", 6) == 128).all()
    assert (read_nifti_slice(path, "axial", 9) == 255).all()
    assert (read_nifti_slice(path, "axial", 1) == 0).all()


def test_frames_of_a_fourth_axis(tmp_path):
    volume = np.stack([np.full((2, 2, 2), value, np.uint8) for value in (10, 20, 30)], axis=-1)
    path = tmp_path / "series.nii"
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    shown = [read_nifti_slice(path, "axial", 0, frame, (0, 255))[0, 0] for frame in range(3)]
    assert shown == [10, 20, 30]
    with pytest.raises(BadExample, match="has frames 0 to 2, none 3"):
        read_nifti_slice(path, "axial", 0, 3)


def test_no_such_slice(stored_otherwise):
    with pytest.raises(BadExample, match="has coronal slices 0 to 2, none 3") as info:
        read_nifti_slice(stored_otherwise, "coronal", 3)
    assert info.value.reason == "no such slice"


def test_no_volume_in_the_file(tmp_path):
    path = tmp_path / "plane.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4), np.uint8), np.eye(4)), path)
    with pytest.raises(BadExample, match=r"plane.nii has shape \(4, 4\)"):
        read_nifti_slice(path, "axial", 0)
    path = tmp_path / "nan.nii"
    nibabel.save(nibabel.Nifti1Image(np.full((2, 2, 2), np.nan, np.float32), np.eye(4)), path)
    with pytest.raises(BadExample, match="no finite number"):
        read_nifti_slice(path, "axial", 0)
