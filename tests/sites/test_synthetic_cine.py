"""The cine phantom, as pydicom and nibabel read it: physiology, geometry, syntaxes, label."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from fl_shared.site import load_site
from fl_sites.synthetic.cine import Heart, draw_cine, end_systole
from fl_sites.synthetic.cine_dicom import Exam, write_scout, write_stack
from fl_sites.synthetic.cine_enhanced import write_enhanced
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.hospitals import HOSPITALS

SITES = ("berlin", "nanjing", "london", "wuhan")
WORDS = (("SYNTHETI", "utf-8"), ("synthetic", "utf-8"), ("合成数据", "utf-8"), ("合成数据", "gb18030"))
SCANNERS = [hospital.scanner for hospital in HOSPITALS]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize(folder, sites=SITES, patients=10, seed=3)
    return folder


@pytest.fixture(scope="module")
def studies(out) -> pd.DataFrame:
    """Samples with a cine: paths and the truth."""
    found = []
    for name in SITES:
        site = load_site(out / name)
        table = pd.read_csv(site.samples_path, encoding=site.encoding, dtype={"patient_id": str, "sample_id": str})
        truth = pd.read_csv(out / "truth" / f"{name}.csv", dtype={"patient_id": str, "sample_id": str})
        latent = ["sample_id", "ejection_fraction", "volume", "wall", "scar", "scar_angle"]
        found.append(table.merge(truth[latent], on="sample_id").assign(site=name).dropna(subset="cine_path"))
    return pd.concat(found, ignore_index=True)


def labels_of(out: Path, row: pd.Series) -> tuple[nibabel.Nifti1Image, np.ndarray]:
    image = nibabel.load(out / row["site"] / row["mask_path"])
    return image, np.asarray(image.dataobj)


def images_of(folder: Path) -> tuple[list[pydicom.Dataset], list[pydicom.Dataset]]:
    """Cine images and scouts."""
    images = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    scouts = [image for image in images if "LOCALIZER" in image.ImageType]
    return [image for image in images if "LOCALIZER" not in image.ImageType], scouts


def stack_of(images: list[pydicom.Dataset]) -> tuple[np.ndarray, np.ndarray]:
    """Values (phases, slices, rows, columns) and positions (slices, 3), by geometry and trigger time alone."""
    frames = {}
    for image in images:
        if "PerFrameFunctionalGroupsSequence" not in image:
            frames[*map(float, image.ImagePositionPatient), float(image.TriggerTime)] = image.pixel_array.astype(float)
            continue
        for pixels, group in zip(image.pixel_array, image.PerFrameFunctionalGroupsSequence, strict=True):
            rescale = group.PixelValueTransformationSequence[0]
            place = group.PlanePositionSequence[0].ImagePositionPatient
            time = group.CardiacSynchronizationSequence[0].NominalCardiacTriggerDelayTime
            values = pixels * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
            frames[*map(float, place), float(time)] = values
    places = sorted({key[:3] for key in frames}, key=lambda place: -place[2])  # the apex lies lower
    times = sorted({key[3] for key in frames})
    assert len(frames) == len(places) * len(times)
    return np.array([[frames[*place, time] for place in places] for time in times]), np.array(places)


def test_masks_hold_the_drawn_volume_and_ejection_fraction(out, studies):
    assert len(studies) >= 10
    for _, row in studies.iterrows():
        image, labels = labels_of(out, row)
        voxel = np.prod(image.header.get_zooms()[:3]) / 1000
        volume = (labels == 1).sum(axis=(0, 1, 2)) * voxel
        assert volume[0] == pytest.approx(row["volume"], rel=0.03)
        assert 100 * (1 - volume.min() / volume[0]) == pytest.approx(row["ejection_fraction"], abs=2)
        assert volume.argmin() == end_systole(labels.shape[3])
        lvef = row["lvef"] * (100 if row["site"] == "london" else 1)
        assert np.isnan(lvef) or lvef == pytest.approx(row["ejection_fraction"], abs=12)  # 4 standard deviations


def test_wall_and_scar_are_the_drawn_ones(out, studies):
    scarred = 0
    for _, row in studies.iterrows():
        image, labels = labels_of(out, row)
        pixel = float(image.header.get_zooms()[0])
        cavity, wall = ((labels[:, :, 0, 0] == 1).sum(), (labels[:, :, 0, 0] >= 1).sum())  # no scar at the base
        thickness = pixel * (np.sqrt(wall / np.pi) - np.sqrt(cavity / np.pi))
        assert thickness == pytest.approx(row["wall"], abs=0.5)
        scar, muscle = (labels[:, :, 1:, 0] == 3).sum(), (labels[:, :, 1:, 0] == 2).sum()
        assert (scar > 0) == (row["scar"] > 0)
        if scar:
            scarred += 1
            # the wall is thinner in the scar and beside it
            assert 0.4 * row["scar"] < scar / (scar + muscle) < row["scar"]
    assert 0 < scarred < len(studies)


def test_scar_is_thin_and_does_not_move():
    scanner = dataclasses.replace(SCANNERS[0], rows=256, columns=256, spacing=0.6)
    heart = Heart(volume=180, ejection=0.35, wall=10, scar=0.25, scar_angle=np.pi / 2, interval=900)
    labels = draw_cine(np.random.default_rng(0), heart, scanner).labels[:, 1]
    cavity = np.argwhere(labels[0] == 1)
    column, middle = (round(value) for value in (cavity[:, 1].mean(), cavity[:, 0].mean()))
    end = end_systole(scanner.phases)
    above, below = (lambda t: labels[t, :middle, column]), (lambda t: labels[t, middle:, column])
    assert abs((above(0) == 1).sum() - (above(end) == 1).sum()) <= 1  # the scar is in front, that is above
    assert (below(0) == 1).sum() - (below(end) == 1).sum() >= 8
    assert (above(0) == 3).sum() < (below(0) == 2).sum() < (below(end) == 2).sum()
    assert not (above(0) == 2).any() and not (below(0) == 3).any()


def test_images_lie_where_the_masks_lie(out, studies):
    for _, row in studies.groupby("site").head(2).iterrows():
        image, labels = labels_of(out, row)
        cine, _ = images_of(out / row["site"] / row["cine_path"])
        values, places = stack_of(cine)
        assert values.shape == labels.T.shape
        steps = np.diff(places, axis=0)
        np.testing.assert_allclose(np.linalg.norm(steps, axis=1), image.header.get_zooms()[2], atol=1e-4)
        ras = places * [-1, -1, 1]
        np.testing.assert_allclose(
            image.affine[:3, 3] + np.arange(len(ras))[:, None] * image.affine[:3, 2], ras, atol=1e-3
        )
        blood, muscle = values[labels.T == 1], values[labels.T == 2]
        assert blood.mean() > 2 * muscle.mean() and np.median(muscle) < 450
        first = cine[0].get("SharedFunctionalGroupsSequence", [cine[0]])[0]
        plane = first.get("PlaneOrientationSequence", [first])[0].ImageOrientationPatient
        across, down = np.array(plane[:3], float), np.array(plane[3:], float)
        assert across @ down == pytest.approx(0, abs=1e-6) and np.abs(across).max() < 0.95  # oblique
        assert np.abs(np.cross(across, down) @ (steps[0] / np.linalg.norm(steps[0]))) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(np.cross(image.affine[:3, 0], across * [-1, -1, 1]), 0, atol=1e-3)


def test_hospitals_write_in_four_ways(out, studies):
    found = {}
    for _, row in studies.groupby("site").head(1).iterrows():
        cine, scouts = images_of(out / row["site"] / row["cine_path"])
        found[row["site"]] = (cine[0].file_meta.TransferSyntaxUID, len(cine) == 1, cine[0].Manufacturer)
        assert len({image.SeriesInstanceUID for image in cine}) == 1 and len(scouts) == 3
        assert scouts[0].SeriesInstanceUID != cine[0].SeriesInstanceUID
        assert not any("TriggerTime" in scout for scout in scouts)
        assert len({str(scout.ImageOrientationPatient) for scout in scouts}) == 3
        assert len({image.SOPInstanceUID for image in [*cine, *scouts]}) == len(cine) + 3
        numbers = [image.InstanceNumber for image in cine]
        assert len(cine) == 1 or numbers != sorted(numbers)  # by file name
    assert {name: found[name][:2] for name in found} == {
        "berlin": (ExplicitVRLittleEndian, False),
        "nanjing": (JPEG2000Lossless, False),
        "london": (ExplicitVRLittleEndian, True),
        "wuhan": (JPEGLSLossless, False),
    }
    assert len({maker for *_, maker in found.values()}) == 4


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda scanner: scanner.syntax)
def test_written_pixels_are_the_drawn_ones(tmp_path, scanner):
    rng = np.random.default_rng(1)
    heart = Heart(volume=120, ejection=0.6, wall=9, scar=0, scar_angle=0, interval=800)
    cine = draw_cine(rng, heart, scanner)
    exam = Exam(key="k", patient_id="007", sex="F", age=61, when=pd.Timestamp("2020-02-03T04:05:06"))
    (write_enhanced if scanner.syntax == "enhanced" else write_stack)(tmp_path, cine, scanner, exam)
    write_scout(tmp_path, rng, scanner, exam)
    written, scouts = images_of(tmp_path)
    values, places = stack_of(written)
    # Enhanced files hold rescaled values; the greatest slope is 1
    np.testing.assert_allclose(values, cine.video, atol=0.5 if scanner.syntax == "enhanced" else 0)
    np.testing.assert_allclose(places, cine.positions, atol=1e-6)
    assert [image.PatientAge for image in scouts] == ["061Y"] * 3


def test_every_image_and_mask_is_labelled_and_names_nobody(out, studies):
    for _, row in studies.iterrows():
        cine, scouts = images_of(out / row["site"] / row["cine_path"])
        for image in [*cine[:3], *scouts]:
            assert image.PatientName == "" and image.PatientBirthDate == ""
            assert (image.PatientIdentityRemoved, image.BurnedInAnnotation) == ("YES", "NO")
            assert image.PatientID == row["patient_id"]
            for keyword in ("ImageComments", "InstitutionName", "Manufacturer", "SeriesDescription"):
                assert "SYNTHETIC" in image[keyword].value
            day = pd.Timestamp(row["index_time"]) - pd.Timestamp(f"{image.StudyDate}T{image.StudyTime}")
            assert pd.Timedelta(0) < day < pd.Timedelta(days=15)
        assert bytes(labels_of(out, row)[0].header["descrip"].item()).startswith(b"SYNTHETIC")


def labelled(path: Path) -> bool:
    """Whether the file itself says that it is synthetic."""
    if path.suffix == ".dcm":
        return pydicom.dcmread(path, stop_before_pixels=True).ImageComments.startswith("SYNTHETIC")
    if path.suffix == ".parquet":
        return b"SYNTHETIC" in pq.read_schema(path).metadata[b"synthetic"]
    if path.suffix == ".gz":
        return bytes(nibabel.load(path).header["descrip"].item()).startswith(b"SYNTHETIC")
    content = path.read_bytes()
    return any(word.encode(code) in content for word, code in WORDS)


def test_every_file_that_can_hold_a_word_is_labelled(out):
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != ".fl-sites.json"]
    assert {path.suffix for path in files} == {
        ".csv", ".dat", ".dcm", ".gz", ".hea", ".json", ".parquet", ".toml", ".txt"
    }  # fmt: skip
    silent = {path.name if path.suffix == ".csv" else path.suffix for path in files if not labelled(path)}
    # tables and bare samples have no room; the site.toml and the header beside them say it
    assert silent == {".dat", "samples.csv", "prescriptions.csv", *(f"{name}.csv" for name in SITES)}


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes_of_everything(out, tmp_path):
    synthesize(tmp_path, sites=SITES, patients=10, seed=3)
    assert digests(tmp_path) == digests(out)


def test_what_is_left_out_changes_nothing_in_the_rest(out, tmp_path):
    synthesize(tmp_path, sites=SITES[:1], patients=10, seed=3, modalities=("cine", "ehr"))
    mine, whole = digests(tmp_path / "berlin"), digests(out / "berlin")
    assert {Path(name).parts[0] for name in mine} == {"cine", "masks", "samples.csv", "site.toml"}
    for name, digest in mine.items():
        assert (whole[name] == digest) == (name not in {"samples.csv", "site.toml"})
    columns = pd.read_csv(tmp_path / "berlin" / "samples.csv", dtype=str)
    pd.testing.assert_frame_equal(columns, pd.read_csv(out / "berlin" / "samples.csv", dtype=str)[columns.columns])
