"""The comparison as one offline HTML file: who won where, the tables with their pictures, then every cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fl_server.comparison import parts, words
from fl_server.comparison.cell import Pivot
from fl_server.comparison.defaults import tables_of, winners
from fl_server.comparison.forests import ForestPicture, forests
from fl_server.comparison.heat import heat
from fl_server.comparison.index import Index, index_of
from fl_server.comparison.lines import LinePicture, lines
from fl_server.comparison.outcome import Outcome, outcomes, reasons, states
from fl_server.comparison.pivot import pivots
from fl_server.comparison.plan import LOCAL, POOLED, epsilon_of
from fl_server.comparison.result import FILE, ComparisonResult
from fl_server.report import view
from fl_server.report.style import Picture
from fl_shared.metrics.table import Metric
from fl_shared.page import environment


@dataclass(frozen=True, kw_only=True)
class TableView:
    """A table, what came of it, and its pictures."""

    id: str
    pivot: Pivot
    outcomes: tuple[Outcome, ...]
    forests: tuple[ForestPicture, ...] = ()
    heat: Picture | None = None
    lines: tuple[LinePicture, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TaskWinners:
    """Of a task's headline: the outcome of every mode at each kind of site."""

    task: str
    metric: Metric
    outcomes: tuple[Outcome, ...]


def write_comparison_report(result: ComparisonResult, path: Path) -> None:
    """Write the report of a comparison to ``path``; it needs no network, no script and no other file."""
    index = index_of(result)
    made = [pivot for plan in tables_of(result) for pivot in pivots(index, plan)]
    page = environment("fl_server.comparison", "fl_server.report").get_template("comparison.html.j2").render(
        result=result,
        view=view,
        words=words,
        file=FILE,
        tables=[_table(result, pivot, f"table-{at}") for at, pivot in enumerate(made, start=1)],
        attention=parts.forests(index, "attention"),
        importance=parts.forests(index, "importance"),
        winners=[_winners(index, task) for task in result.tasks],
        states=states(result),
        reasons=reasons(result),
        trained=list(index.trained.values()),
        exposed=[words.mode_title(mode) for mode in result.modes if epsilon_of(mode) is None],
        yardsticks=[words.mode_title(mode) for mode in result.modes if mode in (LOCAL, POOLED)],
        private=[words.mode_title(mode) for mode in result.modes if epsilon_of(mode) is not None],
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _winners(index: Index, task: str) -> TaskWinners:
    told = [one for pivot in pivots(index, winners(task)) for one in outcomes(index.result, pivot)]
    metric = words.metric_named(index.headline(task)["metric"])
    return TaskWinners(task=task, metric=metric, outcomes=tuple(told))


def _table(result: ComparisonResult, pivot: Pivot, key: str) -> TableView:
    kind = pivot.plan.picture if pivot.told else "none"
    return TableView(
        id=key,
        pivot=pivot,
        outcomes=tuple(outcomes(result, pivot)),
        forests=tuple(forests(pivot)) if kind == "forest" else (),
        heat=heat(pivot) if kind == "heat" else None,
        lines=tuple(lines(pivot, key)) if kind == "lines" else (),
    )
