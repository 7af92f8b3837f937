"""What happens after a record: hazards of competing events, and the true risk of every outcome.

Death (cardiac or other), decompensation, arrhythmia, infarction, stroke and revascularisation run from the patient's
last record, each with a hazard that is `EARLY` times higher during that stay and constant afterwards; admissions start
at discharge, and so does the wait for the echocardiograms that find a recovered or a worse ejection fraction. All stop
at death. So every risk within a span has a closed form, given the latent state, the planned length of stay and the
dates of the visits; that is what ``risk_<outcome>`` holds. A long stay is the exception: the plan would give it away,
so its risk is that over all plans that the state allows. Every column of one record counts from that record's index
time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri

from fl_sites.synthetic.patients import STAY
from fl_sites.synthetic.phenotypes import PHENOTYPES, phenotype_risks

YEAR, QUARTER = 365.0, 90.0  # days
EARLY = 10.0
"""Hazard during the stay, relative to that afterwards."""

CLOSED = pd.Timestamp("2024-12-31")
"""End of follow-up: survival times are censored there."""

EVENTS = ("decompensation", "arrhythmia")
MACCE = ("mi", "stroke", "hf_hospitalisation", "revascularisation")
COURSE = ("recovery", "ef_decline")  # of the ejection fraction, found after discharge
FOLLOW_UP = ("routine", "clinic", "device")
CAUSES = ("cardiac", "other")
LONG = 7.0  # days of a long stay
LONG_STAY = "los_over_7d"
BINARY = (
    *("death", *EVENTS, *MACCE, "cvd_90d", "in_hospital_death", *COURSE, LONG_STAY),
    *(f"phenotype_{name}" for name in PHENOTYPES),
)
"""Outcomes of 0 or 1; each has a column ``risk_<outcome>``."""

DAYS = ("death_days", "readmission_days", *(f"{name}_days" for name in COURSE), "los_days")
COLUMNS = (
    *(*BINARY, *DAYS, "death_event", "readmission_event", *(f"{name}_event" for name in COURSE)),
    *("death_cause", "follow_up"),
)
"""Outcomes as the samples table holds them."""

ADMITTED = 0.7  # share of decompensations that lead to an admission
ELECTIVE = 0.5 / YEAR  # hazard of other admissions a day
Floats = NDArray[np.float64]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


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
    death = death_rate(patients, stay)
    cardiac = expit(0.3 + 0.8 * scar + 0.3 * severity)
    within_year = {
        "decompensation": expit(-0.9 + 1.7 * severity),
        "arrhythmia": expit(-1.1 + 1.6 * rhythm + 0.3 * severity),
        "mi": expit(-3.6 + 1.3 * infarct + 0.4 * age + 0.5 * patients["diabetes"]),
        "stroke": expit(-3.6 + 1.0 * rhythm + 0.5 * age),
        "revascularisation": expit(-2.6 + 1.5 * infarct + 0.3 * patients["diabetes"]),
    }
    # a day after discharge; the risks within a year, were there no death, are logistic
    found = {
        "recovery": expit(-0.4 - 1.2 * severity - 1.0 * infarct),
        "ef_decline": expit(-1.6 + 1.2 * severity + scar),
    }
    course = {name: -np.log1p(-found[name].to_numpy()) / YEAR for name in COURSE}
    rate = {name: _rate(risk.to_numpy(), death * year) / year for name, risk in within_year.items()}
    return Hazards(
        stay=stay,
        rate=rate | course | {"cardiac": death * cardiac.to_numpy(), "other": death * (1 - cardiac).to_numpy()},
    )


def death_rate(patients: pd.DataFrame, stay: Floats) -> Floats:
    """Hazard of death a day after a stay of so many days, such that the risk within a year does not depend on it."""
    alive = expit(1.6 - 1.5 * patients["severity"] - 0.5 * (patients["age"] - 65) / 10)
    return np.asarray(-np.log(alive.to_numpy()) / (YEAR + (EARLY - 1) * stay), dtype=np.float64)


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
    found = {name: incidence(rate[name], death, hazard.exposure(year)) for name in rate if name in (*EVENTS, *MACCE)}
    found |= {name: alive_at_discharge * incidence(rate[name], death, late) for name in COURSE}
    found |= {
        "death": -np.expm1(-death * hazard.exposure(year)),
        "hf_hospitalisation": alive_at_discharge * incidence(admitted, death, late),
        "cvd_90d": _any_cardiovascular(hazard, quarter),
        "in_hospital_death": np.where(gap > 0, 0.0, 1 - alive_at_discharge),
        LONG_STAY: _long_stay(patients, gap),
    }
    found |= {f"phenotype_{name}": risk for name, risk in phenotype_risks(patients).items()}
    return {f"risk_{name}": found[name] for name in BINARY}


def _any_cardiovascular(hazard: Hazards, span: Floats) -> Floats:
    """Risk of MACCE or cardiac death within ``span`` days, before another death."""
    rate, stay = hazard.rate, hazard.stay
    early = rate["mi"] + rate["stroke"] + rate["revascularisation"] + rate["cardiac"]
    later = early + ADMITTED * rate["decompensation"]
    in_stay = incidence(early, rate["other"], hazard.exposure(np.minimum(span, stay)))
    free = np.exp(-(early + rate["other"]) * hazard.exposure(stay))
    return in_stay + free * incidence(later, rate["other"], np.maximum(span - stay, 0.0))


def _long_stay(patients: pd.DataFrame, gap: Floats) -> Floats:
    """Risk of a stay of more than `LONG` days, over all planned stays; in the last record a death cuts it short.

    Of the share of patients who are planned to stay longer, the quantiles are at Gauss-Legendre nodes.
    """
    centre, change, spread = STAY
    middle = centre + change * patients["severity"].to_numpy()
    longer = ndtr((middle - np.log(LONG)) / spread)
    quantile = (1 - longer)[:, None] + longer[:, None] * (_NODES + 1) / 2
    stays = np.exp(middle[:, None] + spread * ndtri(quantile))
    alive = [np.exp(-death_rate(patients, stay) * EARLY * LONG) for stay in stays.T]
    share = np.where(gap > 0, 1.0, np.stack(alive, axis=1) @ (_WEIGHTS / 2))
    return np.asarray(longer * share, dtype=np.float64)
