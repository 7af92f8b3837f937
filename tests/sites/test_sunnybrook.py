from __future__ import annotations

import hashlib
import shutil
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from fl_client.data.ehr import read_table
from fl_client.data.findings import Findings
from fl_client.data.labels import read_labels
from fl_client.data.table import read_samples
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import load_site
from fl_shared.study import TaskPlan, is_held_out, load_study
from fl_sites.importers.sunnybrook import EVALUATION, SITE, import_sunnybrook
from fl_sites.importers.sunnybrook_source import PATHOLOGIES

SOURCE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "sunnybrook-cine"
pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason=f"real data missing: {SOURCE}")

PATIENTS = {"SCD0000101": "SC-HF-I-1", "SCD0000201": "SC-HF-I-2", "SCD0000401": "SC-HF-I-5"}
TASKS = {
    "heart_failure": TaskPlan(type="binary"),
    "pathology": TaskPlan(type="multiclass", labels=tuple(PATHOLOGIES.values())),
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    out = tmp_path_factory.mktemp("sunnybrook")
    return out, import_sunnybrook(SOURCE, out)


@pytest.fixture(scope="module")
def samples(imported):
    return pd.read_csv(imported[0] / SITE / "samples.csv").set_index("sample_id")


@pytest.fixture
def whole(tmp_path):
    """A download of all 45 patients of the release, unpacked; two small files stand for the images of each."""
    source = tmp_path / "download"
    (source / "dicoms").mkdir(parents=True)
    shutil.copyfile(SOURCE / "scd_patientdata.csv", source / "scd_patientdata.csv")
    table = pd.read_csv(source / "scd_patientdata.csv")
    link = table[["PatientID", "OriginalID"]].set_axis(["patient_id", "original_id"], axis="columns")
    link.to_csv(source / "link.csv", index=False)
    for patient, original in zip(link["patient_id"], link["original_id"], strict=True):
        (source / "dicoms" / patient).mkdir()
        for number in (2, 11):
            (source / "dicoms" / patient / f"{number}.dcm").write_bytes(b"\0" * 128 + b"DICM" + patient.encode())
        for kind, number in (("i", 2), ("i", 11), ("o", 2)):
            folder = source / "contours" / original / f"{kind}-contours"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"IM-0001-{number:04d}-{kind}contour-manual.txt").write_text("1.0 2.0\n3.0 2.0\n2.0 4.0\n")
    return source


def faults_of(source, out):
    with pytest.raises(ConsiliumError) as caught:
        import_sunnybrook(source, out)
    assert caught.value.code is ExitCode.DATA and not out.exists()
    return caught.value.faults


def contours_of(folder):
    """(path, image number, points (P, 2) of column and row) of every contour."""
    for path in sorted(folder.rglob("*.txt")):
        yield path, int(path.name.split("-")[2]), np.loadtxt(path)


def test_images_are_those_of_the_archive_byte_for_byte(imported):
    with tarfile.open(SOURCE / "dicoms.tar.xz") as archive:
        want = {
            m.name.removeprefix("dicoms/"): hashlib.sha256(archive.extractfile(m).read()).hexdigest()
            for m in archive
            if m.isfile()
        }
    root = imported[0] / SITE / "cine"
    found = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    assert len(found) == 720
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()} == want


def test_contours_are_those_of_the_release_byte_for_byte(imported):
    root, count = imported[0] / SITE / "contours", 0
    for patient, original in PATIENTS.items():
        origin = SOURCE / "contours" / original
        names = sorted(p.relative_to(origin) for p in origin.rglob("*.txt"))
        assert names == sorted(p.relative_to(root / patient) for p in (root / patient).rglob("*.txt"))
        assert all((origin / name).read_bytes() == (root / patient / name).read_bytes() for name in names)
        count += len(names)
    assert count == 81


def test_every_contour_lies_within_its_image(imported, samples):
    """Read with pydicom: contour IM-0001-00nn is drawn on the image whose InstanceNumber is nn."""
    for patient, row in samples.iterrows():
        assert {row["cine_path"], row["mask_path"]} == {f"cine/{patient}", f"contours/{patient}"}
        for _, number, points in contours_of(imported[0] / SITE / row["mask_path"]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # UIDs with leading zeros, as released
                path = imported[0] / SITE / row["cine_path"] / f"{number}.dcm"
                image = pydicom.dcmread(path, stop_before_pixels=True)
                assert (image.PatientID, image.InstanceNumber) == (patient, number)
            assert (points >= 0).all() and (points[:, 0] < image.Columns).all() and (points[:, 1] < image.Rows).all()


def test_patients_are_those_of_the_table(imported, samples):
    table = pd.read_csv(SOURCE / "scd_patientdata.csv", index_col="PatientID").loc[samples.index]
    assert dict(imported[1].records) == dict(imported[1].patients) == {SITE: 3}
    assert list(samples.index) == list(PATIENTS)
    for column, name in {"age": "Age", "sex": "Gender", "pathology": "Pathology"}.items():
        assert samples[column].tolist() == table[name].tolist()


def test_site_and_study_load(imported, samples):
    study, site = load_study(imported[1].study), load_site(imported[0] / SITE)
    assert (study.train_sites, study.external_sites) == ((SITE,), ())
    assert study.sites[SITE].patients == sum(not is_held_out(p, site=SITE, plan=EVALUATION) for p in samples.index)
    cine = site.modalities["cine"]
    assert (cine.kind, cine.column, cine.mask_column) == ("cine", "cine_path", "mask_path")
    assert {cine.column, cine.mask_column} | set(site.columns) <= set(samples.columns)
    assert set(study.tasks) < set(site.tasks) == {*TASKS, "left_ventricle"}
    heart = study.tasks["left_ventricle"]
    assert (heart.type, heart.modality, heart.labels) == ("segmentation", "cine", ("cavity", "myocardium"))
    assert site.tasks["left_ventricle"].classes == {"1": "cavity", "2": "myocardium"}


def test_whole_release_of_45_patients(whole, tmp_path):
    (whole / "contours" / "SC-HF-I-7" / "i-contours" / "notes.txt").touch()
    done = import_sunnybrook(whole, tmp_path / "out")
    assert dict(done.patients) == {SITE: 45} and not list((tmp_path / "out").rglob("notes.txt"))
    site, findings = load_site(tmp_path / "out" / SITE), Findings()
    frame = read_samples(site.samples_path, encoding=site.encoding, findings=findings)
    targets, masks = read_labels(frame, site=site, tasks=TASKS, file="samples.csv", findings=findings)
    table = read_table(frame, site=site, fields=("age", "sex"), file="samples.csv", findings=findings)
    assert findings.rejects == [] and dict(findings.repairs) == {} and table.observed.all()
    assert all(mask.all() for mask in masks.values())
    assert targets["heart_failure"].sum() == 24
    assert np.bincount(targets["pathology"][:, 0].astype(int)).tolist() == [12, 12, 12, 9]
    assert (table.values[:, 1] == 1).sum() == pd.read_csv(SOURCE / "scd_patientdata.csv")["Gender"].eq("Female").sum()
    assert (tmp_path / "out" / SITE / "cine" / "SCD0004501" / "11.dcm").read_bytes().endswith(b"SCD0004501")
    assert (whole / "dicoms" / "SCD0004501" / "11.dcm").is_file()  # copied, not moved


def test_import_twice_replaces_what_was_written(whole, tmp_path):
    import_sunnybrook(whole, tmp_path / "out")
    (tmp_path / "out" / SITE / "cine" / "SCD0000101" / "old.dcm").touch()
    (tmp_path / "out" / SITE / "contours" / "old").mkdir()
    import_sunnybrook(whole, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("old*"))


def test_everything_missing_is_told_at_once(tmp_path):
    keys = [fault.key for fault in faults_of(tmp_path, tmp_path / "out")]
    assert keys == ["dicoms.tar.xz", "contours", "link.csv", "scd_patientdata.csv"]


def test_broken_archive_is_told(whole, tmp_path):
    shutil.rmtree(whole / "dicoms")
    with (SOURCE / "dicoms.tar.xz").open("rb") as archive:
        (whole / "dicoms.tar.xz").write_bytes(archive.read(100_000))
    (fault,) = faults_of(whole, tmp_path / "out")
    assert fault.problem == "cannot be unpacked" and fault.file.endswith("dicoms.tar.xz")


def test_missing_and_damaged_files_are_all_told(whole, tmp_path):
    shutil.rmtree(whole / "dicoms" / "SCD0000101")
    (whole / "dicoms" / "SCD0000201" / "11.dcm").unlink()
    (whole / "dicoms" / "SCD0000301" / "2.dcm").write_bytes(b"")
    shutil.rmtree(whole / "contours" / "SC-HF-I-6")
    told = {(Path(f.file).name, f.key, f.value) for f in faults_of(whole, tmp_path / "out")}
    assert told == {
        ("SCD0000101", "*.dcm", ""),
        ("SC-HF-I-2", "1 contours", "IM-0001-0011-icontour-manual.txt"),
        ("SCD0000301", "1 files", "2.dcm"),
        ("SC-HF-I-6", "IM-*contour-manual.txt", ""),
    }


def test_changed_tables_are_told(whole, tmp_path):
    table = pd.read_csv(whole / "scd_patientdata.csv", dtype=str)
    table.loc[0, "Pathology"] = "Ill"
    table.loc[1, ["Gender", "Age"]] = ["F", "old"]
    table.to_csv(whole / "scd_patientdata.csv", index=False)
    link = pd.read_csv(whole / "link.csv")
    link.loc[2, "original_id"] = "SC-N-2"
    link.loc[3, "patient_id"] = "../../elsewhere"
    link.to_csv(whole / "link.csv", index=False)
    told = {(fault.key, fault.value) for fault in faults_of(whole, tmp_path / "out")}
    assert told == {
        ("original_id", "SCD0000301, ../../elsewhere"),
        ("patient_id", "'../../elsewhere'"),
        ("Pathology", "'Ill'"),
        ("Gender", "'F'"),
        ("Age", "'old'"),
    }


def test_tables_of_something_else_name_their_columns(whole, tmp_path):
    (whole / "link.csv").write_text("<html>\n<p>a,b,c\n")
    (whole / "scd_patientdata.csv").write_text("PatientID,Age\nx,1\n")
    keys = [fault.key for fault in faults_of(whole, tmp_path / "out")]
    assert keys == ["patient_id", "original_id", "OriginalID", "Gender", "Pathology"]
