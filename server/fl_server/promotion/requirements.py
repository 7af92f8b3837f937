"""Whether a model reached what its study had asked of it: every threshold with its figure, and met, missed or unknown.

All figures are of external sites, from all inputs that do not state the diagnosis. What is missing (withheld for too
few patients, not defined, a site that gave no results) is unknown, and unknown is not met.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fl_shared.counts import primary
from fl_shared.metrics.table import METRICS, MetricName
from fl_shared.model_card import Requirement
from fl_shared.plans_finished import CalibrationLimit, DiscriminationLimit, Figure, SubgroupLimit, Where
from fl_shared.results import EvaluationRow, Results, Summary
from fl_shared.study import Study

WORDS = {True: "met", False: "missed", None: "unknown"}


@dataclass(frozen=True, kw_only=True)
class _Bound:
    """low, high: between which a figure must lie; None: no bound on that side."""

    low: float | None = None
    high: float | None = None

    def holds(self, value: float, ci_low: float | None, ci_high: float | None, *, of: Figure) -> bool | None:
        """Whether the estimate, or the whole interval on the bounded sides, lies within; None: there is no interval."""
        low, high = (value, value) if of == "estimate" else (ci_low, ci_high)
        sides = [(self.low, low), (self.high, high)]
        if any(bound is not None and number is None for bound, number in sides):
            return None
        above = self.low is None or low is None or low >= self.low
        return above and (self.high is None or high is None or high <= self.high)

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"within {self.low:g} to {self.high:g}"
        return f"at least {self.low:g}" if self.low is not None else f"at most {self.high:g}"


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Whose figures a threshold is of."""

    task: str
    label: str
    modalities: str
    model: str
    metric: MetricName

    def of(self, part: EvaluationRow | Summary) -> bool:
        return all(getattr(part, name) == value for name, value in vars(self).items()) and part.role == "external"

    def __str__(self) -> str:
        return " ".join(filter(None, (METRICS[self.metric].title, "of", self.task, self.label)))


def requirements(study: Study, results: Results) -> tuple[Requirement, ...]:
    """Every threshold of the study's ``[promotion]``, judged by the results of its run."""
    plan = study.promotion
    if plan is None:
        return ()
    found: list[Requirement] = []
    for limit in plan.discrimination:
        bound = _Bound(low=limit.at_least, high=limit.at_most)
        found += _judged(study, results, limit, limit.metric, bound)
    for calibrated in plan.calibration:
        pairs: list[tuple[MetricName, tuple[float, float] | None]] = [
            ("calibration_slope", calibrated.slope),
            ("expected_observed", calibrated.expected_observed),
        ]
        for metric, pair in pairs:
            if pair is not None:
                found += _judged(study, results, calibrated, metric, _Bound(low=pair[0], high=pair[1]))
    for gap in plan.subgroups:
        found += _gaps(study, results, gap)
    return tuple(found)


def _judged(
    study: Study, results: Results, limit: DiscriminationLimit | CalibrationLimit, metric: MetricName, bound: _Bound
) -> Iterator[Requirement]:
    place = _place(study, limit.task, limit.label, metric)
    text = f"{place} {bound} ({limit.of}), {_where(limit.at)}"
    rows = {row.site: row for row in results.evaluation if place.of(row) and not row.subgroup}
    summary = next((one for one in results.summaries if place.of(one)), None)
    if limit.at == "every":
        for site in study.external_sites:
            yield _figure(text, bound, rows.get(site), of=limit.of, site=site)
    elif limit.at == "summary":
        several = summary is not None and len(summary.sites) > 1
        note = "" if several else "no two external sites tell it"
        yield _figure(text, bound, summary if several else None, of=limit.of, note=note)
    else:
        untold = [site for site in study.external_sites if site not in rows or rows[site].value is None]
        worst = summary.worst if summary is not None and not untold else ""
        note = f"not told by {', '.join(untold)}" if untold else ""
        yield _figure(text, bound, rows.get(worst), of=limit.of, site=worst, note=note)


def _figure(
    text: str,
    bound: _Bound,
    part: EvaluationRow | Summary | None,
    *,
    of: Figure,
    site: str = "",
    note: str = "",
) -> Requirement:
    if part is None or part.value is None:
        why = note or (part.note if part is not None else "") or "no figure"
        return Requirement(text=text, value=None, site=site, met=None, note=why)
    met = bound.holds(part.value, part.ci_low, part.ci_high, of=of)
    return Requirement(
        text=text, value=part.value, low=part.ci_low, high=part.ci_high, site=site, met=met, note=note or part.note
    )


def _gaps(study: Study, results: Results, limit: SubgroupLimit) -> Iterator[Requirement]:
    """At each external site, the difference between its best and its worst subgroup."""
    place = _place(study, limit.task, limit.label, limit.metric)
    for site in study.external_sites:
        rows = [
            row
            for row in results.evaluation
            if place.of(row) and row.site == site and row.subgroup.partition("=")[0] == limit.by
        ]
        told = {row.subgroup: row.value for row in rows if row.value is not None}
        text = f"{place}, difference between groups of {limit.by}, at most {limit.at_most:g}"
        if len(told) < 2 or len(told) < len(rows):
            hidden = ", ".join(row.subgroup for row in rows if row.value is None)
            note = f"withheld: {hidden}" if hidden else "fewer than two subgroups told"
            yield Requirement(text=text, value=None, site=site, met=None, note=note)
            continue
        first, last = min(told, key=told.__getitem__), max(told, key=told.__getitem__)
        gap = round(told[last] - told[first], 6)
        note = f"{first} {told[first]:g}, {last} {told[last]:g}"
        yield Requirement(text=text, value=gap, site=site, met=gap <= limit.at_most, note=note)


def _place(study: Study, task: str, label: str | None, metric: MetricName) -> _Place:
    plan, promotion = study.tasks[task], study.promotion
    several = "macro" if len(plan.labels) > 1 else plan.told[0]
    return _Place(
        task=task,
        label=several if label is None else label,
        modalities=primary(study) if plan.modality is None else "all",
        model=promotion.model if promotion is not None else "federated",
        metric=metric,
    )


def _where(at: Where) -> str:
    return {"summary": "summary over external sites", "worst": "worst external site", "every": "external site"}[at]
