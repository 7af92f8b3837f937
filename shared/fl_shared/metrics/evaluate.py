"""From predictions to the rows and curves that may leave a site (rules: `fl_shared.metrics.disclosure`).

Values are rounded as `fl_shared.metrics.table` says (curves to 3 decimals).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics import bootstrap as resampling
from fl_shared.metrics.disclosure import MANY_LEFT_OUT, MIN_CELL, UNDEFINED
from fl_shared.metrics.discrimination import PR_GRID, ROC_GRID, pr_curve, roc_curve
from fl_shared.metrics.part import Part
from fl_shared.metrics.parts import judged_parts
from fl_shared.metrics.risk_groups import RiskGroups
from fl_shared.metrics.table import METRICS, MetricName
from fl_shared.results import Curve, EvaluationRow
from fl_shared.study import TaskPlan

Floats = NDArray[np.float64]


def evaluate_predictions(
    *,
    site: str,
    role: Literal["train", "external"],
    task: str,
    plan: TaskPlan,
    modalities: str,
    model: str,
    predictions: NDArray[np.floating],
    targets: NDArray[np.floating],
    mask: NDArray[np.bool_],
    patients: NDArray[np.integer],
    bootstrap: int,
    seed: int,
    min_patients: int,
    gives_away: Collection[str] = (),
) -> tuple[list[EvaluationRow], list[Curve]]:
    """Judge one task at one site.

    Args:
        site: name of the site.
        role: its role in the study.
        task: name of the task.
        plan: its type, labels and times.
        modalities: which inputs the model was given: ``all``, ``headline`` or names joined by ``+``.
        model: what was judged, as shown in the report.
        predictions: (N, …) as `fl_shared.metrics.parts.predicted_shape` says.
        targets: (N, C), C as `TaskPlan.names`; of a segmentation as `fl_shared.metrics.parts.predicted_shape` says.
        mask: (N, C) true where the target is known.
        patients: (N,) patient of each sample, as arbitrary integers.
        bootstrap: number of resamples for the 95 % intervals.
        seed: of the resamples; the same for all systems that are to be compared.
        min_patients: a smaller cohort releases no number.
        gives_away: labels whose number of events would tell a small cell beside other results.

    Returns:
        Rows (a metric a row; where there are several labels, last their macro mean over the headline labels) and the
        curves that the rules allow.

    Raises:
        ValueError: the shapes do not fit.
    """
    parts, patient, cohort = judged_parts(
        plan,
        predictions=predictions,
        targets=targets,
        mask=mask,
        patients=patients,
        min_patients=min_patients,
        gives_away=gives_away,
    )
    found = _measured(parts, cohort=cohort, resamples=bootstrap, seed=seed)
    numbers = [_numbers(part, metric, found) for part in parts for metric in part.metrics]
    if len(plan.labels) > 1:
        head = [part for part in parts if part.cell.label in plan.headline or not plan.headline]
        counts = _macro_counts(head, patient, min_patients=min_patients)
        numbers += [_macro(head, metric, found) | counts for metric in parts[0].metrics]
    place: dict[str, Any] = {"site": site, "task": task, "modalities": modalities}
    rows = [EvaluationRow(**place, role=role, model=model, **number) for number in numbers]
    return rows, [Curve(**place, model=model, **curve) for part in parts for curve in _curves(part)]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A metric of a label: its value (NaN where it is not defined) and its resamples (B,).

    excess: how far noise lifted the resamples off the value before they were moved onto it.
    """

    value: float
    draws: Floats
    excess: float = 0.0


_Measured = dict[tuple[str, MetricName], _Found]


def _measured(parts: Sequence[Part], *, cohort: int, resamples: int, seed: int) -> _Measured:
    """Label and metric -> what was found, without the labels that release no value."""
    given = [part for part in parts if not part.cell.withheld]
    measures = [part.measure() for part in given]
    samples = max((len(part.known) for part in given), default=0)
    values = resampling.estimates(measures, cohort=cohort)
    draws = resampling.bootstrap(measures, cohort=cohort, samples=samples, resamples=resamples, seed=seed)
    return {
        (part.cell.label, name): _found(name, value[name], drawn[name])
        for part, value, drawn in zip(given, values, draws, strict=True)
        for name in part.metrics
    }


def _found(metric: MetricName, value: float, draws: Floats) -> _Found:
    if not METRICS[metric].centred or not np.isfinite(draws).any():
        return _Found(value=value, draws=draws)
    excess = float(np.nanmean(draws)) - value
    return _Found(value=value, draws=draws - excess, excess=max(excess, 0.0))


def _numbers(part: Part, metric: MetricName, found: _Measured) -> dict[str, Any]:
    """The numbers of a row of one label."""
    cell = part.cell
    row = {"label": cell.label, "metric": metric, "n": cell.n, "events": cell.events}
    if cell.withheld:
        return row | _nothing(cell.withheld)
    if METRICS[metric].tells_events and cell.events is None:
        return row | _nothing(cell.note)
    return row | _estimate(metric, found[cell.label, metric], notes=[cell.note])


def _macro(parts: Sequence[Part], metric: MetricName, found: _Measured) -> dict[str, Any]:
    """The mean over the labels that release a value."""
    row = {"label": "macro", "metric": metric}
    labels = [part.cell.label for part in parts]
    told = [part.cell.label for part in parts if part.cell.events is not None or not METRICS[metric].tells_events]
    given = [label for label in told if (label, metric) in found and math.isfinite(found[label, metric].value)]
    if not given:
        return row | _nothing(parts[0].cell.withheld or UNDEFINED)
    without = [label for label in labels if label not in given]
    note = f"mean of {len(given)} of {len(labels)} labels, without {', '.join(without)}" if without else ""
    each = [found[label, metric] for label in given]
    value, excess = (float(np.mean([getattr(one, name) for one in each])) for name in ("value", "excess"))
    mean = _Found(value=value, draws=np.mean([one.draws for one in each], axis=0), excess=excess)
    return row | _estimate(metric, mean, notes=[note])


def _macro_counts(parts: Sequence[Part], patients: NDArray[np.integer], *, min_patients: int) -> dict[str, int | None]:
    """Samples that any headline label judges; events have no meaning for a mean."""
    judged = np.any([part.known for part in parts], axis=0)
    few = len(np.unique(patients[judged])) < min_patients
    return {"n": None if few else int(judged.sum()), "events": None}


def _nothing(note: str) -> dict[str, Any]:
    return {"value": None, "ci_low": None, "ci_high": None, "note": note}


def _estimate(metric: MetricName, found: _Found, *, notes: Sequence[str]) -> dict[str, Any]:
    """A value with its interval, rounded, and every note that belongs to it."""
    if not math.isfinite(found.value):
        return _nothing("; ".join(note for note in (UNDEFINED, *notes) if note))
    within, about = resampling.interval(found.draws), METRICS[metric]
    low, high = (None if end is None else min(max(end, about.low), about.high) for end in (within.low, within.high))
    low = None if low is None else max(low - found.excess, about.low)
    many = within.left_out > resampling.MAX_LEFT_OUT
    left_out = f"{within.left_out:.0%} {MANY_LEFT_OUT}" if many else ""
    return {
        "value": about.rounded(found.value),
        "ci_low": None if low is None else about.rounded(low),
        "ci_high": None if high is None else about.rounded(high),
        "note": "; ".join(note for note in (*notes, left_out) if note),
    }


_Points = tuple[Floats, Floats]


def _curves(part: Part) -> list[dict[str, Any]]:
    """The curves of a label, none when its cells are small; a point of a group stands for 10 patients or more."""
    return [
        {**curve, "label": part.cell.label, "x": tuple(np.round(x, 3).tolist()), "y": tuple(np.round(y, 3).tolist())}
        for curve, (x, y) in (*_scored(part), *_banded(part), *_followed(part))
        if len(x)
    ]


def _scored(part: Part) -> Iterator[tuple[dict[str, Any], _Points]]:
    """Of risks of an outcome: discrimination, calibration, net benefit."""
    cell = part.cell
    if part.scored is not None and cell.shows_curves:
        groups = RiskGroups.of(*part.scored, cell.patients, few=max(MIN_CELL, cell.min_patients))
        yield {"kind": "roc"}, (ROC_GRID, roc_curve(*part.scored))
        yield {"kind": "pr"}, (PR_GRID, pr_curve(*part.scored))
        yield {"kind": "calibration"}, groups.calibration()
        yield {"kind": "decision"}, groups.decision()
        yield {"kind": "risks", "counts": tuple(groups.patients.tolist())}, groups.risks()


def _banded(part: Part) -> Iterator[tuple[dict[str, Any], _Points]]:
    """Of times to an event: the risk timeline, a curve a window."""
    for window in part.windows:
        if part.cell.events is not None and window.cell.shows_curves:
            yield {"kind": "bands", "day": window.day}, window.points()


def _followed(part: Part) -> Iterator[tuple[dict[str, Any], _Points]]:
    """Of times to an event: its share by day, a curve a group by predicted risk."""
    if part.groups is not None and part.cell.shows_curves:
        for told in part.groups():
            yield {"kind": "incidence", "group": told.group, "counts": told.at_risk}, (told.days, told.shares)
