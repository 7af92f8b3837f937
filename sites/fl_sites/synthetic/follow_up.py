"""Draws the course after a patient's last record, and what each record's row of the samples table says of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_sites.synthetic.outcomes import (
    ADMITTED,
    BINARY,
    CLOSED,
    COURSE,
    EARLY,
    ELECTIVE,
    EVENTS,
    FOLLOW_UP,
    LONG,
    LONG_STAY,
    MACCE,
    QUARTER,
    YEAR,
    Hazards,
    hazards,
    risks,
)
from fl_sites.synthetic.phenotypes import FIRST, LATER, PHENOTYPES, phenotype_risks

Floats = NDArray[np.float64]
_SHARED = ("cardiac", "other", "arrhythmia", "mi", "stroke", "revascularisation")  # in the stay and after it
DAY = 86_400  # seconds


def draw_outcomes(rng: np.random.Generator, patients: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """``records`` with the columns `outcomes.COLUMNS` and ``risk_<outcome>`` of every binary one.

    An outcome "within a year" is counted from each record's own index time. A later record of the same patient is an
    elective readmission.
    """
    stay = records.groupby("patient_id", sort=False)["stay"].last()
    people = patients.assign(stay=patients["patient_id"].map(stay))
    hazard = hazards(people)
    times, cause = draw_times(rng, hazard)
    coded = _phenotypes(rng, people, FIRST)
    suggested = _follow_up(rng, people)
    # drawn after all that was there before them, so that it stays as it was
    coded |= _phenotypes(rng, people, LATER)
    times |= _course(rng, hazard, times["death"])
    drawn = times | {f"phenotype_{name}": coded[name] for name in PHENOTYPES}
    course = pd.DataFrame(drawn | {"cause": cause, "follow_up": suggested})
    row = records["patient_id"].map(pd.Series(people.index, index=people["patient_id"])).to_numpy()
    own = Hazards(stay=hazard.stay[row], rate={name: rate[row] for name, rate in hazard.rate.items()})
    true = risks(people.iloc[row], own, gap=records["gap"].to_numpy())
    told = _labels(records, course.iloc[row].reset_index(drop=True))
    return pd.concat([records, pd.DataFrame(told | true, index=records.index)], axis=1)


def draw_times(rng: np.random.Generator, hazard: Hazards) -> tuple[dict[str, Floats], NDArray[np.str_]]:
    """Days (n,) from the index time to each event (infinite: not before death), and the cause of death (n,)."""

    def wait(rate: Floats | float) -> Floats:
        return np.asarray(rng.exponential(size=len(hazard.stay)) / rate, dtype=np.float64)

    stay, worse = hazard.stay, hazard.rate["decompensation"]
    times = {name: hazard.days(wait(hazard.rate[name])) for name in _SHARED}
    in_stay, outpatient = wait(worse), stay + wait((1 - ADMITTED) * worse)
    times["hf_hospitalisation"] = stay + wait(ADMITTED * worse)
    after = np.minimum(outpatient, times["hf_hospitalisation"])
    times["decompensation"] = np.where(in_stay < EARLY * stay, in_stay / EARLY, after)
    times["elective"] = stay + wait(ELECTIVE)
    cardiac, other = times.pop("cardiac"), times.pop("other")
    death = np.minimum(cardiac, other)
    before = {name: np.where(time < death, time, np.inf) for name, time in times.items()}
    return before | {"death": death}, np.where(cardiac < other, "cardiac", "other")


def _course(rng: np.random.Generator, hazard: Hazards, death: Floats) -> dict[str, Floats]:
    """Days (n,) from the index time until the ejection fraction is found recovered or worse (infinite: not alive)."""
    found = {name: hazard.stay + rng.exponential(size=len(death)) / hazard.rate[name] for name in COURSE}
    return {name: np.where(time < death, time, np.inf) for name, time in found.items()}


def _phenotypes(rng: np.random.Generator, people: pd.DataFrame, names: tuple[str, ...]) -> dict[str, NDArray[np.int64]]:
    risk = phenotype_risks(people)
    return {name: rng.binomial(1, risk[name]) for name in names}


def _follow_up(rng: np.random.Generator, people: pd.DataFrame) -> NDArray[np.str_]:
    """What the discharge letter suggests: (n,) of `FOLLOW_UP`, drawn from a multinomial logistic model."""
    weak = (42 - people["ejection_fraction"]) / 6
    score = np.stack([0 * weak + 0.3, 0.9 * people["severity"], weak + 0.5 * people["rhythm"]], axis=1)
    drawn = np.argmax(score + rng.gumbel(size=score.shape), axis=1)
    return np.array([FOLLOW_UP[index] for index in drawn])


def _labels(records: pd.DataFrame, course: pd.DataFrame) -> dict[str, pd.Series | NDArray[np.generic]]:
    """Columns of the samples table; ``course`` has a row for each record, times from the patient's last one."""
    gap, stay = records["gap"], records["stay"]
    last = gap == 0
    death = course["death"]
    followed = (CLOSED - records["index_time"]).dt.total_seconds() / DAY
    year = {name: course[name] + gap <= YEAR for name in ("death", *EVENTS, *MACCE, *COURSE)}
    cardiac = death.where(course["cause"] == "cardiac", np.inf)
    first = pd.concat([course[name] for name in MACCE] + [cardiac], axis=1).min(axis=1)
    again = _readmission(records, course)
    seen = np.minimum(death + gap, followed)
    days = np.where(last, np.minimum(stay, death), stay)
    found = year | {"cvd_90d": first + gap <= QUARTER, "in_hospital_death": last & (death <= stay)}
    found |= {LONG_STAY: pd.Series(days > LONG, index=records.index)}
    found |= {f"phenotype_{name}": course[f"phenotype_{name}"] for name in PHENOTYPES}
    return {
        **{name: found[name].astype(int) for name in BINARY},
        "death_days": seen,
        "death_event": (death + gap <= followed).astype(int),
        "death_cause": course["cause"].where(death + gap <= followed, ""),
        "readmission_days": np.minimum(again, seen),
        "readmission_event": (again <= seen).astype(int),
        **{f"{name}_days": np.minimum(course[name] + gap, seen) for name in COURSE},
        **{f"{name}_event": (course[name] + gap <= seen).astype(int) for name in COURSE},
        "los_days": days,
        "follow_up": course["follow_up"],
    }


def _readmission(records: pd.DataFrame, course: pd.DataFrame) -> pd.Series:
    """Days to the first admission after discharge, death and the end of follow-up not yet looked at."""
    kinds = ("hf_hospitalisation", "elective", "mi", "stroke", "revascularisation")
    later = [course[name].where(course[name] > records["stay"], np.inf) for name in kinds]
    drawn = pd.concat(later, axis=1).min(axis=1)
    next_gap = records.groupby("patient_id", sort=False)["gap"].shift(-1)
    return drawn.where(records["gap"] == 0, records["gap"] - next_gap)
