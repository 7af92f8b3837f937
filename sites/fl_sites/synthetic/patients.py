"""Draws patients and their records: the latent state, the heart that follows it, and the values of the table.

Two latent variables, each N(mean, 1): ``severity`` (heart failure) and ``rhythm`` (arrhythmia). The heart follows the
severity: ejection fraction (%), end-diastolic volume (mL), wall thickness (mm), scar (share of the circumference) and
QRS duration (ms). Every modality is drawn from these: the cine from the heart, the ECG from QRS, scar and rhythm, the
laboratory values from severity, kidney and diabetes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit

from fl_sites.synthetic.hospitals import Hospital
from fl_sites.synthetic.measures import State, draw_measure, plausible

MEASURED = ("sbp", "heart_rate", "lvef", "creatinine", "nt_probnp", "sodium", "haemoglobin")
"""Concepts of the samples table besides age and sex."""

HEART = ("ejection_fraction", "volume", "wall", "scar", "scar_angle", "qrs")
LATENT = ("severity", "rhythm", "kidney", "diabetes", "hypertension", *HEART)
STAY = (1.4, 0.3, 0.5)  # logarithm of the planned days: at severity 0, for one unit of it, standard deviation
SCAR_LIMIT = 0.35  # of the circumference
_RECORDS = (0.85, 0.10, 0.05)  # share of patients with 1, 2, 3 records


def draw_patients(rng: np.random.Generator, hospital: Hospital, *, count: int) -> pd.DataFrame:
    """One row a patient: ``patient_id``, age (a), sex (1: female) and the columns of `LATENT`."""
    severity, rhythm = rng.normal(hospital.severity, 1, count), rng.normal(0, 1, count)
    age = np.clip(rng.normal(66, 11, count), 25, 95).round()
    patients = pd.DataFrame(
        {
            "patient_id": [f"{int(hospital.first_id) + n:0{len(hospital.first_id)}d}" for n in range(count)],
            "severity": severity,
            "rhythm": rhythm,
            "age": age,
            "sex": rng.binomial(1, 0.45, count),
            "kidney": rng.normal(0, 1, count) + 0.3 * severity,
            "diabetes": rng.binomial(1, expit(-1.1 + 0.3 * severity)),
            "hypertension": rng.binomial(1, expit(0.2 + 0.3 * (age - 65) / 10)),
        }
    )
    return patients.assign(**_heart(rng, patients))


def _heart(rng: np.random.Generator, patients: pd.DataFrame) -> dict[str, pd.Series]:
    """Columns `HEART`, linked to the severity and to one another."""
    severity, count = patients["severity"], len(patients)
    infarct = rng.binomial(1, expit(-0.7 + 0.7 * severity))
    scar = infarct * np.clip(rng.normal(0.20, 0.07, count), 0.08, SCAR_LIMIT)
    ejection = 55 - 6 * severity - 25 * scar + rng.normal(0, 4, count)
    # what is left of the wall would have to thicken beyond measure for more
    ejection = np.clip(ejection, 12, np.minimum(74, 88 * (1 - 1.3 * scar)))
    size = 130 * np.exp(rng.normal(0, 0.12, count) - 0.015 * (ejection - 55)) * (1 - 0.15 * patients["sex"])
    wall = 8.5 + 1.8 * patients["hypertension"] + rng.normal(0, 0.9, count)
    qrs = 94 * np.exp(0.10 * severity + 0.35 * scar + rng.normal(0, 0.05, count))
    return {
        "ejection_fraction": ejection,
        "volume": np.clip(size, 70, 330),
        "wall": np.clip(wall, 6, 15),
        "scar": scar,
        "scar_angle": infarct * rng.uniform(-np.pi, np.pi, count),
        "qrs": np.clip(qrs, 70, 190),
    }


def draw_records(rng: np.random.Generator, hospital: Hospital, patients: pd.DataFrame) -> pd.DataFrame:
    """One row a record, in time: the patient's columns, ``sample_id``, ``index_time``, values in the concepts' units.

    A record's ``severity``, ``rhythm`` and ``ejection_fraction`` waver around the patient's. ``gap`` (d) is the time
    to the patient's last record, ``stay`` (d) the length of stay that is planned. Laboratory values are missing at
    random.
    """
    repeats = rng.choice([1, 2, 3], size=len(patients), p=_RECORDS)
    records = patients.loc[np.repeat(patients.index, repeats)].reset_index(drop=True)
    count = len(records)
    nth = records.groupby("patient_id").cumcount()
    gap = pd.Series(rng.integers(90, 300, count)).where(nth > 0, rng.integers(0, 1000, count))
    days = gap.groupby(records["patient_id"]).cumsum()
    seconds = rng.integers(8 * 3600, 18 * 3600, count)  # office hours: no hour that the clock change skips
    when = pd.Timestamp("2019-01-01") + pd.to_timedelta(days, unit="D") + pd.to_timedelta(seconds, unit="s")
    last = when.groupby(records["patient_id"]).transform("max")
    records["index_time"], records["gap"] = when, (last - when) / pd.Timedelta(days=1)
    records["sample_id"] = records["patient_id"] + "-" + (nth + 1).astype(str)
    centre, change, spread = STAY
    stay = np.exp(centre + change * records["severity"] + rng.normal(0, spread, count))
    records["stay"] = np.clip(stay, 0.5, 60)
    records["severity"] += rng.normal(0, 0.25, count)
    records["rhythm"] += rng.normal(0, 0.25, count)
    records["ejection_fraction"] = np.maximum(records["ejection_fraction"] + rng.normal(0, 1, count), 10)
    return records.assign(**_measure(rng, hospital, records))


def _measure(rng: np.random.Generator, hospital: Hospital, records: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns `MEASURED`; the ejection fraction is that of the heart, as an echocardiographer reads it."""
    state = State(**{name: records[name].to_numpy(dtype=float) for name in ("severity", "kidney", "diabetes")})
    values = {}
    for name in MEASURED:
        if name == "lvef":
            read = records["ejection_fraction"].to_numpy() + rng.normal(0, 3, len(records))
            values[name] = plausible(read, name)
        else:
            values[name] = draw_measure(rng, name, state)
        if name not in {"sbp", "heart_rate"}:  # vital signs are always taken
            values[name][rng.random(len(records)) < hospital.missing["laboratory"]] = np.nan
    return values
