"""A table as lines: a metric over what is ordered: the share of inputs hidden, or the modes of training by epsilon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes

from fl_server.comparison.cell import Cell, Heading, Pivot, Standing
from fl_server.comparison.plan import LOCAL, POOLED
from fl_server.comparison.words import estimate, hidden_share, metric_named, mode_place, mode_title
from fl_server.report import view
from fl_server.report.style import BANDS, EXTERNAL, GRID, INK, INTERNAL, VARIABLES, Dash, Picture, canvas
from fl_shared.metrics.table import Metric

SIZE = (7.4, 3.5)  # inches
_COLOURS = (EXTERNAL[0], EXTERNAL[1], EXTERNAL[2], INTERNAL, BANDS[0], BANDS[2])
_DASHES: tuple[Dash, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_MARKERS = {
    "o": "M17 1.4a3.6 3.6 0 1 0 .01 0Z",
    "s": "M13.6 1.6h6.8v6.8h-6.8Z",
    "^": "M17 1l4 7.4h-8Z",
    "D": "M17 .6l4.4 4.4l-4.4 4.4l-4.4-4.4Z",
}


@dataclass(frozen=True, kw_only=True)
class LinePicture:
    """A picture, and the legend that the page shows with it."""

    picture: Picture
    legend: tuple[tuple[str, Markup], ...]


@dataclass(frozen=True, kw_only=True)
class _Look:
    colour: str
    dash: Dash
    marker: str
    width: float = 1.8


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """The horizontal axis. at: value of the ordered dimension (of none: a column's title) -> place. ticks: words."""

    name: str
    dimension: str
    at: dict[str, float]
    ticks: dict[float, str]


def lines(pivot: Pivot, key: str) -> list[LinePicture]:
    """A picture a metric and task."""
    kinds = dict.fromkeys((c.at("task"), c.at("metric")) for c in pivot.all_cells if c.value is not None)
    scale = _scale(pivot)
    return [_picture(pivot, scale, kind, f"{key}-{at}") for at, kind in enumerate(kinds)]


def _scale(pivot: Pivot) -> _Scale:
    """What is ordered in a table: shares hidden, modes, else its columns as they come."""
    placed = (*pivot.plan.rows, *pivot.plan.columns)
    cells = [cell for cell in pivot.all_cells if cell.place]
    shares = {name: hidden_share(name) for name in {cell.at("subgroup") for cell in cells}}
    known = {name: share for name, share in shares.items() if share is not None}
    if "subgroup" in placed and len(known) == len(shares) > 1:
        ticks = {share: f"{100 * share:g} %" for share in sorted(known.values())}
        return _Scale(name="Share hidden at random", dimension="subgroup", at=known, ticks=ticks)
    modes = sorted({cell.at("mode") for cell in cells}, key=mode_place)
    if "mode" in placed and len(modes) > 1:
        words = {float(at): mode_title(mode).replace(", ", ",\n") for at, mode in enumerate(modes)}
        return _Scale(name="Training", dimension="mode", at={m: float(i) for i, m in enumerate(modes)}, ticks=words)
    titles = {float(at): column.title for at, column in enumerate(pivot.columns)}
    return _Scale(name="", dimension="", at={title: at for at, title in titles.items()}, ticks=titles)


def _series(pivot: Pivot, scale: _Scale, kind: tuple[str, str]) -> dict[str, list[tuple[float, Cell]]]:
    """Name -> its cells from left to right. A line is all that a row and a column share beside what is ordered."""
    found: dict[str, list[tuple[float, Cell]]] = {}
    for row, line in zip(pivot.rows, pivot.cells, strict=True):
        for column, cell in zip(pivot.columns, line, strict=True):
            if cell.value is not None and (cell.at("task"), cell.at("metric")) == kind:
                place = scale.at[cell.at(scale.dimension) if scale.dimension else column.title]
                found.setdefault(_name(pivot, scale, row, column), []).append((place, cell))
    return {name: sorted(cells, key=lambda pair: pair[0]) for name, cells in found.items()}


def _name(pivot: Pivot, scale: _Scale, row: Heading, column: Heading) -> str:
    parts = [
        word
        for dimensions, heading in ((pivot.plan.rows, row), (pivot.plan.columns, column))
        for dimension, word in zip(dimensions, heading.words, strict=True)
        if dimension != scale.dimension and (scale.dimension or heading is row)
    ]
    return " / ".join(parts) or pivot.title


def _picture(pivot: Pivot, scale: _Scale, kind: tuple[str, str], key: str) -> LinePicture:
    series, metric = _series(pivot, scale, kind), metric_named(kind[1])
    looks = {name: _look(at, cells) for at, (name, cells) in enumerate(series.items())}
    step = 0.008 * (max(scale.ticks) - min(scale.ticks) or 1.0)
    with canvas(*SIZE, key=key) as drawn:
        axes = drawn.figure.add_subplot()
        for at, (name, cells) in enumerate(series.items()):
            _draw(axes, [(x + step * (at - (len(series) - 1) / 2), cell) for x, cell in cells], looks[name])
        _frame(axes, scale, metric)
    said = "; ".join(f"{name}: {', '.join(_words(scale, x, cell) for x, cell in c)}" for name, c in series.items())
    over = f" over {scale.name.lower()}" if scale.name else ""
    picture = Picture(
        svg=drawn.svg,
        alt=f"{metric.title}{over}: {pivot.title}. {said}.",
        caption=f"{metric.title}{over}. Bars: 95 % intervals; points stand side by side, not to cover each other.",
    )
    return LinePicture(picture=picture, legend=tuple((name, _swatch(looks[name])) for name in series))


def _look(at: int, cells: Sequence[tuple[float, Cell]]) -> _Look:
    """Told apart by colour, dash and marker; the reference is the thick line in the colour of text."""
    if cells[0][1].standing is Standing.REFERENCE:
        return _Look(colour=INK, dash="-", marker="o", width=2.4)
    return _Look(colour=_COLOURS[at % 6], dash=_DASHES[at % 4], marker=list(_MARKERS)[(at + at // 12) % 4])


def _draw(axes: Axes, points: Sequence[tuple[float, Cell]], look: _Look) -> None:
    """A line through its points; the yardsticks beside federated training (alone, pooled) stand apart."""
    joined = [
        (x, cell.value or 0.0) for x, cell in points if cell.at("mode") not in (LOCAL, POOLED) or _one_mode(points)
    ]
    axes.plot(
        [x for x, _ in joined], [y for _, y in joined], color=look.colour, linestyle=look.dash, linewidth=look.width
    )
    for x, cell in points:
        axes.plot([x], [cell.value or 0.0], color=look.colour, marker=look.marker, markersize=5, linestyle="none")
        if cell.number and cell.number.low is not None and cell.number.high is not None:
            axes.vlines(x, cell.number.low, cell.number.high, color=look.colour, linewidth=1)


def _one_mode(points: Sequence[tuple[float, Cell]]) -> bool:
    return len({cell.at("mode") for _, cell in points}) == 1


def _frame(axes: Axes, scale: _Scale, metric: Metric) -> None:
    if metric.chance is not None:
        low, high = axes.get_ylim()
        if low - 0.25 * (high - low) <= metric.chance <= high:
            axes.axhline(metric.chance, color=GRID, linewidth=1.2, linestyle=(0, (4, 3)))
    better = "" if metric.higher_is_better or metric.ideal is not None else " (lower is better)"
    axes.set(xlabel=scale.name, ylabel=f"{metric.title}{better}")
    axes.set_xticks(list(scale.ticks), list(scale.ticks.values()))
    axes.grid(axis="y", color=GRID, linewidth=0.7)


def _words(scale: _Scale, x: float, cell: Cell) -> str:
    number = view.estimate(estimate(cell.number)) if cell.number else view.NO_VALUE
    return f"{number} at {scale.ticks[x]}".replace("\n", " ")


def _swatch(look: _Look) -> Markup:
    colour = f"var({VARIABLES[look.colour]})"
    dashes = "" if isinstance(look.dash, str) else " ".join(f"{look.width * part:g}" for part in look.dash[1])
    line = f'<path d="M0 5H34" stroke="{colour}" stroke-width="{look.width}" stroke-dasharray="{dashes}"/>'
    mark = f'<path d="{_MARKERS[look.marker]}" fill="{colour}"/>'
    return Markup(f'<svg viewBox="0 0 34 10" width="34" height="10" aria-hidden="true">{line}{mark}</svg>')
