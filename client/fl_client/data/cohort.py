"""The cohort: a site's validated samples of one study as plain arrays. It never leaves the site runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_shared.errors import Fault


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """N samples of P patients.

    patient: (N,) int64 patient number 0..P-1; held_out: (P,) bool, never trained on;
    inputs: modality -> named arrays (N, …) as in `fl_shared.models.interface.Batch`; present: modality -> (N,) bool;
    targets: task -> (N, C) float32, segmentation: (N, frames, slices, size, size) uint8; target_mask: task -> (N, C) or
    (N, frames, slices) bool.

    Where the study asks for it: traits: concept -> (N,) in its unit, NaN where missing; groups: subgroup variable ->
    (N,) name, '' where there is none; report: of reading it.
    """

    site: str
    sample_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    patient: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    inputs: Mapping[str, Mapping[str, NDArray[np.generic]]]
    present: Mapping[str, NDArray[np.bool_]]
    targets: Mapping[str, NDArray[Any]]
    target_mask: Mapping[str, NDArray[np.bool_]]
    traits: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    report: CheckReport | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)

    def rows(self, *, held_out: bool) -> NDArray[np.int64]:
        """Sample numbers of the held-out (or the training) patients."""
        return np.flatnonzero(self.held_out[self.patient] == held_out)


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A sample (or one modality of it) set aside, and why."""

    row: int
    modality: str | None
    check: str
    detail: str  # may name files: stays at the site


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What `check` found: rejects (the site cannot take part), quarantined samples, repairs."""

    rows: int
    rejects: Sequence[Fault]
    quarantined: Sequence[Quarantined]
    repairs: Mapping[str, int]  # what was repaired or set missing -> how often
    flow: Mapping[str, int]  # samples left after each step: rows, index_time_ok, after_outcome_check, usable
