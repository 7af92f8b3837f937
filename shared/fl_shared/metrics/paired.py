"""Two models on the same patients: the difference of every metric, with interval and p.

Both are judged on the same resamples of patients, so that what makes a cohort easy or hard cancels. A difference is
told where both models' own values are (rules: `fl_shared.metrics.disclosure`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics import bootstrap as resampling
from fl_shared.metrics.delong import delong
from fl_shared.metrics.disclosure import MANY_LEFT_OUT, UNDEFINED, Cell
from fl_shared.metrics.part import Part
from fl_shared.metrics.parts import judged_parts
from fl_shared.metrics.table import METRICS, MetricName
from fl_shared.results import Difference
from fl_shared.study import TaskPlan

Floats = NDArray[np.float64]

LEAST_P = 1e-4  # a smaller p is told as this: no test knows its tail better


def paired_differences(
    *,
    site: str,
    role: Literal["train", "external"],
    task: str,
    plan: TaskPlan,
    modalities: str,
    model: str,
    against: str,
    predictions: NDArray[np.floating],
    predictions_against: NDArray[np.floating],
    targets: NDArray[np.floating],
    mask: NDArray[np.bool_],
    patients: NDArray[np.integer],
    bootstrap: int,
    seed: int,
    min_patients: int,
    gives_away: Collection[str] = (),
) -> list[Difference]:
    """Every metric of ``model`` less that of ``against``, label by label, and of several labels their mean.

    p is two-sided, of no difference: DeLong's of an AUROC, clustered by patient; of the others that of the bootstrap
    (`bootstrap_p`). Arguments as of `fl_shared.metrics.evaluate.evaluate_predictions`.

    Raises:
        ValueError: the shapes do not fit.
    """
    (first, patient, cohort), (second, _, _) = (
        judged_parts(
            plan,
            predictions=each,
            targets=targets,
            mask=mask,
            patients=patients,
            min_patients=min_patients,
            gives_away=gives_away,
        )
        for each in (predictions, predictions_against)
    )
    pairs = [_Pair(one=one, other=other) for one, other in zip(first, second, strict=True)]
    found = _measured(pairs, cohort=cohort, resamples=bootstrap, seed=seed)
    numbers = [_numbers(pair, metric, found) for pair in pairs for metric in pair.one.metrics]
    if len(plan.labels) > 1:
        head = [pair for pair in pairs if pair.label in plan.headline or not plan.headline]
        numbers += [_macro(head, metric, found, patient) for metric in pairs[0].one.metrics]
    place: dict[str, Any] = {"site": site, "role": role, "task": task, "modalities": modalities}
    return [Difference(**place, model=model, against=against, **each) for each in numbers]


def bootstrap_p(draws: Floats) -> float:
    """Two-sided p of no difference from B resampled differences: min(1, 2 (1 + k) / (B + 1)).

    k is the number of differences on the rarer side of 0, those of 0 on both sides: the level at which the percentile
    interval just excludes 0. One is added as the cohort itself counts as a resample, so that p is never 0 (Davison and
    Hinkley 1997, section 4.2.1).
    """
    kept = draws[np.isfinite(draws)]
    rarer = min(int((kept <= 0).sum()), int((kept >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (kept.size + 1))


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One label, as judged of both models."""

    one: Part
    other: Part

    @property
    def label(self) -> str:
        return self.one.cell.label

    @property
    def cells(self) -> tuple[Cell, Cell]:
        return self.one.cell, self.other.cell

    @property
    def withheld(self) -> str:
        return self.one.cell.withheld or self.other.cell.withheld

    @property
    def n(self) -> int | None:
        counts = [cell.n for cell in self.cells]
        return None if None in counts else min(count for count in counts if count is not None)

    def hides(self, metric: MetricName) -> str:
        """Why this metric's difference is not told, where another's is."""
        if not METRICS[metric].tells_events:
            return ""
        return next((cell.note for cell in self.cells if cell.events is None), "")

    def p(self, metric: MetricName, draws: Floats) -> dict[str, Any]:
        """p with the name of its test."""
        if metric == "auroc" and self.one.scored is not None and self.other.scored is not None:
            risks, targets = self.one.scored
            p = delong(risks, self.other.scored[0], targets, self.one.cell.patients).p
            return _told_p(p, "DeLong") if math.isfinite(p) else {}
        return _told_p(bootstrap_p(draws), "bootstrap")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A difference (NaN where it is not defined) and its resamples (B,)."""

    value: float
    draws: Floats


_Measured = dict[tuple[str, MetricName], _Found]


def _measured(pairs: Sequence[_Pair], *, cohort: int, resamples: int, seed: int) -> _Measured:
    """Label and metric -> difference, without the labels that tell none."""
    given = [pair for pair in pairs if not pair.withheld]
    measures = [part.measure() for pair in given for part in (pair.one, pair.other)]
    samples = max((len(part.known) for pair in given for part in (pair.one, pair.other)), default=0)
    values = resampling.estimates(measures, cohort=cohort)
    draws = resampling.bootstrap(measures, cohort=cohort, samples=samples, resamples=resamples, seed=seed)
    return {
        (pair.label, metric): _less(metric, values[2 * k : 2 * k + 2], draws[2 * k : 2 * k + 2])
        for k, pair in enumerate(given)
        for metric in pair.one.metrics
    }


def _less(
    metric: MetricName, values: Sequence[dict[MetricName, float]], draws: Sequence[dict[MetricName, Floats]]
) -> _Found:
    value, drawn = values[0][metric] - values[1][metric], draws[0][metric] - draws[1][metric]
    if METRICS[metric].centred and np.isfinite(drawn).any():
        drawn = drawn - np.nanmean(drawn) + value
    return _Found(value=value, draws=drawn)


def _numbers(pair: _Pair, metric: MetricName, found: _Measured) -> dict[str, Any]:
    """The numbers of one label."""
    row = {"label": pair.label, "metric": metric, "n": pair.n}
    if why := pair.withheld or pair.hides(metric):
        return row | _nothing(why)
    here = found[pair.label, metric]
    return row | _estimate(metric, here, pair.p(metric, here.draws))


def _macro(pairs: Sequence[_Pair], metric: MetricName, found: _Measured, patients: NDArray[np.int64]) -> dict[str, Any]:
    """The mean over the labels that tell a difference."""
    row = {"label": "macro", "metric": metric, "n": _judged(pairs, patients)}
    told = [pair for pair in pairs if not pair.withheld and not pair.hides(metric)]
    given = [found[pair.label, metric] for pair in told if math.isfinite(found[pair.label, metric].value)]
    if not given:
        return row | _nothing(pairs[0].withheld or UNDEFINED)
    draws = np.mean([one.draws for one in given], axis=0)
    mean = _Found(value=float(np.mean([one.value for one in given])), draws=draws)
    note = f"mean of {len(given)} of {len(pairs)} labels" if len(given) < len(pairs) else ""
    return row | _estimate(metric, mean, _told_p(bootstrap_p(draws), "bootstrap"), note)


def _judged(pairs: Iterable[_Pair], patients: NDArray[np.int64]) -> int | None:
    """Samples that any label judges."""
    each = list(pairs)
    told = any(pair.n is not None for pair in each)
    return int(np.any([pair.one.known for pair in each], axis=0).sum()) if told else None  # as a row's own mean


def _told_p(p: float, test: str) -> dict[str, Any]:
    return {"p": max(round(p, 4), LEAST_P), "test": test}


def _nothing(note: str) -> dict[str, Any]:
    return {"value": None, "ci_low": None, "ci_high": None, "note": note}


def _estimate(metric: MetricName, found: _Found, p: dict[str, Any], *notes: str) -> dict[str, Any]:
    """A difference with its interval, rounded, and its p."""
    within, rounded = resampling.interval(found.draws), METRICS[metric].rounded
    if not math.isfinite(found.value) or within.low is None or within.high is None:
        return _nothing("; ".join(note for note in (UNDEFINED, *notes) if note))
    many = within.left_out > resampling.MAX_LEFT_OUT
    left_out = f"{within.left_out:.0%} {MANY_LEFT_OUT}" if many else ""
    return {
        "value": rounded(found.value),
        "ci_low": rounded(within.low),
        "ci_high": rounded(within.high),
        "note": "; ".join(note for note in (*notes, left_out) if note),
        **p,
    }
