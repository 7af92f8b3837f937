"""NIfTI cines and label maps."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client.data.cine import CINE, open_cine, read_masks
from fl_client.data.cine import nifti as limits
from fl_client.data.findings import UnreadableError

sys.path.insert(0, str(Path(__file__).parent))
from mr_files import COLUMN, DISTANCE, NORMAL, ORIGIN, ROW, SPACING, ds, mapped, plan, volume, write_cine

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine() -> np.ndarray:
    """(column, row, slice) -> RAS mm, of the stack that `write_cine` writes."""
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = ROW * SPACING[1], COLUMN * SPACING[0], NORMAL * DISTANCE
    lps[:3, 3] = ORIGIN
    return LPS @ lps


def write(path: Path, values: np.ndarray, *, at: np.ndarray | None = None, turn=(), order=(0, 1, 2), **header) -> Path:
    """values (phases, slices, rows, columns); axes of the file (column, row, slice) are flipped and swapped."""
    at = affine() if at is None else at
    array = values.transpose(3, 2, 1, 0)
    shift = np.eye(4)
    for axis in turn:
        array = np.flip(array, axis)
        shift[axis, axis], shift[axis, 3] = -1, array.shape[axis] - 1
    swap = np.zeros((4, 4))
    swap[3, 3] = 1
    for new, old in enumerate(order):
        swap[old, new] = 1
    image = nib.Nifti1Image(np.ascontiguousarray(array.transpose(*order, 3)), at @ shift @ swap)
    image.header.set_xyzt_units("mm", "msec")
    for key, value in header.items():
        image.header[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def patch(path: Path, at: int, value: int) -> None:
    """Set 16 bits of a written file; nibabel would not write them so."""
    content = bytearray(path.read_bytes())
    content[at : at + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)


def without_orientation(path: Path) -> None:
    patch(path, 252, 0)  # qform_code
    patch(path, 254, 0)  # sform_code


def opened(root: Path, named: str):
    return open_cine(root, named, mapped())


def refused(root: Path, named: str) -> str:
    with pytest.raises(UnreadableError) as error:
        opened(root, named)
    return error.value.check


@pytest.mark.parametrize("name", ["p.nii", "p.nii.gz"])
@pytest.mark.parametrize("turn", [(), (1,), (0, 2), (0, 1, 2)])
def test_a_converted_file_gives_what_its_dicom_source_gives(tmp_path, name, turn):
    truth = volume(10, 4)
    write_cine(tmp_path / "d", truth)
    write(tmp_path / name, truth.astype(np.int16), turn=turn)
    dicom, nifti = opened(tmp_path, "d"), opened(tmp_path, name)
    np.testing.assert_array_equal(nifti.voxels(), dicom.voxels())
    np.testing.assert_allclose(nifti.affine, dicom.affine, atol=0.02)
    assert nifti.spacing == pytest.approx(dicom.spacing, abs=1e-3)
    arrays = [dict(CINE.read(tmp_path, n, plan=plan(), mapped=mapped()).arrays) for n in ("d", name)]
    np.testing.assert_array_equal(arrays[0]["video"], arrays[1]["video"])


def test_slope_units_and_floats(tmp_path):
    truth = volume(8, 2)
    metres = affine().copy()
    metres[:3] /= 1000
    image = nib.Nifti1Image(truth.astype(np.int16).transpose(3, 2, 1, 0), metres)
    image.header.set_xyzt_units("meter", "sec")
    image.header.set_slope_inter(2.0, -5.0)
    nib.save(image, tmp_path / "p.nii")
    cine = opened(tmp_path, "p.nii")
    assert cine.spacing == pytest.approx((*SPACING, DISTANCE), rel=1e-4)
    np.testing.assert_allclose(cine.voxels(), np.asanyarray(nib.load(tmp_path / "p.nii").dataobj).transpose(3, 2, 1, 0))
    write(tmp_path / "f.nii", truth.astype(np.float32) / 7)
    np.testing.assert_array_equal(opened(tmp_path, "f.nii").voxels(), truth.astype(np.float32) / 7)


def test_nifti_2_is_read(tmp_path):
    truth = volume(8, 2)
    nib.save(nib.Nifti2Image(truth.astype(np.int16).transpose(3, 2, 1, 0), affine()), tmp_path / "p.nii")
    np.testing.assert_array_equal(opened(tmp_path, "p.nii").voxels(), truth)


def test_a_file_without_orientation_is_taken_as_stored_and_counted(tmp_path):
    truth = volume(8, 2)
    without_orientation(write(tmp_path / "p.nii", truth.astype(np.int16)))
    cine = opened(tmp_path, "p.nii")
    np.testing.assert_array_equal(cine.voxels(), truth)
    assert cine.affine is None
    assert cine.repairs == ("no orientation in the NIfTI file: taken as stored",)


def test_what_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "still.nii", volume(1, 4).astype(np.int16))
    assert refused(tmp_path, "still.nii") == "not-cine"
    values = volume(8, 2).astype(np.float32)
    values[0, 0, 0, 0] = np.nan
    write(tmp_path / "nan.nii", values)
    assert refused(tmp_path, "nan.nii") == "image-format"
    write(tmp_path / "complex.nii", volume(8, 2).astype(np.complex64))
    assert refused(tmp_path, "complex.nii") == "image-format"
    write(tmp_path / "zooms.nii", volume(8, 2).astype(np.int16), pixdim=[1, 9, 9, 9, 1, 0, 0, 0])
    assert refused(tmp_path, "zooms.nii") == "geometry-invalid"
    image = nib.Nifti1Image(volume(8, 2).astype(np.int16).transpose(3, 2, 1, 0), affine())
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PatientName"))
    nib.save(image, tmp_path / "dicom.nii")
    patch(tmp_path / "dicom.nii", 356, 2)  # the extension's code: a DICOM header
    assert refused(tmp_path, "dicom.nii") == "identity-nifti-extension"
    (tmp_path / "text.nii").write_text("no header")
    assert refused(tmp_path, "text.nii") == "nifti-unreadable"
    assert refused(tmp_path, "absent.nii") == "file-missing"


def test_archives_cannot_fill_the_memory(tmp_path, monkeypatch):
    huge = nib.Nifti1Header()
    huge.set_data_shape((32000, 32000, 2, 30))
    (tmp_path / "p.nii.gz").write_bytes(gzip.compress(huge.binaryblock + b"\0" * 4000))
    assert refused(tmp_path, "p.nii.gz") == "image-too-large"
    monkeypatch.setattr(limits, "MAX_BYTES", 2**20)
    (tmp_path / "zeros.nii.gz").write_bytes(gzip.compress(b"\0" * 2**24))
    assert (tmp_path / "zeros.nii.gz").stat().st_size < 20_000
    assert refused(tmp_path, "zeros.nii.gz") == "image-too-large"


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damage_never_passes_in_an_archive(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "damage"
    folder.mkdir(exist_ok=True)
    if not (folder / "whole.nii.gz").exists():
        write(folder / "whole.nii.gz", volume(8, 2).astype(np.int16))
    whole = (folder / "whole.nii.gz").read_bytes()
    content = bytearray(whole)
    at = data.draw(st.integers(10, len(whole) - 1))  # the first ten bytes are gzip's own: time, system, flags
    content[at] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        content = content[:at]
    (folder / "p.nii.gz").write_bytes(content)
    with pytest.raises(UnreadableError):
        opened(folder, "p.nii.gz")


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_headers_raise_nothing_but_unreadable(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "headers"
    folder.mkdir(exist_ok=True)
    content = bytearray(write(folder / "p.nii", volume(8, 2).astype(np.int16)).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, 351))] = data.draw(st.integers(0, 255))
    (folder / "p.nii").write_bytes(content)
    try:
        cine = opened(folder, "p.nii")
        assert cine.voxels().shape == cine.shape
    except UnreadableError:
        pass


def labels() -> np.ndarray:
    """Labels 0, 1, 2, 3 in phases 0 and 4 of 10, no symmetry."""
    drawn = np.zeros((10, 4, 14, 12), dtype=np.uint8)
    drawn[0, 1:, 3:9, 2:7] = 1
    drawn[4, 1:3, 4:6, 2:5] = 2
    drawn[4, 3, 9:11, 7] = 3
    return drawn


def masks(root: Path, named: str, of: str = "d"):
    return read_masks(root, of, named, plan=plan(frames=5, slices=4, size=32), mapped=mapped())


def masks_refused(root: Path, named: str, of: str = "d") -> str:
    with pytest.raises(UnreadableError) as error:
        masks(root, named, of)
    return error.value.check


@pytest.mark.parametrize("turn", [(), (0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_label_maps_are_brought_into_the_cines_order(tmp_path, turn, order):
    write_cine(tmp_path / "d", volume(10, 4))
    write(tmp_path / "m.nii.gz", labels(), turn=turn, order=order)
    found = masks(tmp_path, "m.nii.gz")
    np.testing.assert_array_equal(found.native, labels())
    assert found.annotated.any(axis=1).nonzero()[0].tolist() == [0, 4]
    assert found.annotated[0].all()  # a map tells of every slice
    assert found.grid_annotated.any(axis=1).nonzero()[0].tolist() == [0, 2]
    assert set(np.unique(found.grid_labels[2])) == {0, 2, 3}


@pytest.mark.parametrize("turn", [(), (0, 1)])
@pytest.mark.parametrize("column", [-1, 1])
def test_label_maps_of_a_cine_whose_axes_run_the_other_way(tmp_path, turn, column):
    # a Sunnybrook patient's columns run to the right: read_nifti turns the map, the cine stays as the scanner made it
    write_cine(tmp_path / "d", volume(10, 4), ImageOrientationPatient=ds(*-ROW, *column * COLUMN))
    at = affine() @ np.diag([-1.0, column, 1.0, 1.0])
    write(tmp_path / "m.nii.gz", labels(), at=at, turn=turn)
    np.testing.assert_array_equal(masks(tmp_path, "m.nii.gz").native, labels())


def test_single_phases_are_placed_by_the_frame_in_their_names(tmp_path):
    write_cine(tmp_path / "d", volume(10, 4))
    for phase in (0, 4):
        write(tmp_path / "m" / f"patient_frame{phase + 1:02d}_gt.nii.gz", labels()[phase : phase + 1])
    found = masks(tmp_path, "m")
    np.testing.assert_array_equal(found.native, labels())
    assert found.annotated.any(axis=1).nonzero()[0].tolist() == [0, 4]


def test_a_map_of_a_nifti_cine(tmp_path):
    write(tmp_path / "d.nii.gz", volume(10, 4).astype(np.int16), turn=(1,))
    write(tmp_path / "m.nii.gz", labels())
    np.testing.assert_array_equal(masks(tmp_path, "m.nii.gz", "d.nii.gz").native, labels())


def test_maps_that_do_not_fit_are_refused(tmp_path):
    write_cine(tmp_path / "d", volume(10, 4))
    moved = affine()
    moved[:3, 3] += 3.0
    write(tmp_path / "moved.nii", labels(), at=moved)
    assert masks_refused(tmp_path, "moved.nii") == "mask-geometry"
    write(tmp_path / "fewer.nii", labels()[:, 1:])
    assert masks_refused(tmp_path, "fewer.nii") == "mask-geometry"
    without_orientation(write(tmp_path / "lost.nii", labels()))
    assert masks_refused(tmp_path, "lost.nii") == "mask-geometry"
    write(tmp_path / "phases.nii", labels()[:7])
    assert masks_refused(tmp_path, "phases.nii") == "mask-phases"
    write(tmp_path / "one.nii", labels()[:1])
    assert masks_refused(tmp_path, "one.nii") == "mask-phases"
    write(tmp_path / "frame11.nii", labels()[:1])
    assert masks_refused(tmp_path, "frame11.nii") == "mask-phases"
    write(tmp_path / "half.nii", labels().astype(np.float32) / 2)
    assert masks_refused(tmp_path, "half.nii") == "mask-values"
    write(tmp_path / "empty.nii", np.zeros_like(labels()))
    assert masks_refused(tmp_path, "empty.nii") == "mask-empty"
