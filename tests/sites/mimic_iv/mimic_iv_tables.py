"""The MIMIC-IV demo, read without the importer: csv rows and loops; and small downloads made of it."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

SOURCE = Path(__file__).resolve().parents[4] / "shared" / "data" / "mimic-iv-demo-2.2"
NEEDS_DEMO = pytest.mark.skipif(not SOURCE.is_dir(), reason=f"real data missing: {SOURCE}")
TYPES = {
    "CCU": "icu_coronary",
    "CVICU": "icu_cardiac_surgery",
    "MICU": "icu_medical",
}  # all others of the demo: surgical
CENTURIES = timedelta(days=73_049)
PATIENTS = ("10002428", "10002495", "10004422", "10004720", "10005866")
STAY, INDEX = "32155744", datetime(2111, 1, 19, 9, 44, 50)  # of patient 10004422, who lived


def rows(name, source=SOURCE):
    with gzip.open(source / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def moment(text):
    return datetime.fromisoformat(text) if text else None


def expected_stays(source=SOURCE):
    """stay_id -> what is known of a stay that must become a sample; and how many must not, by reason."""
    patients = {r["subject_id"]: r for r in rows("hosp/patients", source)}
    admissions = {r["hadm_id"]: r for r in rows("hosp/admissions", source)}
    kept, left_out, home = {}, Counter(), {}
    for stay in sorted(rows("icu/icustays", source), key=lambda r: (int(r["subject_id"]), r["intime"])):
        patient, admission = patients[stay["subject_id"]], admissions[stay["hadm_id"]]
        start, end = moment(stay["intime"]), moment(stay["outtime"])
        index = start + timedelta(hours=48)
        age = int(patient["anchor_age"]) + index.year - int(patient["anchor_year"])
        unit = stay["first_careunit"].rsplit("(", 1)[-1].rstrip(")").split("/")[0]
        site = TYPES.get(unit, "icu_surgical")
        if end - start < timedelta(hours=48):
            left_out["shorter than 48 h"] += 1
        elif home.setdefault(stay["subject_id"], site) != site:
            left_out["patient at an earlier unit type"] += 1
        else:
            kept[stay["stay_id"]] = {
                **{"site": site, "index": index, "age": age if age <= 89 else 91, "sex": patient["gender"]},
                **{"los": float(stay["los"]), "subject": stay["subject_id"], "hadm": stay["hadm_id"]},
                **{"patient": patient, "admission": admission},
            }
    return kept, left_out


def write(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(table.to_csv(index=False).encode(), mtime=0))


def table(source, name):
    return pd.read_csv(source / f"{name}.csv.gz", dtype=str, keep_default_na=False)


def one(out, stay):
    """A stay's row of its samples table."""
    tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in sorted(out.glob("*/samples.csv"))]
    (row,) = pd.concat(tables).query("sample_id == @stay").to_dict("records")
    return row
