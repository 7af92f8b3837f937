"""A comparison in the terminal: its tables, what came of each, and what a reader must not overlook."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl_server.comparison.cell import Cell, Pivot, Standing
from fl_server.comparison.defaults import tables_of
from fl_server.comparison.index import index_of
from fl_server.comparison.outcome import outcomes, reasons, states
from fl_server.comparison.parts import forests
from fl_server.comparison.pivot import pivots
from fl_server.comparison.plan import epsilon_of
from fl_server.comparison.result import FILE, ComparisonResult
from fl_server.comparison.words import difference, estimate, mode_title, p_holm, seeds_range
from fl_server.report import view
from fl_server.report.forest import Forest

CELL = 26
"""Characters that a difference with its interval takes."""


def show_comparison(result: ComparisonResult, folder: Path, console: Console) -> None:
    """Print every table with its sentences, then what was refused, the notes and where the files lie."""
    if result.synthetic:
        console.print(Text("SYNTHETIC DATA", style="bold yellow"))
    index = index_of(result)
    for plan in tables_of(result):
        for pivot in pivots(index, plan):
            _show(result, pivot, console)
    for forest in (*forests(index, "attention"), *forests(index, "importance")):
        _show_parts(forest, console)
    if exposed := [mode_title(mode) for mode in result.modes if epsilon_of(mode) is None]:
        console.print(Text(f"NO PRIVACY GUARANTEE in: {'; '.join(exposed)}", style="bold red"))
    console.print(Text(f"{states(result) or 'none'} of {len(result.cells)} cells"))
    for (state, reason), names in reasons(result).items():
        console.print(Text(f"{state}: {', '.join(names)}: {reason}", style="red"))
    for note in result.notes:
        console.print(Text(f"note: {note}"))
    console.print(f"report: {folder / 'report.html'}\nresult: {folder / FILE}", soft_wrap=True, highlight=False)


def _show(result: ComparisonResult, pivot: Pivot, console: Console) -> None:
    about = f": {', '.join(pivot.about)}" if pivot.about else ""
    title = Text(f"{pivot.title}{about} (95 % interval)")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_lines=False)
    if CELL * (1 + len(pivot.columns)) > console.width:
        _add_long(table, pivot)
    else:
        _add_crossed(table, pivot)
    console.print(table)
    for number, note in enumerate(pivot.footnotes, start=1):
        console.print(Text(f"[{number}] {note}", style="dim"))
    if pivot.has_published:
        console.print(Text("published figures are of other patients: for the eye, never a test", style="dim"))
    for figure in pivot.elsewhere:
        console.print(Text(f"published: {figure.row}, {figure.column}: {figure.value:g}", style="dim"))
    for outcome in outcomes(result, pivot):
        console.print(Text(outcome.sentence))


def _add_crossed(table: Table, pivot: Pivot) -> None:
    for column in (pivot.corner.lower(), *(column.title for column in pivot.columns)):
        table.add_column(Text(column), overflow="fold")
    for row, line in zip(pivot.rows, pivot.cells, strict=True):
        told = [Text("\n").join(filter(None, _words(pivot, cell))) for cell in line]
        table.add_row(Text(row.title), *told)


def _add_long(table: Table, pivot: Pivot) -> None:
    """A line a cell, where the columns do not fit beside each other; a heading a row, intervals of the values only."""
    table.add_column(Text(pivot.corner.lower()), overflow="fold", min_width=14)
    shown = ("estimate", *(["seeds"] if pivot.several_seeds else []), "less ref.", "")
    for title in shown:
        table.add_column(Text(title), no_wrap=bool(title))
    for row, line in zip(pivot.rows, pivot.cells, strict=True):
        table.add_row(Text(row.title, style="bold"))
        for place, cell in zip(pivot.columns, line, strict=True):
            value, *rest = _words(pivot, cell)
            seeds, less, standing = (said.plain for said in rest)
            told = [seeds.removeprefix("seeds ")] if pivot.several_seeds else []
            told += [less.partition(" (")[0], standing.replace(Standing.CHANCE.value, "≈")]
            more = (Text(said, style="dim") for said in told)
            table.add_row(Text(f"  {place.title}"), value, *more, end_section=place is pivot.columns[-1])


def _show_parts(forest: Forest, console: Console) -> None:
    table = Table(title=Text(f"{forest.caption} (95 % interval)"), title_justify="left", box=box.SIMPLE_HEAD)
    names = dict.fromkeys(line.name for group in forest.groups for line in group.lines)
    for column in ("variant", *names):
        table.add_column(Text(column), overflow="fold")
    for group in forest.groups:
        told = {line.name: view.estimate(line.told) for line in group.lines}
        table.add_row(Text(group.name), *(Text(told.get(name, view.NO_VALUE)) for name in names))
    console.print(table)


def _words(pivot: Pivot, cell: Cell) -> tuple[Text, Text, Text, Text]:
    """The number, the best in bold; seeds; the difference to the reference; its p, and what a paper found."""
    if cell.place is None:
        return Text(), Text(), Text(), Text()
    marks = "".join(f"[{number}]" for number in pivot.numbers(cell))
    published = "" if cell.published is None else f"published {cell.published:g}"
    if cell.value is None or cell.number is None:
        state = cell.state if cell.state not in ("", "finished") else view.NO_VALUE
        value = Text(f"{state}{marks}", style="red" if state in ("refused", "failed") else "dim")
        return value, Text(), Text(), Text(published, style="dim italic")
    value = Text(f"{view.estimate(estimate(cell.number))}{marks}", style="bold" if cell.best else "")
    less, standing = _against(cell)
    said = ", ".join(filter(None, (standing, published)))
    seeds = Text(seeds_range(cell.number), style="dim")
    return value, seeds, Text(less, style="dim"), Text(said, style="dim")


def _against(cell: Cell) -> tuple[str, str]:
    if cell.standing is Standing.REFERENCE:
        return "", "reference"
    if cell.contrast is None or cell.contrast.value is None:
        return "", ""
    return difference(cell.contrast), ", ".join(filter(None, (p_holm(cell.contrast), cell.standing.value)))
