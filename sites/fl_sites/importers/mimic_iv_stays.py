"""Which ICU stays become samples, at which pseudo-site, and what is known of the patient at the index time."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from fl_shared.errors import Fault
from fl_sites.importers.imported import incomplete
from fl_sites.importers.mimic_iv_source import NAME, REQUIRED, Source, read

HOURS = 48  # of the stay that a prediction may use; the task of Harutyunyan et al. 2019 and of MedFuse
REACH = pd.Timedelta(days=7)  # how far before the index time measurements, reports and ECGs are taken
_ADULT = 18  # years
_OVER_89 = 91  # years: how the release writes every age above 89
_OMR = {"Height (Inches)": "height", "Weight (Lbs)": "weight", "BMI (kg/m2)": "bmi"}
_OMR |= {"Height": "height", "Weight": "weight", "BMI": "bmi"}

UNIT_TYPES: Mapping[str, str] = {
    "Coronary Care Unit (CCU)": "icu_coronary",
    "Medicine/Cardiology": "icu_coronary",
    "Medicine/Cardiology Intermediate": "icu_coronary",
    "Cardiac Vascular Intensive Care Unit (CVICU)": "icu_cardiac_surgery",
    "Cardiac Surgery": "icu_cardiac_surgery",
    "Cardiology Surgery Intermediate": "icu_cardiac_surgery",
    "Medical Intensive Care Unit (MICU)": "icu_medical",
    "Medical/Surgical Intensive Care Unit (MICU/SICU)": "icu_medical",
    "Intensive Care Unit (ICU)": "icu_medical",
    "Medicine": "icu_medical",
    "Med/Surg": "icu_medical",
    "Surgical Intensive Care Unit (SICU)": "icu_surgical",
    "Trauma SICU (TSICU)": "icu_surgical",
    "Neuro Surgical Intensive Care Unit (Neuro SICU)": "icu_surgical",
    "Neuro Intermediate": "icu_surgical",
    "Neuro Stepdown": "icu_surgical",
    "Neurology": "icu_surgical",
    "Surgery/Trauma": "icu_surgical",
    "Surgery/Vascular/Intermediate": "icu_surgical",
    "PACU": "icu_surgical",
}
"""First care unit of the stay -> pseudo-site; any other unit is ``icu_other``."""


def choose_stays(source: Source) -> tuple[pd.DataFrame, dict[str, int]]:
    """The stays that become samples, and how many were left out, by reason.

    One row a stay, ordered by patient and time: ``subject_id``, ``hadm_id``, ``stay_id``, ``site``, ``intime``,
    ``outtime``, ``index_time`` (48 h after ``intime``), the columns of its admission and of its patient, ``age``.

    Each stay is left out for the first reason that holds. A patient's stays at any but his first pseudo-site are left
    out: a patient at a training and at the external site would spoil the external result.

    Raises:
        ConsiliumError: (exit code 12) the tables do not belong together.
    """
    patients, admissions, stays = (
        read(source.root / name, REQUIRED[name])
        for name in ("hosp/patients.csv.gz", "hosp/admissions.csv.gz", "icu/icustays.csv.gz")
    )
    _check_links(source, patients, admissions, stays)
    table = stays.merge(admissions, on=["subject_id", "hadm_id"]).merge(patients, on="subject_id")
    table["index_time"] = table["intime"] + pd.Timedelta(hours=HOURS)
    table["age"] = table["anchor_age"] + table["index_time"].dt.year - table["anchor_year"]
    table["age"] = table["age"].mask(table["age"] > 89, _OVER_89)
    table["site"] = table["first_careunit"].map(UNIT_TYPES).fillna("icu_other")
    table = table.sort_values(["subject_id", "intime", "stay_id"], ignore_index=True)
    reasons = {
        "begin or end of the stay not known": table["intime"].isna() | table["outtime"].isna(),
        f"younger than {_ADULT} years": table["age"] < _ADULT,
        f"shorter than {HOURS} h": table["outtime"] - table["intime"] < pd.Timedelta(hours=HOURS),
        f"dead or discharged from hospital within {HOURS} h": (table["deathtime"] <= table["index_time"])
        | (table["dischtime"] <= table["index_time"]),
    }
    left_out = {}
    for reason, bad in reasons.items():
        bad = bad.loc[table.index]
        left_out[reason] = int(bad.sum())
        table = table[~bad]
    away = table["site"] != table.groupby("subject_id")["site"].transform("first")
    left_out["patient at an earlier unit type"] = int(away.sum())
    if table.empty:
        mend = "Use a download with stays that can be used."
        reasons_found = ", ".join(f"{n} {reason}" for reason, n in left_out.items() if n)
        fault = Fault(file="icu/icustays.csv.gz", key="rows", value=reasons_found, problem="no stay is left", mend=mend)
        raise incomplete(source.root, NAME, [fault])
    return table[~away].reset_index(drop=True), left_out


def body_measures(source: Source, stays: pd.DataFrame) -> pd.DataFrame:
    """Columns ``height`` (inches), ``weight`` (pounds) and ``bmi`` of each stay: the last of an earlier day than the
    index time's, since the outpatient record (hosp/omr) has days only.
    """
    name = "hosp/omr.csv.gz"
    omr = read(source.root / name, REQUIRED[name], subjects=set(stays["subject_id"]))
    omr["what"] = omr["result_name"].map(_OMR)
    omr["value"] = pd.to_numeric(omr["result_value"], errors="coerce")
    omr = omr.dropna(subset=["what", "value", "chartdate"])
    known = omr.merge(stays[["subject_id", "stay_id", "index_time"]], on="subject_id")
    known = known[known["chartdate"] < known["index_time"].dt.normalize()]
    known = known.sort_values(["chartdate", "seq_num"])  # seq_num: the order within a day
    last: pd.DataFrame = known.groupby(["stay_id", "what"])["value"].last().unstack("what")
    return last.reindex(index=stays["stay_id"].to_numpy(), columns=["height", "weight", "bmi"]).set_index(stays.index)


def _check_links(source: Source, patients: pd.DataFrame, admissions: pd.DataFrame, stays: pd.DataFrame) -> None:
    """Every stay has its admission and its patient, and ids are unique: tables of one release do."""
    faults = []
    for name, table, keys in (
        ("hosp/patients.csv.gz", patients, ["subject_id"]),
        ("hosp/admissions.csv.gz", admissions, ["subject_id", "hadm_id"]),
        ("icu/icustays.csv.gz", stays, ["stay_id"]),
    ):
        if twice := int(table[keys[-1]].duplicated().sum()):
            faults.append((name, keys[-1], f"{twice} rows", "used in an earlier row too"))
        there = pd.MultiIndex.from_frame(table[keys])
        if absent := int((~pd.MultiIndex.from_frame(stays[keys]).isin(there)).sum()):
            faults.append((name, keys[-1], f"{absent} of {len(stays)} stays", "the stay has no row here"))
    if faults:
        mend = "Take all tables from one release, unmodified."
        found = [Fault(file=str(source.root / n), key=k, value=v, problem=p, mend=mend) for n, k, v, p in faults]
        raise incomplete(source.root, NAME, found)
