"""Prescriptions become sentences: in order, none after the index time, nothing that identifies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_client.data.findings import Findings
from fl_client.data.medications import sentences, with_medications
from fl_shared.site import MedicationTable, Site

COLUMNS = ["subject_id", "time", "drug", "dose", "unit", "route", "frequency"]
ROWS = [
    ("00123", "2020-01-01 09:00", "metoprolol", "47.5", "mg", "oral", "once daily"),
    ("00123", "2020-01-01 08:00", "aspirin", "100", "mg", "oral", "once daily"),
    ("00123", "2020-01-01 08:00", "Furosemid", "40.0", "mg", "", None),
    ("00123", "2020-01-02 10:00", "at the index time", None, "mg", None, None),
    ("00123", "2020-01-02 10:01", "too late", "1", "g", "iv", None),
    ("00123", "2020-01-01 20:00", "aspirin", "100", "mg", "oral", "once daily"),
    ("123", "2020-01-01", "阿司匹林", "100", "mg", "口服", "每日一次"),
]


def tell(folder, rows, samples, *, file="drugs.csv", zone="Asia/Shanghai", **changes):
    if rows is not None:
        table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, columns=COLUMNS)
        table.to_csv(folder / file, index=False) if file.endswith("csv") else table.to_parquet(folder / file)
    frame = pd.DataFrame(samples, columns=["patient_id", "index_time"], dtype=str)
    site, findings = Site.model_validate({"schema": 1, "name": "s", "timezone": zone}), Findings()
    site._folder = folder
    table = MedicationTable.model_validate({"file": file, **changes})
    return sentences(frame, site=site, table=table, findings=findings), findings


@pytest.mark.parametrize("file", ["drugs.csv", "drugs.parquet"])
def test_sentences_in_order_of_time_then_drug(tmp_path, file):
    samples = [
        ("123", "2020-01-02 10:00"),
        ("00123", "2020-01-02 10:00"),
        ("9", "2020-01-02"),
        ("00123", "2020-01-01 08:30"),
    ]
    found, findings = tell(tmp_path, ROWS, samples, file=file)
    assert found == [
        "阿司匹林 100 mg 口服 每日一次.",
        "Furosemid 40 mg. aspirin 100 mg oral once daily. metoprolol 47.5 mg oral once daily. at the index time.",
        "",
        "Furosemid 40 mg. aspirin 100 mg oral once daily.",
    ]
    assert not findings.rejects
    assert findings.repairs["medications: time naive, taken in the site's time zone"] == 7
    assert findings.repairs["medications: after the index time, never used"] == 5


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(ROWS))
def test_shuffled_rows_say_the_same(tmp_path, order):
    samples = [("00123", "2020-01-02 10:00"), ("123", "2020-01-02 10:00")]
    assert tell(tmp_path, order, samples)[0] == tell(tmp_path, ROWS, samples)[0]


def test_the_clock_is_the_sites_and_the_repeated_hour_is_the_first(tmp_path):
    rows = [("1", f"2020-10-25{time}", drug, *[None] * 4) for time, drug in (
        (" 02:30", "naive"), ("T00:45:00Z", "summer"), ("T01:15:00Z", "winter"), ("", "midnight"),
    )]  # fmt: skip
    found, _ = tell(tmp_path, rows, [("1", "2020-10-25T01:00Z"), ("1", "2020-10-25T02:00Z")], zone="Europe/Berlin")
    assert found == ["midnight. naive. summer.", "midnight. naive. summer. winter."]


def test_typed_numbers_and_other_names(tmp_path):
    frame = pd.DataFrame(
        {"pat": [7, 7], "start": pd.to_datetime(["2020-01-01", "2020-01-01"]), "name": ["b", "a"], "dose": [2.5, 100.0]}
    )
    columns = {"subject": "pat", "time": "start", "drug": "name"}
    found, findings = tell(tmp_path, frame, [("7", "2020-01-02")], file="drugs.parquet", **columns)
    assert found == ["a 100. b 2.5."]
    assert findings.repairs["medications: no column 'route', sentences without route"] == 1
    frame["dose"] = frame["dose"].map({2.5: np.nan, 100.0: 1.0})
    found, _ = tell(tmp_path, frame, [("7", "2020-01-02")], file="drugs.parquet", **columns)
    assert found == ["a 1. b."]


def test_what_identifies_or_names_no_drug_is_left_out(tmp_path):
    rows = [
        ("1", "2020-01-01", "aspirin", "100", "mg", "oral", "call 13812345678"),
        ("1", "2020-01-01", " n/a ", "1", "mg", None, None),
        ("1", "2020-01-01", "warfarin\n sodium.", "<5", "mg", "oral", None),
        ("1", "soon", "digoxin", None, None, None, None),
    ]
    found, findings = tell(tmp_path, rows, [("1", "2020-01-02")])
    assert found == ["warfarin sodium <5 mg oral."]
    assert findings.repairs["medications: an identifier in it, left out"] == 1
    assert findings.repairs["medications: no drug, left out"] == 1
    assert findings.repairs["medications: time missing or unreadable, never used"] == 1


def test_missing_columns_and_foreign_ids_are_rejects(tmp_path):
    found, findings = tell(tmp_path, ROWS, [("1", "2020-01-02")])
    assert found == [""]
    assert [fault.problem for fault in findings.rejects] == ["no id is a patient_id of the samples table"]
    _, findings = tell(tmp_path, ROWS, [("123", "2020-01-02")], drug="drgu", route="rout")
    assert [(fault.key, fault.mend) for fault in findings.rejects] == [
        ("drgu", "Did you mean 'drug'?"), ("rout", "Did you mean 'route'?"),
    ]  # fmt: skip
    (tmp_path / "drugs.csv").write_bytes(b"")
    found, findings = tell(tmp_path, None, [("123", "2020-01-02")])
    assert found == [""]
    assert [fault.problem for fault in findings.rejects] == ["cannot be read"]
    assert tell(tmp_path, ROWS, [])[0] == []


def test_notes_are_followed_by_prescriptions():
    texts = {0: "a note", 2: "another"}
    assert with_medications(texts, ["aspirin.", "digoxin.", "", ""]) == {
        0: "a note\naspirin.",
        1: "digoxin.",
        2: "another",
    }
