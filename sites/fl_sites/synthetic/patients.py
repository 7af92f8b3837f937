"""Draws patients: latent state, true risks, outcomes, records and table values.

Two latent variables, each N(mean, 1): ``severity`` (heart failure) moves the ECG's ST, T, QRS and rate, the
laboratory values and the symptoms; ``rhythm`` moves the regularity of the beats. Outcomes are drawn from the true
risks, so that the best possible discrimination is known.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from fl_shared.concepts import concept
from fl_sites.synthetic.hospitals import Hospital

OUTCOMES = ("death", "decompensation", "arrhythmia")
MEASURED = ("sbp", "heart_rate", "lvef", "creatinine", "nt_probnp", "sodium", "haemoglobin")
_RECORDS = (0.85, 0.10, 0.05)  # share of patients with 1, 2, 3 records


def draw_patients(rng: np.random.Generator, hospital: Hospital, *, count: int) -> pd.DataFrame:
    """One row a patient: ``patient_id``, latent state, age (a), sex (1: female), ``risk_<outcome>``, ``<outcome>``."""
    severity, rhythm = rng.normal(hospital.severity, 1, count), rng.normal(0, 1, count)
    age = np.clip(rng.normal(66, 11, count), 25, 95).round()
    risk = {
        "death": expit(-1.6 + 1.5 * severity + 0.5 * (age - 65) / 10),
        "decompensation": expit(-0.9 + 1.7 * severity),
        "arrhythmia": expit(-1.1 + 1.6 * rhythm + 0.3 * severity),
    }
    return pd.DataFrame(
        {
            "patient_id": [f"{number:06d}" for number in range(1, count + 1)],
            "severity": severity,
            "rhythm": rhythm,
            "age": age,
            "sex": rng.binomial(1, 0.45, count),
            **{f"risk_{name}": value for name, value in risk.items()},
            **{name: rng.binomial(1, value) for name, value in risk.items()},
        }
    )


def draw_records(rng: np.random.Generator, hospital: Hospital, patients: pd.DataFrame) -> pd.DataFrame:
    """One row a record, in time: the patient's columns, ``sample_id``, ``index_time``, values in the concepts' units.

    A record's ``severity`` and ``rhythm`` waver around the patient's. Laboratory values are missing at random.
    """
    repeats = rng.choice([1, 2, 3], size=len(patients), p=_RECORDS)
    records = patients.loc[np.repeat(patients.index, repeats)].reset_index(drop=True)
    count = len(records)
    nth = records.groupby("patient_id").cumcount()
    gap = pd.Series(rng.integers(90, 300, count)).where(nth > 0, rng.integers(0, 1000, count))
    days = gap.groupby(records["patient_id"]).cumsum()
    seconds = rng.integers(8 * 3600, 18 * 3600, count)  # office hours: no hour that the clock change skips
    records["index_time"] = (
        pd.Timestamp("2021-01-01") + pd.to_timedelta(days, unit="D") + pd.to_timedelta(seconds, unit="s")
    )
    records["sample_id"] = records["patient_id"] + "-" + (nth + 1).astype(str)
    records["severity"] += rng.normal(0, 0.25, count)
    records["rhythm"] += rng.normal(0, 0.25, count)
    return records.assign(**_measure(rng, hospital, records["severity"].to_numpy()))


def _measure(
    rng: np.random.Generator, hospital: Hospital, severity: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Values that follow the severity, in the concepts' own units, within their plausible limits."""

    def noise(scale: float) -> NDArray[np.float64]:
        return rng.normal(0, scale, len(severity))

    values = {
        "sbp": 130 - 6 * severity + noise(14),
        "heart_rate": 74 + 6 * severity + noise(8),
        "lvef": 52 - 7 * severity + noise(6),
        "creatinine": 88 * np.exp(0.18 * severity + noise(0.25)),
        "nt_probnp": 450 * np.exp(0.9 * severity + noise(0.8)),
        "sodium": 139.5 - 1.2 * severity + noise(2.2),
        "haemoglobin": 137 - 5 * severity + noise(13),
    }
    for name, value in values.items():
        value[:] = np.clip(value, concept(name).min + 1, concept(name).max)
        if name not in {"sbp", "heart_rate"}:  # vital signs are always taken
            value[rng.random(len(value)) < hospital.missing["laboratory"]] = np.nan
    return values
