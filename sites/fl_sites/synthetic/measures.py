"""Measured quantities that follow the latent state: one table for the samples and for the series before them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_shared.concepts import Concept, concept

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How a quantity depends on the state, in the concept's own unit.

    centre: at severity 0; severity, kidney, diabetes: change for one unit of that state; spread: standard deviation
    of what the state does not explain; ratio: the changes multiply (they are on the logarithm) instead of adding.
    """

    centre: float
    severity: float
    spread: float
    kidney: float = 0.0
    diabetes: float = 0.0
    ratio: bool = False


MEASURES: Mapping[str, Measure] = {
    "sbp": Measure(centre=130, severity=-6, spread=14),
    "heart_rate": Measure(centre=74, severity=6, spread=8),
    "creatinine": Measure(centre=88, severity=0.18, spread=0.12, kidney=0.22, ratio=True),
    "nt_probnp": Measure(centre=450, severity=0.9, spread=0.8, ratio=True),
    "sodium": Measure(centre=139.5, severity=-1.2, spread=2.2),
    "haemoglobin": Measure(centre=137, severity=-5, spread=13),
    "potassium": Measure(centre=4.2, severity=0.08, spread=0.35, kidney=0.15),
    "troponin": Measure(centre=9, severity=0.6, spread=0.7, ratio=True),
    "crp": Measure(centre=4, severity=0.3, spread=0.9, ratio=True),
    "glucose": Measure(centre=5.6, severity=0.02, spread=0.15, diabetes=0.35, ratio=True),
    "lactate": Measure(centre=1.1, severity=0.12, spread=0.25, ratio=True),
    "respiratory_rate": Measure(centre=16, severity=1.2, spread=2.0),
    "spo2": Measure(centre=96.5, severity=-0.8, spread=1.2),
    "temperature": Measure(centre=36.8, severity=0.0, spread=0.3),
}
VITAL_SIGNS = ("sbp", "heart_rate", "respiratory_rate", "spo2", "temperature")
LABORATORY = tuple(name for name in MEASURES if name not in VITAL_SIGNS)


@dataclass(frozen=True, kw_only=True)
class State:
    """The latent state at each of n moments: arrays (n,), or numbers that hold for all of them."""

    severity: Floats
    kidney: Floats | float
    diabetes: Floats | float


def draw_measure(rng: np.random.Generator, name: str, state: State) -> Floats:
    """Values (n,) of the quantity in the concept's own unit, within the concept's plausible limits."""
    measure = MEASURES[name]
    moved = measure.severity * state.severity + measure.kidney * state.kidney + measure.diabetes * state.diabetes
    moved = moved + rng.normal(0, measure.spread, len(state.severity))
    return plausible(measure.centre * np.exp(moved) if measure.ratio else measure.centre + moved, name)


def plausible(values: Floats, name: str) -> Floats:
    """Values cut to the limits beyond which a reader sets them missing."""
    what = concept(name)
    # a value at the very limit would be lost when it is rounded in another unit
    margin = 1e-3 * (what.max - what.min)
    return np.clip(values, what.min if what.log else what.min + margin, what.max - margin)


def in_unit(values: Floats, unit: str, what: Concept) -> Floats:
    """Values in the concept's own unit -> in ``unit``: the inverse of `fl_shared.concepts.convert`."""
    rule = what.units.get(unit, 1.0) if unit != what.unit else 1.0
    factor, offset = rule if isinstance(rule, tuple) else (rule, 0.0)
    return np.asarray((values - offset) / factor, dtype=np.float64)
