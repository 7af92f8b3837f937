"""Read the concept file; convert and scale values by its fixed table."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fl_shared import toml
from fl_shared.errors import ConsiliumError, ExitCode, Fault, nearest
from fl_shared.toml import Name, Section

FILE = Path(__file__).with_name("concepts.toml")


class Concept(Section):
    """A quantity with its unit, its working range (scaled to -1 … 1) and its plausible limits."""

    name: Name
    title: str
    unit: str = Field(description="UCUM code in which values are kept")
    low: float
    high: float
    min: float
    max: float
    log: bool = Field(default=False, description="scale the logarithm: skewed laboratory values")
    units: dict[str, float | tuple[float, float]] = Field(
        default={}, description="other unit -> factor, or (factor, offset)"
    )
    codes: dict[str, float] = Field(default={}, description="words of a categorical concept")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.low < self.high <= self.max or (self.log and self.min <= 0):
            raise ValueError("the ranges are not min <= low < high <= max (above 0 for log). Correct them.")
        return self

    @property
    def known_units(self) -> tuple[str, ...]:
        """The concept's own unit, then the others that convert to it."""
        return (self.unit, *self.units)


class ConceptFile(Section):
    """``concepts.toml``."""

    schema_version: Literal[1] = Field(alias="schema")
    version: str
    concepts: dict[Name, Concept]

    @model_validator(mode="before")
    @classmethod
    def _name_each(cls, raw: dict[str, Any]) -> dict[str, Any]:
        return raw | {"concepts": {name: body | {"name": name} for name, body in raw["concepts"].items()}}


@cache
def _all() -> dict[str, Concept]:
    return toml.load(FILE, ConceptFile, code=ExitCode.FAILED).concepts


def names() -> tuple[str, ...]:
    """Every known concept, in the order of the file."""
    return tuple(_all())


def concept(name: str) -> Concept:
    """The concept of that name.

    Raises:
        ConsiliumError: unknown (the nearest known one is named).
    """
    if name not in _all():
        fault = Fault(file=FILE.name, key=name, problem="unknown concept", mend=nearest(name, _all()))
        raise ConsiliumError("unknown concept", code=ExitCode.DATA, faults=[fault])
    return _all()[name]


def convert(values: NDArray[np.floating[Any]], from_unit: str, to: Concept) -> NDArray[np.float64]:
    """Values in ``from_unit`` -> the concept's own unit, by the fixed table (NaN stays NaN).

    Raises:
        ConsiliumError: the table has no such unit for this concept.
    """
    if from_unit not in to.known_units:
        known = f"Known: {', '.join(to.known_units)}."  # units are too short for a useful guess
        fault = Fault(file=FILE.name, key=to.name, value=from_unit, problem="unknown unit", mend=known)
        raise ConsiliumError("unknown unit", code=ExitCode.DATA, faults=[fault])
    rule = to.units.get(from_unit, 1.0)
    factor, offset = rule if isinstance(rule, tuple) else (rule, 0.0)
    return np.asarray(values, dtype=np.float64) * factor + offset


def scale(values: NDArray[np.floating[Any]], by: Concept) -> NDArray[np.float32]:
    """Values in the concept's own unit -> about -1 … 1: ``low`` is -1 and ``high`` is 1, values beyond are not cut.

    Fixed for everybody, so that no statistic of a site is needed or revealed.
    """
    x, low, high = np.asarray(values, dtype=np.float64), by.low, by.high
    if by.log:
        x, low, high = np.log(x), float(np.log(low)), float(np.log(high))
    return np.asarray(2.0 * (x - low) / (high - low) - 1.0, dtype=np.float32)


def unscale(values: NDArray[np.floating[Any]], by: Concept) -> NDArray[np.float64]:
    """The inverse of `scale`: scaled values -> the concept's own unit (NaN stays NaN)."""
    share = (np.asarray(values, dtype=np.float64) + 1.0) / 2.0
    if by.log:
        return np.asarray(by.low * (by.high / by.low) ** share, dtype=np.float64)
    return np.asarray(by.low + share * (by.high - by.low), dtype=np.float64)


def digest() -> str:
    """SHA-256 of the concept file: part of what makes two sites' numbers comparable."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()
