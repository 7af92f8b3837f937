"""What terminal and page show of a design: a board a task and model."""

from __future__ import annotations

from dataclasses import dataclass

from fl_server.designs import Design
from fl_server.designs.derive import FEDERATED, POOLED
from fl_server.designs.forests import forest
from fl_server.designs.lines import BoardLine, columns, lines, worst
from fl_server.designs.part import Part
from fl_server.designs.result import DesignResult
from fl_server.report.forest import Forest
from fl_server.report.view import RECALIBRATED
from fl_shared.metrics.table import Metric

TITLES = {
    Design.LOSO: "Leave one site out",
    Design.SEEDS: "Repeated seeds",
    Design.SIDES: "Local, pooled and federated side by side",
}


@dataclass(frozen=True, kw_only=True)
class Board:
    """The headline metric of a task under one model: a table, a forest, and the worst sites in sentences."""

    task: str
    model: str
    metric: Metric
    columns: tuple[str, ...]
    lines: tuple[BoardLine, ...]
    forest: Forest
    worst: tuple[str, ...]


def boards(result: DesignResult) -> list[Board]:
    """A board a task and model, in the order of the study; the recalibrated model ranks patients as the raw one."""
    models = dict.fromkeys(row.model for row in result.measures if row.model != RECALIBRATED)
    parts = [Part(result, task, model) for task in result.tasks for model in models]
    return [_board(part) for part in parts if part.rows]


def _board(part: Part) -> Board:
    arms = part.arms
    if part.result.design is Design.SIDES:
        arms = [FEDERATED, POOLED, *(arm for arm in part.arms if arm not in (FEDERATED, POOLED))]
    return Board(
        task=part.task,
        model=part.model,
        metric=part.metric,
        columns=columns(part, arms),
        lines=tuple(lines(part, arms)),
        forest=forest(part, arms),
        worst=tuple(worst(part)),
    )
