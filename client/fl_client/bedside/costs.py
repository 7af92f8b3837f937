"""What it costs that a modality is missing: from how the hospitals judged the model with and without it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fl_client.bedside.targets import Target
from fl_shared.metrics.table import METRICS, MetricName, metrics_of
from fl_shared.results import Contribution, EvaluationRow, Results
from fl_shared.study import Study


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A metric with its 95 % interval."""

    value: float
    low: float
    high: float
    patients: int | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The headline metric at one hospital with all inputs, and without the missing ones."""

    site: str
    external: bool
    missing: tuple[str, ...]
    whole: Figure
    without: Figure


@dataclass(frozen=True, kw_only=True)
class Costs:
    """metric: name and title of the headline metric; ``costs`` of what this patient lacks, hospital by hospital, and
    ``shares``: what each missing modality adds to the metric on average over all sets of the others (Shapley).
    """

    metric: MetricName
    title: str
    costs: tuple[Cost, ...]
    shares: tuple[Contribution, ...]


def members(study: Study, name: str) -> frozenset[str]:
    """Modalities of a set as results name it: ``all``, ``headline`` or names joined by ``+``."""
    if name == "all":
        return frozenset(study.modalities)
    if name == "headline":
        return frozenset(m for m, plan in study.modalities.items() if not plan.leaky)
    return frozenset(name.split("+"))


def costs_of(results: Results, study: Study, target: Target, *, missing: Sequence[str], model: str) -> Costs:
    """What the results tell of a target's headline metric: external hospitals, or training ones where there is none.

    Rows without an interval are left out: a metric is never told without.
    """
    metric = metrics_of(study.tasks[target.task].type)[0]
    label = "" if target.day is not None and not study.tasks[target.task].labels else target.label
    rows = [
        row
        for row in results.evaluation
        if (row.task, row.label, row.model, row.metric, row.subgroup) == (target.task, label, model, metric, "")
        and _figure(row) is not None
    ]
    role = "external" if any(row.role == "external" for row in rows) else "train"
    told = {(row.site, members(study, row.modalities)): row for row in rows if row.role == role}
    gone = [tuple(missing), *([(name,) for name in missing] if len(missing) > 1 else [])] if missing else []
    every = frozenset(study.modalities)
    shares = (
        c
        for c in results.contributions
        if (c.task, c.label, c.model, c.metric, c.role) == (target.task, label, model, metric, role)
        and c.modality in missing
        and None not in (c.value, c.ci_low, c.ci_high)
    )
    return Costs(
        metric=metric, title=METRICS[metric].title, costs=tuple(_pairs(told, gone, every)), shares=tuple(shares)
    )


def _pairs(
    told: dict[tuple[str, frozenset[str]], EvaluationRow], gone: Iterable[tuple[str, ...]], every: frozenset[str]
) -> Iterable[Cost]:
    for lacking in gone:
        for site in dict.fromkeys(site for site, _ in told):
            whole, without = told.get((site, every)), told.get((site, every - set(lacking)))
            first, second = (None if row is None else _figure(row) for row in (whole, without))
            if whole is not None and first is not None and second is not None:
                yield Cost(site=site, external=whole.role == "external", missing=lacking, whole=first, without=second)


def _figure(row: EvaluationRow) -> Figure | None:
    if row.value is None or row.ci_low is None or row.ci_high is None:
        return None
    return Figure(value=row.value, low=row.ci_low, high=row.ci_high, patients=row.n)
