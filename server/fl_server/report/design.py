"""The report of a design as one offline HTML file: a table and a forest a task, then every number."""

from __future__ import annotations

from pathlib import Path

from fl_server.designs.part import arm_name
from fl_server.designs.result import DesignResult, Measure
from fl_server.designs.view import TITLES, boards
from fl_server.report import view
from fl_shared.metrics.table import METRICS, metrics_of
from fl_shared.page import environment


def write_design_report(result: DesignResult, path: Path) -> None:
    """Write the report of a design to ``path``; it needs no network, no script and no other file."""
    page = (
        environment("fl_server.report")
        .get_template("design.html.j2")
        .render(
            result=result,
            view=view,
            arm_name=arm_name,
            title=TITLES[result.design],
            boards=boards(result),
            metrics=METRICS,
            several=len({row.model for row in result.measures}) > 1,
            numbers={task: _numbers(result, task) for task in result.tasks},
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _numbers(result: DesignResult, task: str) -> list[Measure]:
    """Every number of a task, by site, arm, model and label, its metrics in the order of the table of metrics."""
    order = metrics_of(result.types[task])
    rows = [row for row in result.measures if row.task == task]
    return sorted(rows, key=lambda r: (r.site, r.arm, r.model, r.label, order.index(r.metric)))
