from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from fl_client.data.ehr import read_table
from fl_client.data.findings import Findings
from fl_client.data.table import read_samples
from fl_shared.concepts import concept, unscale
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model
from fl_shared.site import load_site
from fl_shared.study import is_held_out, load_study
from fl_sites.importers.uci_heart import EVALUATION, NEEDS, import_uci_heart

SOURCE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "uci-heart-disease"
pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason=f"real data missing: {SOURCE}")

FILES = {
    "cleveland": "processed.cleveland.data",
    "hungary": "processed.hungarian.data",
    "switzerland": "processed.switzerland.data",
    "va": "processed.va.data",
}
NAMED = {"cleveland": "Cleveland", "hungary": "Hungarian", "switzerland": "Switzerland", "va": "Long Beach VA"}
COLUMNS = [
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal"),
    "num",
]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    out = tmp_path_factory.mktemp("uci")
    return out, import_uci_heart(SOURCE, out)


@pytest.fixture(scope="module")
def samples(imported):
    read = {"dtype": str, "keep_default_na": False}
    return {name: pd.read_csv(imported[0] / name / "samples.csv", **read) for name in FILES}


@pytest.fixture
def download(tmp_path):
    source = tmp_path / "download"
    source.mkdir()
    for name in NEEDS:
        shutil.copyfile(SOURCE / name, source / name)
    return source


def edit(path, line, text):
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


def table_of(out, name, fields):
    """As the hospital's reader sees it: values in the concept's unit, NaN where missing; and what it found."""
    site, findings = load_site(out / name), Findings()
    frame = read_samples(site.samples_path, encoding=site.encoding, findings=findings)
    table = read_table(frame, site=site, fields=fields, file="samples.csv", findings=findings)
    values = {f: unscale(table.values[:, i], concept(f)) for i, f in enumerate(fields)}
    return pd.DataFrame(values).where(table.observed), findings


def test_totals_and_classes_equal_those_of_the_source(imported, samples):
    """Oracle: the class distribution that the release's own heart-disease.names prints."""
    _, done = imported
    text = (SOURCE / "heart-disease.names").read_text(encoding="latin-1")
    for name, title in NAMED.items():
        *classes, total = map(int, re.search(rf"{title}:((?:\s+\d+){{6}})", text)[1].split())
        counts = samples[name]["num"].astype(int).value_counts()
        if name == "hungary":  # its processed file tells no degrees
            classes = [classes[0], sum(classes[1:]), 0, 0, 0]
        assert [counts.get(k, 0) for k in range(5)] == classes
        assert done.records[name] == done.patients[name] == len(samples[name]) == total
        assert (samples[name]["disease"] == "1").sum() == sum(classes[1:])
    assert list(done.records.values()) == [303, 294, 123, 200]


def test_every_cell_is_that_of_the_source(samples):
    cells = 0
    for name, file in FILES.items():
        with (SOURCE / file).open(newline="") as lines:
            for row, written in zip(csv.reader(lines), samples[name].to_dict("records"), strict=True):
                for column, cell in zip(COLUMNS, row, strict=True):
                    zero = column in ("chol", "trestbps") and cell not in ("?", "-9") and float(cell) == 0
                    missing = cell in ("?", "-9", "-9.0") or zero
                    assert written[column] == ("" if missing else cell), (name, column, cell)
                    cells += 1
    assert cells == 920 * 14


def test_zero_cholesterol_is_missing(samples):
    assert (samples["switzerland"]["chol"] == "").all()
    assert (samples["va"]["chol"] == "").sum() == 49 + 7  # zeros and question marks
    assert (samples["va"]["trestbps"] == "").sum() == 1 + 56
    assert (samples["cleveland"]["oldpeak"] == "0.0").sum() == 99  # a true zero stays


def test_minus_nine_is_missing_too(download, tmp_path):
    edit(download / FILES["va"], 1, "63,1,4,140,-9,-9.0,1,112,1,-.5,2,-9,?,2")
    import_uci_heart(download, tmp_path / "out")
    row = pd.read_csv(tmp_path / "out" / "va" / "samples.csv", dtype=str).iloc[0]
    assert row[["chol", "fbs", "ca", "thal"]].isna().all()
    assert row["oldpeak"] == "-.5"


def test_ids_are_unique_and_no_patient_is_at_two_sites(samples):
    ids = pd.concat(samples.values())["patient_id"]
    assert ids.is_unique and len(ids) == 920


def test_readers_take_every_value_in_its_unit(imported, samples):
    """Values come back as the concept's numbers: nothing rejected, nothing implausible."""
    study = load_study(imported[1].study)
    fields = study.modalities["ehr"].fields
    assert len(fields) == len(set(fields)) == 13
    for name in FILES:
        values, findings = table_of(imported[0], name, fields)
        assert findings.rejects == [] and dict(findings.repairs) == {}
        assert values.notna().sum().tolist() == [(samples[name][column] != "").sum() for column in COLUMNS[:13]]
        number = pd.to_numeric(samples[name]["age"])
        assert abs(values["age"] - number).max() < 1e-4
        male = pd.to_numeric(samples[name]["sex"]) == 1
        assert (values["sex"].round() == (~male)).all()
    values, _ = table_of(imported[0], "cleveland", fields)
    assert values["cholesterol"].mean() == pytest.approx(246.69 * 0.02586, rel=1e-3)  # mmol/L
    thal = pd.to_numeric(samples["cleveland"]["thal"])
    assert set(zip(thal.dropna(), values["thallium_scan"].dropna().round(), strict=True)) == {(3, 0), (6, 1), (7, 2)}


def test_study_and_sites_load_and_the_study_trains_today(imported, samples):
    study = load_study(imported[1].study)
    assert study.train_sites == ("cleveland", "hungary", "switzerland") and study.external_sites == ("va",)
    for name in study.train_sites:
        held_out = [p for p in samples[name]["patient_id"] if is_held_out(p, site=name, plan=EVALUATION)]
        assert study.sites[name].patients == len(samples[name]) - len(held_out)
    build_model(study)
    for name in FILES:
        site = load_site(imported[0] / name)
        assert set(site.columns) | {"disease"} <= set(samples[name].columns)
        assert "num" not in site.columns and "disease" not in site.columns


def test_everything_missing_is_told_at_once(tmp_path):
    with pytest.raises(ConsiliumError) as caught:
        import_uci_heart(tmp_path, tmp_path / "out")
    assert caught.value.code is ExitCode.DATA
    assert [fault.key for fault in caught.value.faults] == list(NEEDS)
    assert not (tmp_path / "out").exists()


def test_wrong_files_are_all_told(download, tmp_path):
    (download / FILES["cleveland"]).write_text("<html>\n<p>not found\n")
    edit(download / FILES["hungary"], 7, "28,1,2,130,132,0,2,185,0,0,?,?,?,5")
    edit(download / FILES["switzerland"], 2, "34,1,4,115,abc,?,?,154,0,.2,1,?,?,1")
    lines = (download / FILES["va"]).read_text().splitlines()
    (download / FILES["va"]).write_text("\n".join(lines[:150]) + "\n")
    with pytest.raises(ConsiliumError) as caught:
        import_uci_heart(download, tmp_path / "out")
    told = {(Path(f.file).name, f.key, f.value, f.row) for f in caught.value.faults}
    assert told == {
        (FILES["cleveland"], "rows", "2", None),
        (FILES["cleveland"], "rows 1, 2", "", None),
        (FILES["hungary"], "num", "5", 7),
        (FILES["switzerland"], "chol", "abc", 2),
        (FILES["va"], "rows", "150", None),
    }
    assert not (tmp_path / "out").exists()


def test_import_twice_gives_the_same(download, tmp_path):
    import_uci_heart(download, tmp_path / "out")
    before = {p: p.read_bytes() for p in sorted((tmp_path / "out").rglob("*")) if p.is_file()}
    import_uci_heart(download, tmp_path / "out")
    assert {p: p.read_bytes() for p in sorted((tmp_path / "out").rglob("*")) if p.is_file()} == before
