"""A table as a forest: each number with its interval, beside it the difference to the reference with its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from markupsafe import Markup

from fl_server.comparison.cell import Cell, Pivot, Standing
from fl_server.comparison.words import difference, estimate, metric_named, p_holm
from fl_server.report import view
from fl_server.report.forest import Axis, Forest, Group, Line
from fl_shared.metrics.table import METRICS, Metric

MANY = 4
"""Of more metrics than these, only each task's first is drawn; all stand in the table."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the picture: a number drawn, its difference drawn, and how it stands."""

    name: str
    value: Markup
    difference: Markup
    standing: str
    best: bool


@dataclass(frozen=True, kw_only=True)
class ForestPicture:
    """Rows under headings, on one axis of the metric and one of differences (None: nothing was compared)."""

    title: str
    better: str
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    axis: Axis
    differences: Axis | None
    alt: str
    caption: str


def forests(pivot: Pivot) -> list[ForestPicture]:
    """A picture a metric and task: their numbers share an axis. Of many, each task's first metric alone."""
    told = {(c.at("task"), c.at("metric")) for c in pivot.all_cells if c.value is not None}
    tasks = list(dict.fromkeys(cell.at("task") for cell in pivot.all_cells))
    names: list[str] = list(METRICS)
    kinds = sorted(told, key=lambda kind: (tasks.index(kind[0]), names.index(kind[1])))
    if len(kinds) > MANY:
        kinds = [next(kind for kind in kinds if kind[0] == task) for task in dict.fromkeys(task for task, _ in kinds)]
    return [_forest(pivot, task, metric, several=len(kinds) > 1) for task, metric in kinds]


def _forest(pivot: Pivot, task: str, name: str, *, several: bool) -> ForestPicture:
    metric = metric_named(name)
    blocks = list(_blocks(pivot, task, name))
    cells = [cell for _, lines in blocks for _, cell in lines]
    values = [_line("", cell) for cell in cells]
    compared = [_difference(cell) for cell in cells if cell.contrast and cell.contrast.value is not None]
    axis, zero = _axis(metric, values), _around_zero(compared) if compared else None
    shown, other = _empty(axis), _empty(zero) if zero else None
    groups = tuple(
        (head if len(blocks) > 1 else "", tuple(_row(label, cell, shown, other) for label, cell in lines))
        for head, lines in blocks
    )
    kinds = dict.fromkeys("square: external" if c.at("role") == "external" else "circle: internal" for c in cells)
    drawn = (
        " The dashed line of the first axis is chance." if axis.reference is not None and metric.ideal is None else ""
    )
    right = "" if zero is None or metric.ideal is not None else f" {_side(metric)} of 0 is better than the reference."
    return ForestPicture(
        title=f"{metric.title}{f' of {task}' if several else ''}",
        better=f"{metric.title}{', in the unit of the target' if metric.in_unit else ''}{_better(metric)}",
        groups=groups,
        axis=axis,
        differences=zero,
        alt=f"Forest of {metric.title}: {pivot.title}. {'; '.join(_said(blocks))}.",
        caption=f"Lines: 95 % intervals; {', '.join(kinds)}.{drawn}{right}",
    )


def _axis(metric: Metric, lines: Sequence[Line]) -> Axis:
    """As near to the intervals as round ends allow: what is compared lies close together."""
    numbers = [number for line in lines for number in line.numbers]
    step = _step(max(numbers) - min(numbers))
    low, high = max(metric.low, step * floor(min(numbers) / step)), min(metric.high, step * ceil(max(numbers) / step))
    known = metric.chance if metric.ideal is None else metric.ideal
    return Axis(
        low=low, high=max(high, low + step), reference=known if known is not None and low <= known <= high else None
    )


def _around_zero(lines: Sequence[Line]) -> Axis:
    far = max(abs(number) for line in lines for number in line.numbers)
    step = _step(2 * far)
    end = step * (floor(far / step) + 1)
    return Axis(low=-end, high=end, reference=0.0)


def _step(spread: float) -> float:
    """A round step, some five to the spread."""
    size = 10.0 ** floor(log10(spread or 1.0)) / 10
    return next(size * by for by in (1, 2, 5, 10, 20, 50) if size * by >= spread / 6)


def _side(metric: Metric) -> str:
    return "Right" if metric.higher_is_better else "Left"


def _better(metric: Metric) -> str:
    if metric.ideal is not None:
        return f" ({metric.ideal:g} is right)"
    return "" if metric.higher_is_better else " (lower is better)"


def _blocks(pivot: Pivot, task: str, metric: str) -> Iterator[tuple[str, list[tuple[str, Cell]]]]:
    """Column -> its rows' cells; those of another metric or task, and those without a number, are left out."""
    for at, column in enumerate(pivot.columns):
        found = [
            (row.title, line[at])
            for row, line in zip(pivot.rows, pivot.cells, strict=True)
            if line[at].value is not None and (line[at].at("task"), line[at].at("metric")) == (task, metric)
        ]
        if found:
            yield column.title, found


def _line(name: str, cell: Cell) -> Line:
    assert cell.number is not None
    return Line(name=name, told=estimate(cell.number), kind=cell.at("role"))


def _difference(cell: Cell) -> Line:
    assert cell.contrast is not None
    return Line(name="", told=estimate(cell.contrast), kind=cell.at("role"))


def _empty(axis: Axis) -> Forest:
    return Forest(caption="", groups=(Group(name="", lines=()),), axis=axis)


def _row(name: str, cell: Cell, values: Forest, differences: Forest | None) -> Row:
    compared = differences is not None and cell.contrast is not None and cell.contrast.value is not None
    return Row(
        name=name,
        value=values.drawn(_line(name, cell)),
        difference=differences.drawn(_difference(cell)) if differences and compared else Markup(),
        standing=str(cell.standing),
        best=cell.best,
    )


def _said(blocks: Sequence[tuple[str, list[tuple[str, Cell]]]]) -> Iterator[str]:
    for head, lines in blocks:
        told = [f"{name} {_words(cell)}" for name, cell in lines]
        yield f"{head}: {', '.join(told)}" if len(blocks) > 1 else "; ".join(told)


def _words(cell: Cell) -> str:
    assert cell.number is not None
    said = view.estimate(estimate(cell.number))
    if cell.standing is Standing.REFERENCE:
        return f"{said}, the reference"
    if cell.contrast is None or cell.contrast.value is None:
        return said
    about = [f"difference {difference(cell.contrast)}", p_holm(cell.contrast), str(cell.standing)]
    return f"{said}, {', '.join(part for part in about if part)}"
