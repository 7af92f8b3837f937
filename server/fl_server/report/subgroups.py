"""The headline metric in subgroups of patients, site by site, beside that of all patients of the site."""

from __future__ import annotations

from fl_server.report import view
from fl_server.report.forest import Forest, Group, Line, axis_of
from fl_shared.metrics.table import METRICS
from fl_shared.results import EvaluationRow, Results

HIDDEN = "hidden="
PAIRED = {"paired=yes": "every modality there", "paired=no": "some modality lacking"}


def forest(results: Results, task: str) -> Forest | None:
    """A group a site: all its patients, then each subgroup. None where no subgroup was told."""
    wanted = {**view.headline_of(results, task), "model": view.main_model(results)}
    mine = [r for r in results.evaluation if view.is_of(r, wanted) and not r.subgroup.startswith(HIDDEN)]
    if not any(row.subgroup for row in mine):
        return None
    groups = []
    for site in view.site_order(results):
        rows = sorted((row for row in mine if row.site == site), key=_place)
        if any(row.subgroup for row in rows):
            role = view.ROLE_NAMES[results.sites[site].role]
            groups.append(Group(name=f"{site} ({role})", lines=tuple(_line(row) for row in rows)))
    metric = METRICS[view.headline_metric(results, task)]
    return Forest(
        caption=f"{metric.title}{', in the unit of the target' if metric.in_unit else ''} by subgroup of patients",
        groups=tuple(groups),
        axis=axis_of(metric, [line for group in groups for line in group.lines]),
        columns=("Events",),
        first="Patients",
    )


def _place(row: EvaluationRow) -> tuple[bool, str, str]:
    variable, _, category = row.subgroup.partition("=")
    return bool(row.subgroup), variable, category


def _line(row: EvaluationRow) -> Line:
    variable, _, category = row.subgroup.partition("=")
    plain = f"{variable}: {category}" if category else variable or "all judged patients"
    name = PAIRED.get(row.subgroup, plain)
    return Line(name=name, told=row, kind=row.role, cells=(view.count(row.events),))
