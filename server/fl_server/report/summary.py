"""The first thing a reader sees of a task: the result at new hospitals, the worst hospital, what is lost between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fl_server.report import view
from fl_shared.metrics.table import METRICS, Metric
from fl_shared.results import EvaluationRow, Gap, PooledApproximate, Results, Summary

Role = Literal["external", "train"]


@dataclass(frozen=True, kw_only=True)
class Digest:
    """The headline metric of one task, of the page's model and the headline's inputs.

    external, internal: random-effects summaries, where the results hold them. rows: each site's own estimate, external
    sites first. worst: the row of the worst site, external ones first of all; None where there is one site only.
    """

    name: str
    metric: Metric
    means_over: tuple[str, ...]
    rows: tuple[EvaluationRow, ...]
    external: Summary | None
    internal: Summary | None
    gap: Gap | None
    pooled: PooledApproximate | None
    worst: EvaluationRow | None

    def of_role(self, role: Role) -> list[EvaluationRow]:
        """Rows of the external or the training sites."""
        return [row for row in self.rows if row.role == role]


def digest(results: Results, task: str) -> Digest:
    """See `Digest`."""
    model, label = view.main_model(results), view.headline_label(results, task)
    rows = [row for row in view.headline_rows(results, task) if row.model == model]
    external, internal = (summary_of(results, task, role=role, model=model) for role in ("external", "train"))
    wanted = {**view.headline_of(results, task), "model": model}
    approximate = {name: wanted[name] for name in ("task", "label", "modalities", "model")}
    return Digest(
        name=task,
        metric=METRICS[view.headline_metric(results, task)],
        means_over=results.study.headline.get(task, ()) if label == "macro" else (),
        rows=tuple(rows),
        external=external,
        internal=internal,
        gap=next((gap for gap in results.gaps if view.is_of(gap, wanted)), None),
        pooled=next((p for p in results.pooled if view.is_of(p, {**approximate, "role": "external"})), None),
        worst=_worst(rows, external),
    )


def summary_of(results: Results, task: str, *, role: Role, model: str) -> Summary | None:
    """The random-effects summary of a task's headline over the sites of a role; None where only one told anything."""
    wanted = {**view.headline_of(results, task), "role": role, "model": model}
    return next(
        (summary for summary in results.summaries if view.is_of(summary, wanted) and len(summary.sites) > 1), None
    )


def _worst(rows: list[EvaluationRow], external: Summary | None) -> EvaluationRow | None:
    """The worst of the external sites with a value, or where fewer than two have one, of all sites."""
    told = [row for row in rows if row.value is not None]
    outside = [row for row in told if row.role == "external"]
    several = outside if len(outside) > 1 else told
    if len(several) < 2:
        return None
    if external is not None and external.worst:
        return next((row for row in several if row.site == external.worst), None)
    best = METRICS[several[0].metric].higher_is_better
    return min(several, key=lambda row: (1 if best else -1) * (row.value or 0.0))
