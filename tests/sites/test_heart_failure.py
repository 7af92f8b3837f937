from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl_client.data.ehr import read_table
from fl_client.data.findings import Findings
from fl_client.data.labels import read_labels
from fl_client.data.table import read_samples
from fl_shared.concepts import concept, unscale
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model
from fl_shared.site import load_site
from fl_shared.study import TaskPlan, is_held_out, load_study
from fl_sites.importers.heart_failure import EVALUATION, FILE, SITE, import_heart_failure

SOURCE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "heart-failure-survival"
pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason=f"real data missing: {SOURCE}")

PLATELETS = "platelets"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    out = tmp_path_factory.mktemp("heart_failure")
    return out, import_heart_failure(SOURCE, out)


@pytest.fixture(scope="module")
def source():
    with (SOURCE / FILE).open(newline="") as lines:
        return list(csv.DictReader(lines))


def rewritten(folder, table):
    folder.mkdir(exist_ok=True)
    table.to_csv(folder / FILE, index=False)
    return folder


def read(out):
    site, findings = load_site(out / SITE), Findings()
    frame = read_samples(site.samples_path, encoding=site.encoding, findings=findings)
    fields = load_study(out / "study.toml").modalities["ehr"].fields
    table = read_table(frame, site=site, fields=fields, file="samples.csv", findings=findings)
    values = pd.DataFrame({f: unscale(table.values[:, i], concept(f)) for i, f in enumerate(fields)})
    return site, frame, values.where(table.observed), findings


def test_patients_deaths_and_follow_up(imported, source):
    out, done = imported
    assert dict(done.records) == dict(done.patients) == {SITE: 299}
    site, frame, _, findings = read(out)
    tasks = {"death": TaskPlan(type="binary"), "survival": TaskPlan(type="survival")}
    targets, masks = read_labels(frame, site=site, tasks=tasks, file="samples.csv", findings=findings)
    assert findings.rejects == [] and all(mask.all() for mask in masks.values())
    assert targets["death"].sum() == 96
    days, event = targets["survival"].T
    assert (days.min(), days.max(), event.sum()) == (4, 285, 96)
    assert days.tolist() == [float(row["time"]) for row in source]
    assert event.tolist() == [float(row["DEATH_EVENT"]) for row in source]
    np.testing.assert_array_equal(targets["death"][:, 0], event)


def test_readers_take_every_value_in_its_unit(imported, source):
    _, frame, values, findings = read(imported[0])
    assert findings.rejects == [] and dict(findings.repairs) == {}
    assert values.notna().all().all()
    raw = pd.DataFrame(source).astype(float)
    for field, want in {
        "age": raw["age"],
        "creatine_kinase": raw["creatinine_phosphokinase"],
        "lvef": raw["ejection_fraction"],
        "platelets": raw["platelets"],
        "creatinine": raw["serum_creatinine"] * 88.40,
        "sodium": raw["serum_sodium"],
        "sex": 1 - raw["sex"],  # 1 is male in the source
        "smoking": 2 * raw["smoking"],
        "hypertension": raw["high_blood_pressure"],
        "anaemia": raw["anaemia"],
        "diabetes": raw["diabetes"],
    }.items():
        np.testing.assert_allclose(values[field], want, rtol=1e-4, atol=1e-4, err_msg=field)
    assert not {"time", "DEATH_EVENT"} & set(frame)  # under their own names only as labels


def test_both_published_forms_of_the_platelets_mean_the_same(imported, tmp_path):
    table = pd.read_csv(SOURCE / FILE, dtype=str)
    table[PLATELETS] = [f"{float(v) * 1000:.2f}" for v in table[PLATELETS]]
    import_heart_failure(rewritten(tmp_path / "singly", table), tmp_path / "out")
    assert load_site(tmp_path / "out" / SITE).columns[PLATELETS].unit == "/uL"
    assert load_site(imported[0] / SITE).columns[PLATELETS].unit == "10*3/uL"
    np.testing.assert_allclose(read(tmp_path / "out")[2][PLATELETS], read(imported[0])[2][PLATELETS], rtol=1e-5)


def test_study_loads_and_trains_today(imported):
    out, done = imported
    study = load_study(done.study)
    assert (study.train_sites, study.external_sites) == ((SITE,), ())
    ids = pd.read_csv(out / SITE / "samples.csv", dtype=str)["patient_id"]
    assert ids.is_unique
    assert study.sites[SITE].patients == sum(not is_held_out(p, site=SITE, plan=EVALUATION) for p in ids)
    build_model(study)
    header = (out / SITE / "site.toml").read_text(encoding="utf-8")
    assert "differs between patients" in header and "survival" in load_site(out / SITE).tasks


def test_missing_file_is_told(tmp_path):
    with pytest.raises(ConsiliumError) as caught:
        import_heart_failure(tmp_path, tmp_path / "out")
    assert caught.value.code is ExitCode.DATA
    assert [fault.key for fault in caught.value.faults] == [FILE]


@pytest.mark.parametrize("content", [b"", b"<html>\n<p>a,b\n", b"\xff\xfe\x00age"])
def test_something_else_names_every_missing_column(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ConsiliumError) as caught:
        import_heart_failure(tmp_path, tmp_path / "out")
    assert len(caught.value.faults) == 13 and {"time", "DEATH_EVENT"} <= {f.key for f in caught.value.faults}
    assert not (tmp_path / "out").exists()


def test_changed_table_names_every_fault(tmp_path):
    table = pd.read_csv(SOURCE / FILE, dtype=str).head(200)
    table.loc[3, "DEATH_EVENT"] = "2"
    table.loc[[5, 9], "ejection_fraction"] = ["n/a", "-1"]
    table.loc[7, "time"] = "0"
    with pytest.raises(ConsiliumError) as caught:
        import_heart_failure(rewritten(tmp_path / "download", table), tmp_path / "out")
    told = {(fault.key, fault.value, fault.row) for fault in caught.value.faults}
    assert told == {
        ("rows", "200", None),
        ("DEATH_EVENT", "'2'", 5),
        ("ejection_fraction", "'n/a', '-1'", 7),
        ("time", "'0'", 9),
    }
    assert not (tmp_path / "out").exists()
