"""What happens after a record: hazards of competing events, and the true risk of every outcome.

Death (cardiac or other), decompensation, arrhythmia, infarction, stroke and revascularisation run from the patient's
last record, each with a hazard that is `EARLY` times higher during that stay and constant afterwards; admissions start
at discharge. All stop at death. So every risk within a span has a closed form, given the latent state, the planned
length of stay and the dates of the visits; that is what ``risk_<outcome>`` holds. Every column of one record counts
from that record's index time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

YEAR, QUARTER = 365.0, 90.0  # days
EARLY = 10.0
"""Hazard during the stay, relative to that afterwards."""

CLOSED = pd.Timestamp("2024-12-31")
"""End of follow-up: survival times are censored there."""

EVENTS = ("decompensation", "arrhythmia")
MACCE = ("mi", "stroke", "hf_hospitalisation", "revascularisation")
PHENOTYPES = ("heart_failure", "ischaemic", "atrial_fibrillation", "kidney_disease", "diabetes", "hypertension")
FOLLOW_UP = ("routine", "clinic", "device")
CAUSES = ("cardiac", "other")
BINARY = ("death", *EVENTS, *MACCE, "cvd_90d", "in_hospital_death", *(f"phenotype_{name}" for name in PHENOTYPES))
"""Outcomes of 0 or 1; each has a column ``risk_<outcome>``."""

_TIMED = ("death_days", "death_event", "death_cause", "readmission_days", "readmission_event", "los_days")
COLUMNS = (*BINARY, *_TIMED, "follow_up")
"""Outcomes as the samples table holds them."""

ADMITTED = 0.7  # share of decompensations that lead to an admission
ELECTIVE = 0.5 / YEAR  # hazard of other admissions a day
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Hazards:
    """Arrays (n,): planned stay in days; hazard a day, after the stay, of each kind of event."""

    stay: Floats
    rate: Mapping[str, Floats]

    @property
    def death(self) -> Floats:
        """Hazard of death of any cause."""
        return self.rate["cardiac"] + self.rate["other"]

    def exposure(self, days: Floats | float) -> Floats:
        """Days since the index time, those of the stay counted `EARLY` times."""
        return days + (EARLY - 1) * np.minimum(days, self.stay)

    def days(self, exposure: Floats) -> Floats:
        """The inverse of `exposure`."""
        return np.where(exposure < EARLY * self.stay, exposure / EARLY, self.stay + (exposure - EARLY * self.stay))


def hazards(patients: pd.DataFrame) -> Hazards:
    """Hazards of patients (or of their last records), such that the risks within a year are logistic in the state."""
    severity, rhythm, age = patients["severity"], patients["rhythm"], (patients["age"] - 65) / 10
    scar, infarct = 5 * patients["scar"], patients["scar"] > 0
    stay = patients["stay"].to_numpy(dtype=float)
    year = YEAR + (EARLY - 1) * stay
    death = -np.log(expit(1.6 - 1.5 * severity - 0.5 * age)) / year  # the logarithm is of survival
    cardiac = expit(0.3 + 0.8 * scar + 0.3 * severity)
    within_year = {
        "decompensation": expit(-0.9 + 1.7 * severity),
        "arrhythmia": expit(-1.1 + 1.6 * rhythm + 0.3 * severity),
        "mi": expit(-3.6 + 1.3 * infarct + 0.4 * age + 0.5 * patients["diabetes"]),
        "stroke": expit(-3.6 + 1.0 * rhythm + 0.5 * age),
        "revascularisation": expit(-2.6 + 1.5 * infarct + 0.3 * patients["diabetes"]),
    }
    rate = {name: _rate(risk.to_numpy(), death.to_numpy() * year) / year for name, risk in within_year.items()}
    return Hazards(
        stay=stay,
        rate=rate | {"cardiac": (death * cardiac).to_numpy(), "other": (death * (1 - cardiac)).to_numpy()},
    )


def _rate(risk: Floats, death: Floats) -> Floats:
    """Cumulative hazard whose incidence under the cumulative hazard ``death`` is ``risk``: 60 bisections."""
    low, high = np.full(len(risk), np.log(1e-9)), np.full(len(risk), np.log(1e9))
    for _ in range(60):
        middle = (low + high) / 2
        below = incidence(np.exp(middle), death, 1.0) < risk
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(np.exp((low + high) / 2), dtype=np.float64)


def incidence(rate: Floats, competing: Floats, span: Floats | float) -> Floats:
    """Probability of an event of constant hazard ``rate`` within ``span``, before a competing one."""
    both = rate + competing
    return np.asarray(rate / both * -np.expm1(-both * span), dtype=np.float64)


def risks(patients: pd.DataFrame, hazard: Hazards, *, gap: Floats) -> dict[str, Floats]:
    """``risk_<outcome>`` of every `BINARY` outcome, arrays (n,).

    Args:
        patients: latent state, a row for each record.
        hazard: of the same rows.
        gap: days from the record to the patient's last one, up to which nothing happens.
    """
    rate, death, stay = hazard.rate, hazard.death, hazard.stay
    year, quarter = (np.maximum(span - gap, 0.0) for span in (YEAR, QUARTER))
    alive_at_discharge = np.exp(-death * hazard.exposure(stay))
    admitted, late = ADMITTED * rate["decompensation"], np.maximum(year - stay, 0.0)
    found = {
        name: incidence(rate[name], death, hazard.exposure(year)) for name in rate if name not in {"cardiac", "other"}
    }
    found |= {
        "death": -np.expm1(-death * hazard.exposure(year)),
        "hf_hospitalisation": alive_at_discharge * incidence(admitted, death, late),
        "cvd_90d": _any_cardiovascular(hazard, quarter),
        "in_hospital_death": np.where(gap > 0, 0.0, 1 - alive_at_discharge),
    }
    found |= {f"phenotype_{name}": risk for name, risk in _phenotypes(patients).items()}
    return {f"risk_{name}": found[name] for name in BINARY}


def _any_cardiovascular(hazard: Hazards, span: Floats) -> Floats:
    """Risk of MACCE or cardiac death within ``span`` days, before another death."""
    rate, stay = hazard.rate, hazard.stay
    early = rate["mi"] + rate["stroke"] + rate["revascularisation"] + rate["cardiac"]
    later = early + ADMITTED * rate["decompensation"]
    in_stay = incidence(early, rate["other"], hazard.exposure(np.minimum(span, stay)))
    free = np.exp(-(early + rate["other"]) * hazard.exposure(stay))
    return in_stay + free * incidence(later, rate["other"], np.maximum(span - stay, 0.0))


def _phenotypes(patients: pd.DataFrame) -> dict[str, Floats]:
    """Probability that the discharge codes name each phenotype: what is there is sometimes not coded."""
    kidney = 0.22 * patients["kidney"] + 0.18 * patients["severity"]
    found = {
        "heart_failure": expit((46 - patients["ejection_fraction"]) / 3 + 0.5 * patients["severity"]),
        "ischaemic": np.where(patients["scar"] > 0, 0.90, 0.12),
        "atrial_fibrillation": expit(-1.3 + 2.0 * patients["rhythm"]),
        "kidney_disease": expit(-2 + 6 * kidney),
        "diabetes": np.where(patients["diabetes"] > 0, 0.92, 0.03),
        "hypertension": np.where(patients["hypertension"] > 0, 0.90, 0.08),
    }
    return {name: np.asarray(found[name], dtype=np.float64) for name in PHENOTYPES}
