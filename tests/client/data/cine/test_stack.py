"""Files -> a 4-D volume: the order of slices and phases, whatever the files are called."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client.data.cine import CINE
from fl_client.data.findings import UnreadableError

sys.path.insert(0, str(Path(__file__).parent))
from mr_files import (
    COLUMN,
    DISTANCE,
    NORMAL,
    ROW,
    SPACING,
    ds,
    header,
    mapped,
    opened,
    place,
    read,
    save,
    uid,
    volume,
    write_cine,
    write_enhanced,
    write_scouts,
    write_still,
)


def refused(root: Path, named: str = "p", **keys) -> UnreadableError:
    with pytest.raises(UnreadableError) as error:
        opened(root, named, **keys).voxels()
    return error.value


def test_nine_slices_of_25_phases_shuffled_over_225_files_become_4d_exactly(tmp_path):
    truth = volume(25, 9)
    files = write_cine(tmp_path / "p", truth, subfolders=True)
    (tmp_path / "p" / "README.txt").write_text("not an image")
    (tmp_path / "p" / "d1" / "Thumbs.db").write_bytes(b"\0" * 300)
    cine = opened(tmp_path)
    assert len(files) == 225
    assert cine.shape == (25, 9, 14, 12)
    np.testing.assert_array_equal(cine.voxels(), truth.astype(np.float32))
    assert cine.spacing == (*SPACING, pytest.approx(DISTANCE, abs=1e-3))
    assert cine.repairs == ("other files in the folder left out",)
    corner = cine.affine @ [11, 13, 8, 1]
    expected = place(8) + 11 * SPACING[1] * ROW + 13 * SPACING[0] * COLUMN
    np.testing.assert_allclose(corner[:3], expected, atol=0.01)


@pytest.mark.parametrize("times", ["TriggerTime", "TemporalPositionIdentifier", None])
def test_phases_are_ordered_by_trigger_time_else_temporal_position_else_number(tmp_path, times):
    truth = volume(12, 3)
    write_cine(tmp_path / "p", truth, times=times, CardiacNumberOfImages=12)
    np.testing.assert_array_equal(opened(tmp_path).voxels(), truth)


def test_equal_trigger_times_give_way_to_the_temporal_position(tmp_path):
    truth = volume(12, 2)
    write_cine(tmp_path / "p", truth, times="TemporalPositionIdentifier", TriggerTime="0")
    np.testing.assert_array_equal(opened(tmp_path).voxels(), truth)


def test_slices_in_series_of_their_own_are_stacked(tmp_path):
    truth = volume(10, 6)
    write_cine(tmp_path / "p", truth, a_series_a_slice=True)
    np.testing.assert_array_equal(opened(tmp_path).voxels(), truth)


def test_directions_that_differ_in_the_last_digit_are_one_stack(tmp_path):
    # a Sunnybrook patient has 0.0220038 in eleven slices and 0.0220039 in one
    truth = volume(8, 3)
    write_cine(tmp_path / "p", truth[:, :2])
    write_cine(tmp_path / "p", truth[:, 2:], names="other{}", levels=np.array([2]), SOPInstanceUID=None,
               ImageOrientationPatient=ds(*ROW, 0.0220039, *COLUMN[1:]))  # fmt: skip
    np.testing.assert_array_equal(opened(tmp_path).voxels(), truth)


@pytest.mark.parametrize("phase", [0, 4, 9])
def test_a_missing_phase_is_ragged_and_not_filled(tmp_path, phase):
    write_cine(tmp_path / "p", volume(10, 4), skip=((phase, 2),))
    error = refused(tmp_path)
    assert error.check == "ragged-phases"
    assert "[9, 10]" in error.detail


def test_a_phase_missing_in_every_slice_is_counted(tmp_path):
    truth = volume(12, 2)
    write_cine(tmp_path / "p", truth, skip=((5, 0), (5, 1)))
    cine = opened(tmp_path)
    assert cine.shape[0] == 11
    assert "uneven phase times" in cine.repairs


def test_a_missing_slice_is_counted(tmp_path):
    write_cine(tmp_path / "p", volume(8, 5), levels=np.array([0, 1, 2, 4, 5]))
    cine = opened(tmp_path)
    assert "uneven slice distances" in cine.repairs
    assert cine.spacing[2] == pytest.approx(DISTANCE, abs=1e-3)


def test_slices_run_from_base_to_apex_whichever_way_they_were_taken(tmp_path):
    truth = volume(8, 4)
    write_cine(tmp_path / "p", truth, levels=np.arange(4)[::-1])
    np.testing.assert_array_equal(opened(tmp_path).voxels(), truth[:, ::-1])


def test_copies_of_files_do_not_count_twice(tmp_path):
    truth = volume(8, 2)
    files = write_cine(tmp_path / "p", truth)
    for path in files[:5]:
        shutil.copyfile(path, tmp_path / "p" / f"copy of {path.name}")
    np.testing.assert_array_equal(opened(tmp_path).voxels(), truth)


def test_different_images_under_one_identifier_are_refused(tmp_path):
    write_cine(tmp_path / "p", volume(8, 2), SOPInstanceUID=uid("the same for all"))
    assert refused(tmp_path).check == "dicom-same-identifier"


def test_files_of_two_patients_in_one_folder_are_refused(tmp_path):
    write_cine(tmp_path / "p", volume(8, 2))
    write_still(tmp_path / "p" / "other", volume(1, 1)[0, 0], PatientID="X2")
    assert refused(tmp_path).check == "patients-mixed"


@pytest.mark.parametrize("trigger", [True, False])
def test_enhanced_frames_take_their_own_slope_place_and_time(tmp_path, trigger):
    truth = volume(9, 3)
    rng = np.random.default_rng(4)
    slopes, intercepts = rng.uniform(0.5, 3, (9, 3)).round(4), rng.uniform(-50, 50, (9, 3)).round(2)
    write_enhanced(tmp_path / "p.dcm", truth, slopes=slopes, intercepts=intercepts, trigger=trigger)
    cine = opened(tmp_path, "p.dcm")
    expected = truth * slopes[..., None, None] + intercepts[..., None, None]
    np.testing.assert_allclose(cine.voxels(), expected, rtol=1e-6, atol=1e-3)
    assert np.abs(cine.voxels() - truth).max() > 100  # pydicom's apply_rescale would give these


def test_classic_slope_and_monochrome1(tmp_path):
    truth = volume(8, 2)
    write_cine(
        tmp_path / "p", truth, RescaleSlope="2.5", RescaleIntercept="-7", PhotometricInterpretation="MONOCHROME1"
    )
    np.testing.assert_allclose(opened(tmp_path).voxels(), (4095.0 - truth) * 2.5 - 7)


def test_the_stack_with_most_slices_is_the_cine(tmp_path):
    truth = volume(8, 5)
    write_cine(tmp_path / "p", truth, series=7, names="sax{}")
    write_cine(tmp_path / "p", volume(25, 1, seed=9), series=9, names="mid{}", SeriesDescription="cine sax realtime")
    four = {"SeriesDescription": "cine 4ch", "ImageOrientationPatient": ds(0, 1, 0, 0, 0, -1)}
    write_cine(tmp_path / "p", volume(8, 7, seed=8), series=11, names="lax{}", **four)
    write_scouts(tmp_path / "p")
    np.testing.assert_array_equal(opened(tmp_path).voxels(), truth)
    assert opened(tmp_path, series="realtime").shape[0] == 25


def test_of_two_stacks_alike_the_later_is_taken_and_counted(tmp_path):
    late = volume(8, 3, seed=5)
    write_cine(tmp_path / "p", late, series=20, names="b{}")
    write_cine(tmp_path / "p", volume(8, 3), series=10, names="c{}")
    cine = opened(tmp_path)
    np.testing.assert_array_equal(cine.voxels(), late)
    assert "several cine stacks alike: the latest series is taken" in cine.repairs


def test_one_slice_has_its_thickness_as_distance(tmp_path):
    write_cine(tmp_path / "p", volume(8, 1))
    assert opened(tmp_path).spacing[2] == 6.0
    write_cine(tmp_path / "q", volume(8, 1), SliceThickness=None)
    assert refused(tmp_path, "q").check == "geometry-missing"


@pytest.mark.parametrize(
    ("elements", "check"),
    [
        ({"PixelSpacing": None}, "geometry-missing"),
        ({"ImageOrientationPatient": ["0"] * 6}, "geometry-invalid"),
        ({"ImageOrientationPatient": None}, "not-cine"),
        ({"RescaleSlope": "0"}, "dicom-rescale"),
        ({"RescaleSlope": "1e39"}, "dicom-rescale"),
        ({"SamplesPerPixel": 3}, "image-colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "image-colour"),
    ],
)
def test_what_a_stack_cannot_do_without(tmp_path, elements, check):
    write_cine(tmp_path / "p", volume(8, 2), **elements)
    assert refused(tmp_path).check == check


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), names=st.sampled_from(["{:d}.dcm", "IM-0001-{:04d}", "s{0:03d}/x", "{:x}"]))
def test_permuted_and_renamed_files_give_the_same_arrays(seed, names):
    truth = volume(8, 4)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_cine(root / "a", truth)
        write_cine(root / "b", truth, seed=seed, names=names)
        first, second = read(root, "a"), read(root, "b")
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[name], strict=True)


def test_a_single_image_has_no_phases(tmp_path):
    save(header(InstanceNumber=1, ImagePositionPatient=ds(*place(0))), tmp_path / "p.dcm", volume(1, 1)[0, 0])
    assert refused(tmp_path, "p.dcm").check == "not-cine"


def test_all_files_of_a_folder_make_the_key_of_the_cache(tmp_path):
    files = write_cine(tmp_path / "p", volume(8, 2), subfolders=True)
    assert list(CINE.files(tmp_path, "p", mapped())) == sorted(files)
    assert abs(NORMAL @ ROW) < 1e-6
