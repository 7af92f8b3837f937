from __future__ import annotations

import math
from collections import Counter, defaultdict
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from mimic_iv_tables import CENTURIES, NEEDS_DEMO, moment, rows

from fl_client.data.load import Wanted, read_cohort
from fl_shared import concepts
from fl_shared.site import load_site
from fl_shared.study import TaskPlan, is_held_out, load_study
from fl_sites.importers.mimic_iv_plan import EVALUATION

pytestmark = NEEDS_DEMO


def test_totals_equal_the_source(imported, samples, expected):
    _, done = imported
    stays, left_out = expected
    assert sum(1 for _ in rows("hosp/patients")) == 100
    assert sum(1 for _ in rows("hosp/admissions")) == 275
    assert sum(done.records.values()) + sum(done.left_out.values()) == sum(1 for _ in rows("icu/icustays")) == 140
    assert {reason: n for reason, n in done.left_out.items() if n} == left_out
    assert left_out == {"shorter than 48 h": 66, "patient at an earlier unit type": 7}
    assert dict(done.records) == Counter(stay["site"] for stay in stays.values())
    assert dict(done.patients) == {
        site: len({stay["subject"] for stay in stays.values() if stay["site"] == site}) for site in done.records
    }
    assert set(samples.index) == set(stays)


def test_no_patient_at_two_sites(samples):
    assert (samples.groupby("patient_id")["site"].nunique() == 1).all()


def test_every_sample_is_what_the_tables_say(samples, expected):
    for stay_id, stay in expected[0].items():
        row = samples.loc[stay_id]
        assert (row["patient_id"], row["site"], row["age"], row["sex"]) == (
            *(stay["subject"], stay["site"], stay["age"], stay["sex"]),
        )
        assert moment(row["index_time"]) == stay["index"] - CENTURIES
        assert row["los_days"] == pytest.approx(stay["los"], abs=1e-5)
        assert row["in_hospital_death"] == int(stay["admission"]["hospital_expire_flag"])


def test_times_are_two_centuries_earlier(samples, expected):
    """Every date is in the past, at the same hour, and up to February 2200 at the same month and day."""
    for stay_id, stay in expected[0].items():
        written = moment(samples.loc[stay_id, "index_time"])
        assert 1900 < written.year < 2020 and written.time() == stay["index"].time()
        if stay["index"] < datetime(2200, 3, 1):
            assert written == stay["index"].replace(year=stay["index"].year - 200)


def test_body_measures_are_the_last_of_an_earlier_day(samples, expected):
    names = {"Height (Inches)": "height", "Weight (Lbs)": "weight", "BMI (kg/m2)": "bmi"}
    found = defaultdict(list)
    for r in rows("hosp/omr"):
        if r["result_name"] in names:
            found[r["subject_id"], names[r["result_name"]]].append(
                (r["chartdate"], int(r["seq_num"]), r["result_value"])
            )
    given = 0
    for stay_id, stay in expected[0].items():
        for name in names.values():
            earlier = [
                entry for entry in found[stay["subject"], name] if moment(entry[0]).date() < stay["index"].date()
            ]
            want = float(max(earlier)[2]) if earlier else math.nan
            assert samples.loc[stay_id, name] == pytest.approx(want, nan_ok=True)
            given += bool(earlier)
    assert given > 80


def test_the_client_reads_every_sample_without_complaint(imported, samples, expected):
    out, done = imported
    study = load_study(done.study)
    tasks = dict(study.tasks) | {"los_days": TaskPlan(type="regression"), "survival": TaskPlan(type="survival")}
    wanted = Wanted(modalities=study.modalities, tasks=tasks, evaluation=study.evaluation)
    for name, records in done.records.items():
        cohort, report = read_cohort(load_site(out / name), wanted)
        assert (list(report.rejects), list(report.quarantined), report.rows) == ([], [], records)
        assert len(cohort) == records and len(cohort.patient_ids) == done.patients[name]
        assert all(cohort.present[kind].mean() > 0.9 for kind in ("ehr", "series", "text"))
        mine = samples.loc[list(cohort.sample_ids)]
        assert cohort.target_mask["in_hospital_death"].all() and cohort.target_mask["survival"].all()
        np.testing.assert_allclose(cohort.targets["los_days"][:, 0], mine["los_days"], rtol=1e-6)
        np.testing.assert_array_equal(cohort.target_mask["cvd_90d"][:, 0], mine["cvd_90d"].notna())
        _creatinine_as_in_the_tables(cohort, study, expected[0])


def _creatinine_as_in_the_tables(cohort, study, stays):
    """One field of the grid, hour by hour, from the table itself."""
    plan = study.modalities["series"]
    what, field = concepts.concept("creatinine"), plan.fields.index("creatinine")
    found = defaultdict(list)
    for r in rows("hosp/labevents"):
        possible = r["valuenum"] and what.min <= float(r["valuenum"]) * 88.40 <= what.max
        if r["itemid"] in ("50912", "52024") and possible:
            stored = moment(r["storetime"]) or datetime.min
            found[r["subject_id"]].append((moment(r["charttime"]), stored, float(r["valuenum"]) * 88.40))
    for n, sample in enumerate(cohort.sample_ids):
        stay, grid = stays[sample], np.zeros((plan.bins, 2))
        others = [s["index"] for s in stays.values() if s["subject"] == stay["subject"]]
        for time, stored, value in found[stay["subject"]]:
            hours = (stay["index"] - time) / timedelta(hours=1)
            if 0 <= hours < 48 and not any(time <= index < stored for index in others):
                grid[plan.bins - 1 - int(hours)] += 1, float(concepts.scale(np.array([value]), what)[0])
        np.testing.assert_array_equal(cohort.inputs["series"]["observed"][n, :, field], grid[:, 0] > 0)
        mean = grid[:, 1] / np.maximum(grid[:, 0], 1)
        np.testing.assert_allclose(cohort.inputs["series"]["values"][n, :, field], mean, atol=1e-5)


def test_study_and_headers(imported, samples):
    out, done = imported
    study = load_study(done.study)
    assert (study.train_sites, study.external_sites) == (("icu_cardiac_surgery", "icu_medical"), ("icu_surgical",))
    for name in study.train_sites:
        patients = set(samples.loc[samples["site"] == name, "patient_id"])
        assert study.sites[name].patients == sum(not is_held_out(p, site=name, plan=EVALUATION) for p in patients)
    assert "ecg" not in study.modalities and "phenotypes" not in study.tasks
    for file in (done.study, *(out / name / "site.toml" for name in done.records)):
        header = " ".join(
            line.removeprefix("# ") for line in file.read_text(encoding="utf-8").splitlines() if line[:1] == "#"
        )
        assert "ONE hospital" in header and "pseudo-site" in header
        assert "Found beside the tables: nothing. Not found: bedside measurements" in header


def test_no_diagnosis_reaches_an_input(imported):
    """Only labels come from the codes of discharge; whatever else is written holds none of them."""
    out, done = imported
    allowed = {"patient_id", "sample_id", "index_time", "age", "sex", "height", "weight", "bmi"}
    allowed |= {"ecg_path", "text_path", "text_time"}
    outcomes = {"in_hospital_death", "los_days", "survival_days", "survival_event", "cvd_90d"}
    for name in done.records:
        table = pd.read_csv(out / name / "samples.csv", nrows=1)
        assert set(table.columns) == allowed | outcomes
        assert not set(load_site(out / name).columns) & outcomes
        events = pd.read_parquet(out / name / "events.parquet")
        assert set(events["code"].str.split("//").str[0]) <= {"LAB", "OUTPUT", "CHART"}
