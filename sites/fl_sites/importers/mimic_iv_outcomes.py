"""Outcomes of the chosen ICU stays: what happened after the index time, empty where it is not known.

Diagnoses are coded after discharge. They make labels here and never reach an input.
"""

from __future__ import annotations

import pandas as pd

from fl_sites.importers.ccs import PHENOTYPES, Ccs
from fl_sites.importers.mimic_iv_source import REQUIRED, Source, read

FOLLOWED = pd.Timedelta(days=365)
"""How long a fate is known after discharge: deaths later than a year after a patient's last discharge are not in the
release (mimic.mit.edu, patients: dod), and which discharge is the last is only known afterwards."""
CVD_DAYS = 90
_COLLECTED = 2019  # last year of every 2.x release; of later ones the last year of `anchor_year_group`
_DAY = pd.Timedelta(days=1)


def add_outcomes(source: Source, stays: pd.DataFrame, *, ccs: Ccs | None) -> pd.DataFrame:
    """The outcome columns of ``stays`` (same index).

    ``in_hospital_death`` 0/1 (the admission's ``hospital_expire_flag``); ``los_days`` length of the whole ICU stay;
    ``survival_days`` since the index time and ``survival_event`` 0/1; ``cvd_90d`` 0/1; with ``ccs`` also
    ``phenotype_<name>`` 0/1: a diagnosis of the admission is in the category.
    """
    subjects = set(stays["subject_id"])
    admissions, diagnoses = (
        read(source.root / name, REQUIRED[name], subjects=subjects)
        for name in ("hosp/admissions.csv.gz", "hosp/diagnoses_icd.csv.gz")
    )
    out = pd.DataFrame(index=stays.index)
    out["in_hospital_death"] = stays["hospital_expire_flag"]
    out["los_days"] = _days(stays["outtime"] - stays["intime"])
    out["survival_days"], out["survival_event"] = _survival(stays, _death(stays, admissions))
    out["cvd_90d"] = _cardiovascular(stays, admissions, diagnoses)
    return out if ccs is None else out.join(_phenotypes(stays, diagnoses, ccs))


def _days(time: pd.Series) -> pd.Series:
    days: pd.Series = time.dt.total_seconds() / 86_400
    return days.round(6)


def _death(stays: pd.DataFrame, admissions: pd.DataFrame) -> pd.Series:
    """When the patient died, as far as known: the hour where he died in hospital, else the end of the day ``dod``."""
    hour = admissions.groupby("subject_id")["deathtime"].max()
    death = stays["subject_id"].map(hour).fillna(stays["dod"].dt.normalize() + _DAY)
    here = stays["hospital_expire_flag"] == 1
    return stays["deathtime"].fillna(death).fillna(stays["dischtime"].where(here))


def _survival(stays: pd.DataFrame, death: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Days since the index time and event; censored `FOLLOWED` after the discharge of this stay's admission.

    That is the longest time for which everybody's fate is known: who comes back later is followed longer, so a later
    end would depend on the outcome. A death before the index time contradicts the stay and leaves both empty.
    """
    end = stays["dischtime"] + FOLLOWED
    event = death.notna() & (death <= end)
    time = _days(death.where(event, end) - stays["index_time"])
    known = time > 0
    return time.where(known), event.astype("Int64").where(known)


def _cardiovascular(stays: pd.DataFrame, admissions: pd.DataFrame, diagnoses: pd.DataFrame) -> pd.Series:
    """Admitted within `CVD_DAYS` after discharge with a principal diagnosis of the circulatory system.

    ICD-10 I00-I99 or ICD-9 390-459 as first diagnosis (``seq_num`` 1). Empty where 90 days cannot be overlooked:
    died in hospital, died within 90 days without such an admission (causes of death are not in the release), or
    discharged in what may be the last year of collection (the true year is known to three years).
    """
    first = diagnoses[diagnoses["seq_num"] == 1]
    heart = admissions[admissions["hadm_id"].isin(first.loc[circulatory(first), "hadm_id"])]
    end = stays["dischtime"] + pd.Timedelta(days=CVD_DAYS)
    later = stays.assign(end=end)[["subject_id", "stay_id", "dischtime", "end"]].merge(
        heart[["subject_id", "admittime"]], on="subject_id"
    )
    later = later[(later["admittime"] > later["dischtime"]) & (later["admittime"] <= later["end"])]
    admitted = stays["stay_id"].isin(later["stay_id"])
    group_end = stays["anchor_year_group"].str.extract(r"(\d{4})\s*$", expand=False).astype("Int64")
    latest = group_end + stays["dischtime"].dt.year - stays["anchor_year"]
    observed = (latest < max(_COLLECTED, group_end.max())).fillna(False).astype(bool)
    died = _death(stays, admissions) <= end
    known = (stays["hospital_expire_flag"] == 0) & observed & (admitted | ~died)
    return admitted.astype("Int64").where(known)


def circulatory(diagnoses: pd.DataFrame) -> pd.Series:
    """Whether each row's code is of the chapter of circulatory diseases: ICD-10 I00-I99, ICD-9 390-459."""
    code = diagnoses["icd_code"].str.strip()
    three = pd.to_numeric(code.str[:3], errors="coerce")  # V and E codes of ICD-9 are no numbers
    nine = (diagnoses["icd_version"] == 9) & three.between(390, 459)
    return nine | ((diagnoses["icd_version"] == 10) & code.str.startswith("I"))


def _phenotypes(stays: pd.DataFrame, diagnoses: pd.DataFrame, ccs: Ccs) -> pd.DataFrame:
    """0/1 columns; empty for an admission without diagnoses, or with one of an ICD version that ``ccs`` lacks."""
    codes = zip(diagnoses["icd_version"], diagnoses["icd_code"].str.strip().str.upper(), strict=True)
    rows = diagnoses.assign(category=[ccs.categories.get(code, 0) for code in codes])
    covered = rows["icd_version"].isin(ccs.versions).groupby(rows["hadm_id"]).all()
    known = stays["hadm_id"].map(covered).eq(True)
    columns = {}
    for name, category in PHENOTYPES.items():
        having = rows.loc[rows["category"] == category, "hadm_id"]
        columns[f"phenotype_{name}"] = stays["hadm_id"].isin(having).astype("Int64").where(known)
    return pd.DataFrame(columns, index=stays.index)
