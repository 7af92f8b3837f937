"""The forest of a task: its headline metric at each site, and the random-effects summaries below them."""

from __future__ import annotations

from fl_server.report import view
from fl_server.report.forest import Forest, Group, Line, axis_of
from fl_server.report.summary import Role, summary_of
from fl_shared.metrics.table import METRICS
from fl_shared.results import Results, Summary

_HEADINGS: dict[Role, str] = {
    "external": "External: hospitals that never trained",
    "train": "Internal: held-out patients of training hospitals",
}


def forest(results: Results, task: str) -> Forest | None:
    """A group a role, external first; of several models a row each. None where no site told anything."""
    rows = view.headline_rows(results, task)
    if not rows:
        return None
    models = list(dict.fromkeys(row.model for row in rows))
    groups = []
    for role, heading in _HEADINGS.items():
        several = "{}" if len(models) > 1 else ""
        lines = [
            Line(name=row.site, about=several.format(row.model), told=row, kind=row.role)
            for row in rows
            if row.role == role
        ]
        if not lines:
            continue
        found = [summary_of(results, task, role=role, model=model) for model in models]
        lines += [_summary(s, several.format(s.model)) for s in found if s is not None]
        groups.append(Group(name=heading, lines=tuple(lines)))
    metric = METRICS[view.headline_metric(results, task)]
    return Forest(
        caption=f"{metric.title}{', in the unit of the target' if metric.in_unit else ''}, with its 95 % interval"
        f"{'' if metric.higher_is_better else '; lower is better'}",
        groups=tuple(groups),
        axis=axis_of(metric, [line for group in groups for line in group.lines]),
    )


def _summary(found: Summary, about: str) -> Line:
    low, high = found.prediction_low, found.prediction_high
    predicted = None if low is None or high is None else (low, high)
    return Line(name="random-effects summary", about=about, told=found, kind="summary", predicted=predicted)
