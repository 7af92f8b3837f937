"""Metrics of predicted risks from noised histograms: what is judged under `EvaluationPlan.epsilon`.

A label's patients are counted by predicted risk (`fl_shared.counts.RISKS`) and outcome, then noised; all here is
post-processing. Within a cell ranks are tied and the risk is the cell's middle. Sums are taken of the noised counts as
they are: without negative ones the noise of empty cells would add up (a Brier score of .145 became .165). Intervals
are a parametric bootstrap, Poisson counts plus the noise again. Where the noise is as large as the counts, so is the
interval: that is right, and a note says how the number came about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_shared.counts import RISKS
from fl_shared.histograms import projected
from fl_shared.metrics.bootstrap import interval
from fl_shared.metrics.disclosure import MIN_CELL, MIN_DEFINED, UNDEFINED
from fl_shared.metrics.table import METRICS, MetricName, metrics_of
from fl_shared.results import EvaluationRow
from fl_shared.study import TaskPlan
from fl_shared.task import RISKY

Floats = NDArray[np.float64]
NOISED: tuple[MetricName, ...] = ("auroc", "brier", "expected_observed")
EVENTS_WITHHELD = f"events withheld: fewer than {MIN_CELL} patients with, or without, the event"
WITHHELD = "withheld: it has no noised form"
NOISED_NOTE = r"noised: epsilon [0-9.e+-]{1,12} of the judged patients"
MIDDLES: Floats = (RISKS.edges[1:] + RISKS.edges[:-1]) / 2


def noised_note(epsilon: float) -> str:
    """What stands beside every noised number."""
    return f"noised: epsilon {epsilon:g} of the judged patients"


@dataclass(frozen=True, kw_only=True)
class Noised:
    """One label's counts (2, cells) of patients without and with the event, each cell with noise of deviation ``sd``.

    resamples, seed: of the bootstrap.
    """

    counts: NDArray[np.int64]
    sd: float
    resamples: int
    seed: int

    def values(self) -> dict[MetricName, float]:
        """The estimates; NaN where they are not defined."""
        return {name: float(value) for name, value in _metrics(*self.counts.astype(np.float64)).items()}

    def draws(self) -> dict[MetricName, Floats]:
        """Each metric (resamples,)."""
        rng, held = np.random.default_rng(self.seed), np.stack([projected(side) for side in self.counts])
        shape = (self.resamples, *held.shape)
        drawn = self.counts + (rng.poisson(held, size=shape) - held) + rng.normal(0.0, self.sd, size=shape)
        return _metrics(drawn[:, 0], drawn[:, 1])

    @property
    def sides(self) -> tuple[int, int]:
        """Patients without and with the event; 0 where the noise says fewer."""
        without, with_ = np.maximum(self.counts.sum(axis=1), 0).tolist()
        return without, with_


def _metrics(without: Floats, with_: Floats) -> dict[MetricName, Floats]:
    """Metrics (...,) of counts (..., cells), within their ranges; NaN where a side is not above 0."""
    others, events = without.sum(-1), with_.sum(-1)
    events = np.where((events > 0) & (others > 0), events, np.nan)
    ahead = (with_ * (np.cumsum(without, axis=-1) - without / 2)).sum(-1)
    squares = with_ @ (1 - MIDDLES) ** 2 + without @ MIDDLES**2
    return {
        "auroc": np.clip(ahead / (events * others), 0.0, 1.0),
        "brier": np.clip(squares / (events + others), 0.0, 1.0),
        "expected_observed": np.maximum((with_ + without) @ MIDDLES / events, 0.0),
    }


@dataclass(frozen=True, kw_only=True)
class Place:
    """Whose results these are."""

    site: str
    role: Literal["train", "external"]
    task: str
    modalities: str
    model: str


def noised_rows(
    place: Place, plan: TaskPlan, labels: Mapping[str, Noised], *, epsilon: float, min_patients: int
) -> list[EvaluationRow]:
    """Rows of a task: of each label's metrics, and of several labels their mean over the headline ones.

    Args:
        place: whose results these are.
        plan: of the task.
        labels: label -> its noised counts; none for a type of task that has no noised form.
        epsilon: of the judged patients.
        min_patients: a (noised) number of patients below it releases no number.
    """
    note, rows, found = noised_note(epsilon), [], {}
    for label in plan.told:
        numbers, why = {"n": None, "events": None}, WITHHELD
        if label in labels:
            numbers, why = _counts(*labels[label].sides, min_patients=min_patients)
        if not why:
            found[label] = _Found(n=numbers["n"], values=labels[label].values(), draws=labels[label].draws())
        for metric in metrics_of(plan.type):
            told = _nothing(why or WITHHELD)
            if not why and metric in NOISED:
                hidden = METRICS[metric].tells_events and numbers["events"] is None
                each = found[label].values[metric], found[label].draws[metric]
                told = _nothing(EVENTS_WITHHELD) if hidden else _estimate(metric, *each, note)
            rows.append(_row(place, label, metric, numbers | told))
    if len(plan.labels) > 1:
        rows += _macro(place, plan, found, note)
    return rows


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What was found of one label."""

    n: int | None
    values: dict[MetricName, float]
    draws: dict[MetricName, Floats]


def _macro(place: Place, plan: TaskPlan, found: Mapping[str, _Found], note: str) -> list[EvaluationRow]:
    labels = plan.headline or plan.told
    given = [found[label] for label in labels if label in found]
    counts = {"n": max((one.n or 0 for one in given), default=None), "events": None}
    if without := [label for label in labels if label not in found]:
        note = f"{note}; mean of {len(given)} of {len(labels)} labels, without {', '.join(without)}"
    rows = []
    for metric in metrics_of(plan.type):
        told = _nothing(WITHHELD)
        if metric in NOISED and not METRICS[metric].tells_events and plan.type in RISKY:
            mean = float(np.mean([one.values[metric] for one in given])) if given else math.nan
            told = _estimate(metric, mean, np.mean([one.draws[metric] for one in given], axis=0), note)
        rows.append(_row(place, "macro", metric, counts | told))
    return rows


def _counts(without: int, with_: int, *, min_patients: int) -> tuple[dict[str, Any], str]:
    """n and events as far as they may be told, and why no value is given."""
    n = without + with_
    if n < min_patients:
        return {"n": None, "events": None}, f"suppressed: fewer than {min_patients} patients"
    smaller = min(without, with_)
    numbers = {"n": n, "events": with_ if smaller >= MIN_CELL else None}
    few = f"not defined: fewer than {MIN_DEFINED} patients with, or without, the event"
    return numbers, few if smaller < MIN_DEFINED else ""


def _estimate(metric: MetricName, value: float, draws: Floats, note: str) -> dict[str, Any]:
    if not math.isfinite(value):
        return _nothing(UNDEFINED)
    within, rounded = interval(draws), METRICS[metric].rounded
    low, high = (None if end is None else rounded(end) for end in (within.low, within.high))
    return {"value": rounded(value), "ci_low": low, "ci_high": high, "note": note}


def _nothing(note: str) -> dict[str, Any]:
    return {"value": None, "ci_low": None, "ci_high": None, "note": note}


def _row(place: Place, label: str, metric: MetricName, numbers: Mapping[str, Any]) -> EvaluationRow:
    return EvaluationRow(**vars(place), label=label, metric=metric, **numbers)


def is_noised(rows: Sequence[EvaluationRow], *, epsilon: float) -> bool:
    """Whether every value that is given says that it is noised, and has a noised form."""
    note = noised_note(epsilon)
    return all(row.value is None or (row.metric in NOISED and note in row.note.split("; ")) for row in rows)
