from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime, timedelta

import pandas as pd
import pytest
from mimic_iv_tables import INDEX, NEEDS_DEMO, SOURCE, STAY, moment, one, rows, table, write

from fl_client.data.load import load_cohort
from fl_shared.site import load_site
from fl_shared.study import load_study
from fl_sites.importers.ccs import PHENOTYPES
from fl_sites.importers.mimic_iv import import_mimic_iv

pytestmark = NEEDS_DEMO


def test_survival_equals_a_loop(samples, expected):
    events = 0
    for stay_id, stay in expected[0].items():
        row, end = samples.loc[stay_id], moment(stay["admission"]["dischtime"]) + timedelta(days=365)
        death = moment(stay["admission"]["deathtime"])
        if death is None and stay["patient"]["dod"]:
            hours = [moment(a["deathtime"]) for a in rows("hosp/admissions") if a["subject_id"] == stay["subject"]]
            death = max((h for h in hours if h), default=moment(stay["patient"]["dod"]) + timedelta(days=1))
        died = death is not None and death <= end
        want = ((death if died else end) - stay["index"]) / timedelta(days=1)
        assert (row["survival_days"], row["survival_event"]) == (pytest.approx(want, abs=1e-5), died)
        events += died
        assert row["survival_event"] == 1 or row["in_hospital_death"] == 0
    assert events > 15
    assert (samples["survival_days"] > 0).all()


def heart(code, version):
    return code.startswith("I") if version == "10" else code[:3].isdigit() and 390 <= int(code[:3]) <= 459


def test_cardiovascular_readmission_equals_a_loop(samples, expected):
    admissions, principal = defaultdict(list), {}
    for r in rows("hosp/diagnoses_icd"):
        if r["seq_num"] == "1":
            principal[r["hadm_id"]] = heart(r["icd_code"], r["icd_version"])
    for r in rows("hosp/admissions"):
        admissions[r["subject_id"]].append(r)
    labels = Counter()
    for stay_id, stay in expected[0].items():
        out = moment(stay["admission"]["dischtime"])
        soon = [a for a in admissions[stay["subject"]] if out < moment(a["admittime"]) <= out + timedelta(days=90)]
        back = any(principal[a["hadm_id"]] for a in soon)
        dead = stay["patient"]["dod"] and moment(stay["patient"]["dod"]) + timedelta(days=1) <= out + timedelta(days=90)
        year = int(stay["patient"]["anchor_year_group"][-4:]) + out.year - int(stay["patient"]["anchor_year"])
        known = stay["admission"]["hospital_expire_flag"] == "0" and year < 2019 and (back or not dead)
        found = samples.loc[stay_id, "cvd_90d"]
        assert (pd.isna(found) and not known) or found == back
        labels[None if pd.isna(found) else int(found)] += 1
    assert all(labels[value] > 0 for value in (0, 1, None))


@pytest.mark.parametrize(
    ("days", "code", "version", "seq", "dod", "group", "want"),
    [
        (60, "I214", "10", "1", "", "2008 - 2010", "1"),
        (60, "41071", "9", "1", "", "2008 - 2010", "1"),
        (60, "J189", "10", "1", "", "2008 - 2010", "0"),
        (60, "V4581", "9", "1", "", "2008 - 2010", "0"),
        (60, "460", "9", "1", "", "2008 - 2010", "0"),
        (60, "I214", "10", "2", "", "2008 - 2010", "0"),  # not what he was admitted for
        (91, "I214", "10", "1", "", "2008 - 2010", "0"),
        (60, "I214", "10", "1", "70", "2008 - 2010", "1"),
        (60, "J189", "10", "1", "70", "2008 - 2010", ""),  # died, nobody knows of what
        (60, "J189", "10", "1", "120", "2008 - 2010", "0"),
        (60, "I214", "10", "1", "", "2017 - 2019", ""),  # may be the last year
    ],
)
def test_cardiovascular_readmission(small, tmp_path, days, code, version, seq, dod, group, want):
    admissions, patients = table(small, "hosp/admissions"), table(small, "hosp/patients")
    first = admissions[admissions["subject_id"] == "10004422"].iloc[[0]]
    out = moment(first["dischtime"].iloc[0])
    again = first.assign(
        hadm_id="29999999", admittime=str(out + timedelta(days=days)), dischtime=str(out + timedelta(days=99))
    )
    diagnosis = (
        table(small, "hosp/diagnoses_icd")
        .iloc[[0]]
        .assign(subject_id="10004422", hadm_id="29999999", seq_num=seq, icd_code=code, icd_version=version)
    )
    me = patients["subject_id"] == "10004422"
    patients.loc[me, "anchor_year_group"] = group
    patients.loc[me, "dod"] = str((out + timedelta(days=int(dod))).date()) if dod else ""
    write(small / "hosp" / "patients.csv.gz", patients)
    write(small / "hosp" / "admissions.csv.gz", pd.concat([admissions, again]))
    write(small / "hosp" / "diagnoses_icd.csv.gz", pd.concat([table(small, "hosp/diagnoses_icd"), diagnosis]))
    import_mimic_iv(small, tmp_path / "out")
    row = one(tmp_path / "out", STAY)
    assert row["cvd_90d"].removesuffix(".0") == want
    assert row["survival_event"].removesuffix(".0") == ("1" if dod else "0")
    if dod:  # the end of the day of death
        end = datetime.combine(out.date(), datetime.min.time()) + timedelta(days=int(dod) + 1)
        assert float(row["survival_days"]) == pytest.approx((end - INDEX) / timedelta(days=1), abs=1e-5)


@pytest.fixture
def ccs(tmp_path):
    """AHRQ's two files in form; the categories are dealt out to the demo's own codes, so that all occur."""
    folder = tmp_path / "ccs"
    folder.mkdir()
    codes = {"9": set(), "10": set()}
    for r in rows("hosp/diagnoses_icd"):
        codes[r["icd_version"]].add(r["icd_code"].strip())
    ids = [*PHENOTYPES.values(), 259]
    table = {(v, c): ids[n % 26] for v, found in codes.items() for n, c in enumerate(sorted(found))}
    nine = [f"'{c:5}','{k:<5}','Group','TEXT',' ',' '" for (v, c), k in table.items() if v == "9"]
    ten = [f"'{c}','{k}',\"Text, more\",'Group'" for (v, c), k in table.items() if v == "10"]
    head = "'CCS CATEGORY'"
    nine_head = ["Prose.", f"'ICD-9-CM CODE',{head},'CCS CATEGORY DESCRIPTION','ICD-9-CM CODE DESCRIPTION','',''"]
    (folder / "$dxref 2015.csv").write_text("\n".join([*nine_head, *nine]) + "\n")
    ten_head = f"'ICD-10-CM CODE',{head},'ICD-10-CM CODE DESCRIPTION','CCS CATEGORY DESCRIPTION'"
    (folder / "ccs_dx_icd10cm_2019_1.csv").write_text("\n".join([ten_head, *ten]) + "\n")
    return folder, table


@pytest.mark.parametrize("given", ["both", "9"])
def test_phenotypes_equal_a_loop(ccs, tmp_path, expected, given):
    folder, table = ccs
    done = import_mimic_iv(SOURCE, tmp_path / "out", ccs=folder if given == "both" else folder / "$dxref 2015.csv")
    having, versions = defaultdict(set), {}
    for r in rows("hosp/diagnoses_icd"):
        having[r["hadm_id"]].add(table[r["icd_version"], r["icd_code"].strip()])
        versions[r["hadm_id"]] = r["icd_version"]
    study = load_study(done.study)
    assert study.tasks["phenotypes"].labels == tuple(PHENOTYPES)
    read = Counter()
    for site in done.records:
        cohort, report = load_cohort(load_site(tmp_path / "out" / site), study)
        assert not report.quarantined
        for n, sample in enumerate(cohort.sample_ids):
            hadm = expected[0][sample]["hadm"]
            known = given == "both" or versions[hadm] == "9"
            assert (cohort.target_mask["phenotypes"][n] == known).all()
            want = [float(known and category in having[hadm]) for category in PHENOTYPES.values()]
            assert cohort.targets["phenotypes"][n].tolist() == want
            read[known] += 1
    assert read[True] == 67 if given == "both" else min(read[True], read[False]) > 10
