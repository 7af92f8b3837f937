from __future__ import annotations

import numpy as np
import pytest

from fl_client.data.load import load_cohort
from fl_shared import concepts
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.study import Study, is_held_out


def rows(n: int, **each) -> list[dict]:
    return [{"patient_id": f"p{k:03}", "sample_id": f"s{k:03}"} | each for k in range(n)]


def faults_of(site, study) -> dict[str, str]:
    with pytest.raises(ConsiliumError) as error:
        load_cohort(site, study)
    assert error.value.code == ExitCode.DATA
    return {f.key: f"{f.row} {f.value} {f.problem}. {f.mend}" for f in error.value.faults}


def test_cohort_of_three_modalities(tmp_path, make_site, write_ecg, study):
    write_ecg(tmp_path, "e1")
    (tmp_path / "a.txt").write_text("中度二尖瓣反流", encoding="utf-8")
    site = make_site(
        [
            {"patient_id": "1e5", "sample_id": "b", "ecg_path": "e1", "tot": "ja", "Geschlecht": "w"},
            {"patient_id": "00123", "sample_id": "a", "text_path": "a.txt", "tot": "", "Krea": "<0.2", "Alter": ""},
            {"patient_id": "1e5", "sample_id": "c", "Krea": "", "Alter": "", "Geschlecht": ""},
        ]
    )
    cohort, report = load_cohort(site, study, workers=2)
    assert cohort.patient_ids == ("00123", "1e5")
    assert cohort.sample_ids == ("a", "b")
    assert cohort.patient.tolist() == [0, 1]
    assert {m: p.tolist() for m, p in cohort.present.items()} == {
        "ecg": [False, True],
        "ehr": [True, True],
        "text": [True, False],
    }
    assert cohort.targets["death"].tolist() == [[0], [1]]
    assert cohort.target_mask["death"].tolist() == [[False], [True]]
    assert cohort.inputs["ecg"]["signal"].shape == (2, 12, 400)
    assert not cohort.inputs["ecg"]["signal"][0].any()
    values, observed = cohort.inputs["ehr"]["values"], cohort.inputs["ehr"]["observed"]
    creatinine = concepts.concept("creatinine")
    expected = 2 * np.log(np.array([0.2, 1.0]) * 88.40 / 40) / np.log(10) - 1
    np.testing.assert_allclose(values[:, 2], expected, rtol=1e-5)
    assert (creatinine.low, creatinine.high) == (40, 400)
    np.testing.assert_allclose(values[:, :2], [[0, -1], [2 * 40 / 70 - 1, 1]], rtol=1e-6)
    assert observed.tolist() == [[False, True, True], [True, True, True]]
    assert [(q.row, q.modality, q.check) for q in report.quarantined] == [(4, None, "no-modality")]
    assert report.repairs["creatinine: beyond the assay's limit, the limit taken"] == 1


def test_order_of_the_file_changes_nothing(tmp_path, make_site, study):
    table = [row | {"Alter": 30 + k, "tot": k % 2} for k, row in enumerate(rows(7))]
    first, _ = load_cohort(make_site(table), study)
    second, _ = load_cohort(make_site(table[::-1]), study)
    assert first.sample_ids == second.sample_ids
    np.testing.assert_array_equal(first.inputs["ehr"]["values"], second.inputs["ehr"]["values"])
    np.testing.assert_array_equal(first.targets["death"], second.targets["death"])


def test_every_fault_is_told_at_once(make_site, study):
    table = rows(5)
    table[1]["sample_id"] = "s000"
    table[2]["Geschlecht"] = "x"
    table[3]["tot"] = "vielleicht"
    table[4]["Krea"] = '"1,2"'
    site = make_site(table, drop="text_path")
    assert faults_of(site, study) == {
        "sample_id": "3 's000' used in an earlier row too. Sample ids must be unique: one row a sample.",
        "Geschlecht": "4 'x' unknown code. Known: m, w. Add it under columns.Geschlecht.codes.",
        "tot": "5 'vielleicht' unknown label code. Known: 0, 1, ja, nein (tasks.death.codes).",
        "Krea": "6 '1,2' not a number. Write a number with a decimal point, or add it under columns.Krea.codes.",
        "text_path": "None  column is missing (modality text). Did you mean 'ecg_path'?",
    }


def test_site_file_that_does_not_fit_the_study(make_site, study):
    toml = """
schema = 1
name = "drum_tower"
{extra}
[columns]
Alter = {{ concept = "aeg" }}
Krea = {{ concept = "creatinine", unit = "mg/L" }}
tot = {{ concept = "sex" }}
Geschlecht = {{ concept = "sex" }}
[modalities]
ecg = {{ kind = "text", column = "ecg_path" }}
ehr = {{ kind = "table" }}
[tasks.deth]
columns = {{ value = "tot" }}
"""
    assert faults_of(make_site(rows(1), toml=toml), study) == {
        "columns.Alter": "None aeg unknown concept. Did you mean 'age'?",
        "columns.Krea.unit": "None mg/L unknown unit. Known for creatinine: umol/L, mmol/L, mg/dL (UCUM).",
        "columns.Geschlecht": "None sex concept is mapped twice. 'tot' holds it already: map one of them.",
        "modalities.ecg.kind": "None text the study has 'waveform'. Map what the study means.",
        "tasks.death": "None  the study's task is not mapped. Add [tasks.death]. Did you mean 'deth'?",
    }


def test_implausible_values_are_missing_and_the_unit_is_suggested(make_site, study):
    table = rows(4)
    for row, value in zip(table, ["88", "92", "1.1", "9999"], strict=True):
        row["Krea"] = value
    cohort, report = load_cohort(make_site(table), study)
    assert cohort.inputs["ehr"]["observed"][:, 2].tolist() == [False, False, True, False]
    assert report.repairs["creatinine: implausible, set missing (is the unit 'umol/L', not 'mg/dL'?)"] == 3


def test_modality_that_the_site_lacks_is_absent_and_reported(make_site, study):
    toml = """
schema = 1
name = "drum_tower"
{extra}
[columns]
Alter = {{ concept = "age" }}
[modalities]
ehr = {{ kind = "table" }}
[tasks.death]
columns = {{ value = "tot" }}
"""
    cohort, report = load_cohort(make_site(rows(3), toml=toml), study)
    assert not cohort.present["ecg"].any()
    assert cohort.inputs["ecg"]["signal"].shape == (3, 12, 400)
    assert not cohort.inputs["text"]["mask"].any()
    assert report.repairs["ecg: not mapped at this site, nowhere present"] == 3
    assert report.repairs["creatinine: not mapped at this site, nowhere observed"] == 3


def test_unusable_rows_are_quarantined_with_reasons(tmp_path, make_site, write_ecg, study):
    write_ecg(tmp_path, "cut")
    (tmp_path / "cut.dat").write_bytes(b"\0" * 100)
    table = rows(5)
    table[0]["index_time"] = "2200-01-01"
    table[1]["index_time"] = "gestern"
    table[2]["ecg_path"] = "cut"
    table[3]["ecg_path"] = "../../etc/passwd"
    cohort, report = load_cohort(make_site(table), study)
    assert cohort.sample_ids == ("s002", "s003", "s004")
    assert [(q.row, q.modality, q.check) for q in report.quarantined] == [
        (2, None, "index-time-in-future"),
        (3, None, "index-time-unreadable"),
        (4, "ecg", "ecg-signal-truncated"),
        (5, "ecg", "path-outside-root"),
    ]
    assert report.rows == 5


def test_no_usable_sample_and_empty_table_are_rejects(make_site, study):
    assert "no usable sample" in faults_of(make_site(rows(2, index_time="2200-01-01")), study)["(rows)"]
    assert "the table is empty" in faults_of(make_site([]), study)["(rows)"]


def test_multilabel_task_in_the_order_of_the_study(make_site, study):
    body = study.model_dump(by_alias=True) | {
        "tasks": {"dx": {"type": "multilabel", "labels": ["mi", "hf"]}},
        "modalities": {"ehr": {"kind": "table", "fields": ["age"]}},
    }
    toml = """
schema = 1
name = "drum_tower"
{extra}
[columns]
Alter = {{ concept = "age" }}
[modalities]
ehr = {{ kind = "table" }}
[tasks.dx]
columns = {{ hf = "tot", mi = "Krea" }}
"""
    table = [{"patient_id": 1, "sample_id": 1, "tot": "1", "Krea": "0"}, {"patient_id": 2, "sample_id": 2, "Krea": ""}]
    cohort, _ = load_cohort(make_site(table, toml=toml), Study.model_validate(body))
    assert cohort.targets["dx"].tolist() == [[0, 1], [0, 0]]
    assert cohort.target_mask["dx"].tolist() == [[True, True], [False, True]]


def test_a_fifth_of_the_patients_is_held_out_whatever_the_outcome(make_site, study):
    table = [{"patient_id": f"p{k // 2}", "sample_id": f"s{k}", "tot": k % 2} for k in range(2000)]
    cohort, _ = load_cohort(make_site(table), study)
    assert cohort.held_out.mean() == pytest.approx(0.2, abs=0.04)
    expected = [is_held_out(p, site="drum_tower", plan=study.evaluation) for p in cohort.patient_ids]
    assert cohort.held_out.tolist() == expected
    flipped, _ = load_cohort(make_site([row | {"tot": 1 - row["tot"]} for row in table]), study)
    np.testing.assert_array_equal(cohort.held_out, flipped.held_out)
    assert set(cohort.rows(held_out=True)) | set(cohort.rows(held_out=False)) == set(range(2000))


def test_progress_counts_files(tmp_path, make_site, write_ecg, study):
    write_ecg(tmp_path, "e1")
    (tmp_path / "a.txt").write_text("ok")
    seen: list[tuple[int, int]] = []
    load_cohort(
        make_site(rows(3, ecg_path="e1", text_path="a.txt")),
        study,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(k, 6) for k in range(1, 7)]
