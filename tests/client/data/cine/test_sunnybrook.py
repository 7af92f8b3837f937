"""Three patients of the Sunnybrook cardiac data, with the contours of an expert (CC0, Radau et al. 2009)."""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from fl_client.data.cine import CINE, open_cine, read_masks, ventricle
from fl_client.data.cine.contours import read_contours
from fl_client.data.cine.files import sample_files

sys.path.insert(0, str(Path(__file__).parent))
from mr_files import mapped, plan

SOURCE = Path(__file__).resolve().parents[4].parent / "shared" / "data" / "sunnybrook-cine"
PATIENTS = {"SCD0000101": (12, 10.0), "SCD0000201": (13, 10.0), "SCD0000401": (11, 8.0)}  # slices, mm between them
FRACTIONS = {"SCD0000101": (191.4, 141.1), "SCD0000201": (241.5, 180.2), "SCD0000401": (202.0, 135.3)}  # mL, seen here

pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason="shared data are not here")
each = pytest.mark.parametrize("patient", PATIENTS)


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sunnybrook")
    with tarfile.open(SOURCE / "dicoms.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for _, row in pd.read_csv(SOURCE / "link.csv").iterrows():
        shutil.copytree(SOURCE / "contours" / row["original_id"], folder / "contours" / row["patient_id"])
    return folder


def cine(root: Path, patient: str):
    return open_cine(root, f"dicoms/{patient}", mapped())


def masks(root: Path, patient: str, **keys):
    of = plan(**{"frames": 16, "slices": 8, "size": 64, **keys})
    return read_masks(root, f"dicoms/{patient}", f"contours/{patient}", plan=of, mapped=mapped())


@each
def test_a_patient_is_a_4d_volume_in_the_scanners_order(root, patient):
    slices, distance = PATIENTS[patient]
    found = cine(root, patient)
    assert found.shape == (20, slices, 256, 256)
    assert found.spacing == pytest.approx((1.3672, 1.3672, distance), abs=2e-3)
    # by the release's numbers: 20 phases a slice, one slice after another
    named = {(p, s): number for number, (p, s) in found.images().items()}
    order = np.array([[named[p, s] for s in range(slices)] for p in range(20)])
    blocks = (order - 1) // 20
    assert (np.diff(order, axis=0) == 1).all()
    assert (blocks == blocks[0]).all()
    assert sorted(blocks[0]) == list(range(slices))
    voxels = found.voxels()
    for phase, level in ((0, 0), (7, 3), (19, slices - 1)):
        image = pydicom.dcmread(root / "dicoms" / patient / f"{order[phase, level]}.dcm")
        np.testing.assert_array_equal(voxels[phase, level], image.pixel_array)


@each
def test_every_contour_lands_on_its_slice_and_phase(root, patient):
    found = masks(root, patient)
    contours = read_contours(sample_files(root, f"contours/{patient}"))
    assert sum(map(len, contours.values())) == 27
    assert found.annotated.sum() == len(contours) == 18
    assert found.walls.sum() == 9
    phases = found.annotated.any(axis=1).nonzero()[0]
    assert len(phases) == 2  # end-systole and end-diastole
    assert found.walls.any(axis=1).nonzero()[0].tolist() == [phases[1]]
    places = cine(root, patient).images()
    for number, drawn in contours.items():
        assert (places[number][0], places[number][1]) == ((number - 1) % 20, places[number][1])
        labels = found.native[places[number]]
        x, y = drawn["i"].T
        polygon = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        assert (labels == 1).sum() == pytest.approx(polygon, abs=0.5 * np.sqrt(polygon) + 2)
        # the centre of the mask is the centre of the contour
        np.testing.assert_allclose(np.argwhere(labels == 1).mean(axis=0)[::-1], drawn["i"].mean(axis=0), atol=2.0)
    areas = (found.native[phases[1]] == 1).sum(axis=(1, 2))
    drawn_slices = np.flatnonzero(areas)
    assert areas[drawn_slices[:3]].mean() > 1.5 * areas[drawn_slices[-3:]].mean()  # base first


@each
def test_volumes_and_ejection_fraction_are_plausible(root, patient):
    found = masks(root, patient)
    heart = ventricle(found.native, found.annotated, spacing=found.spacing)
    print(f"{patient}: EDV {heart.edv:.1f} mL, ESV {heart.esv:.1f} mL, EF {heart.ef:.1f} %")
    assert 15 <= heart.ef <= 40  # all three have heart failure after an infarct
    assert (heart.edv, heart.esv) == pytest.approx(FRACTIONS[patient], abs=0.1)
    # blood is brighter than muscle: the labels lie on the pictures
    voxels = cine(root, patient).voxels()
    assert voxels[found.native == 1].mean() > 1.5 * voxels[found.native == 2].mean()


@each
def test_volumes_survive_the_studys_grid(root, patient):
    slices = PATIENTS[patient][0]
    found = masks(root, patient, slices=slices, size=128, frames=20)
    native = ventricle(found.native, found.annotated, spacing=found.spacing)
    side = 256 * found.spacing[0] / 128
    spacing = (side, side, found.spacing[2])
    on_grid = ventricle(found.grid_labels, found.grid_annotated, spacing=spacing)
    assert (on_grid.edv, on_grid.esv) == pytest.approx((native.edv, native.esv), rel=0.02)
    assert (on_grid.diastole, on_grid.systole) == (native.diastole, native.systole)


def test_the_first_pixel_of_a_contour_is_1(root):
    """The endocardium lies where the picture darkens most: at an offset of -1, not at 0 (`contours`)."""
    steepness = {}
    for offset in (-2.0, -1.0, 0.0):
        drops = []
        for patient in PATIENTS:
            for number, drawn in read_contours(sample_files(root, f"contours/{patient}")).items():
                picture = pydicom.dcmread(root / "dicoms" / patient / f"{number}.dcm").pixel_array.astype(float)
                picture = gaussian_filter(picture, 1.0)
                points = drawn["i"] + 1.0 + offset  # as written, then moved
                along = np.roll(points, -3, axis=0) - np.roll(points, 3, axis=0)
                outwards = np.stack([along[:, 1], -along[:, 0]], 1) / np.linalg.norm(along, axis=1, keepdims=True)
                x, y = points.T
                outwards *= np.sign(x @ np.roll(y, -1) - y @ np.roll(x, -1))
                ends = [map_coordinates(picture, (points + way * outwards).T[::-1], order=1) for way in (-1, 1)]
                drops.append((ends[0] - ends[1]).mean() / picture.std())
        steepness[offset] = np.mean(drops)
    assert steepness[-1.0] > 1.1 * max(steepness[0.0], steepness[-2.0])


def test_renamed_files_keep_their_contours(root, tmp_path):
    patient = "SCD0000401"
    names = np.random.default_rng(0).permutation(220)
    for path, number in zip(sorted((root / "dicoms" / patient).iterdir()), names, strict=True):
        (tmp_path / "p" / f"d{number % 3}").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, tmp_path / "p" / f"d{number % 3}" / f"{number:04x}")
    shutil.copytree(root / "contours" / patient, tmp_path / "c")
    of = plan(frames=16, slices=8, size=64)
    moved = read_masks(tmp_path, "p", "c", plan=of, mapped=mapped())
    np.testing.assert_array_equal(moved.native, masks(root, patient).native)
    first = CINE.read(root, f"dicoms/{patient}", plan=of, mapped=mapped())
    second = CINE.read(tmp_path, "p", plan=of, mapped=mapped())
    np.testing.assert_array_equal(first.arrays["video"], second.arrays["video"])


def test_a_nifti_copy_of_a_patient_gives_the_same_video(root, tmp_path):
    found = cine(root, "SCD0000401")
    at = np.diag([-1.0, -1.0, 1.0, 1.0]) @ found.affine
    nib.save(nib.Nifti1Image(found.voxels().astype(np.int16).transpose(3, 2, 1, 0), at), tmp_path / "p.nii.gz")
    of = plan(frames=16, slices=8, size=64, field_of_view=240.0)
    first = CINE.read(root, "dicoms/SCD0000401", plan=of, mapped=mapped())
    second = CINE.read(tmp_path, "p.nii.gz", plan=of, mapped=mapped())
    np.testing.assert_array_equal(first.arrays["video"], second.arrays["video"])
    np.testing.assert_allclose(first.arrays["spacing"], second.arrays["spacing"], rtol=1e-4)
