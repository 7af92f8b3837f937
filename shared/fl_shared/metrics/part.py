"""One label of a task at one site: the samples that it judges, and what may be said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.bootstrap import Measure
from fl_shared.metrics.disclosure import Cell
from fl_shared.metrics.incidence import GroupCourse
from fl_shared.metrics.table import MetricName

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a model said of N samples, and what was true. Patients are numbers 0 to ``cohort`` - 1."""

    predictions: Floats  # (N, …) as `fl_shared.metrics.parts.predicted_shape` says
    targets: Floats  # (N, C)
    mask: NDArray[np.bool_]  # (N, C) true where the target is known
    patients: NDArray[np.int64]  # (N,)
    cohort: int
    min_patients: int

    @property
    def followed(self) -> NDArray[np.bool_]:
        """(N,) samples of which all columns are known: of a time to an event, both."""
        return np.asarray(self.mask.all(axis=1), dtype=np.bool_)

    def cell(self, label: str, known: NDArray[np.bool_], predicted: Floats, **more: object) -> Cell:
        """The cell of the ``known`` samples (N,), from their predictions."""
        finite = bool(np.isfinite(predicted[known]).all())
        return Cell(
            label=label,
            patients=self.patients[known],
            min_patients=self.min_patients,
            finite=finite,
            **more,  # type: ignore[arg-type]
        )


@dataclass(frozen=True, kw_only=True)
class Window:
    """The risk by one day. cell: of the outcome by then; points: predicted and observed risk, (3,) each."""

    day: float
    cell: Cell
    points: Callable[[], tuple[Floats, Floats]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One label of a task.

    known: (N,) samples that it judges. measure: built only where a value is given. scored: risks and outcomes of the
    known samples, where curves can be drawn. windows: of a timeline. groups: courses by predicted risk.
    """

    cell: Cell
    known: NDArray[np.bool_]
    metrics: tuple[MetricName, ...]
    measure: Callable[[], Measure]
    scored: tuple[Floats, Floats] | None = None
    windows: tuple[Window, ...] = ()
    groups: Callable[[], list[GroupCourse]] | None = None
