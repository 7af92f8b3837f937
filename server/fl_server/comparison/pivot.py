"""A table of a comparison: rows and columns of numbers, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fl_server.comparison.cell import Cell, Heading, Pivot, standing_of, with_best
from fl_server.comparison.index import Index
from fl_server.comparison.plan import FIXED, PublishedNumber, TablePlan
from fl_server.comparison.scope import Scope
from fl_server.comparison.words import title_of

WIDE = 8
"""A table of more columns than these and fewer rows is turned: it could be neither printed nor held in a phone."""


def pivots(index: Index, plan: TablePlan) -> list[Pivot]:
    """The table of a plan, or several where a dimension that is neither row nor column keeps several values."""
    scope = Scope(index=index, plan=plan)
    parts = scope.parts
    split = [name for name in parts[0] if len({part[name] for part in parts}) > 1] if parts else []
    made = [_Maker(index).pivot(scope, part, split) for part in parts]
    return [_fitted(pivot) for pivot in made if pivot is not None]


class _Maker:
    """Looks cells up in a result."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def pivot(self, scope: Scope, part: Mapping[str, str], split: Sequence[str]) -> Pivot | None:
        """The table of a part; ``split``: what tells it from the plan's other tables."""
        plan = scope.plan
        rows, columns = scope.headings(plan.rows), scope.headings(plan.columns)
        grid = [[self._cell(scope, part, row, column) for column in columns] for row in rows]
        kept_rows = [at for at, line in enumerate(grid) if any(cell.place for cell in line)]
        kept_columns = [at for at in range(len(columns)) if any(line[at].place for line in grid)]
        if not kept_rows or not kept_columns:
            return None
        heads = [self._heading(plan.rows, rows[at]) for at in kept_rows]
        tops = [self._heading(plan.columns, columns[at]) for at in kept_columns]
        cells = with_best([[grid[row][column] for column in kept_columns] for row in kept_rows])
        cells, elsewhere = _published(heads, tops, cells, () if split else plan.published)
        about = self._about(plan, [cell for line in cells for cell in line if cell.place])
        common = _common([cell for line in cells for cell in line if cell.value is not None])
        cells = [[replace(c, notes=tuple(n for n in c.notes if n not in common)) for c in line] for line in cells]
        return Pivot(
            plan=plan,
            title=", ".join((plan.title, *(self._word(name, part[name]) for name in split))),
            about=(*about, *common),
            rows=tuple(heads),
            columns=tuple(tops),
            cells=tuple(tuple(line) for line in cells),
            footnotes=tuple(dict.fromkeys(note for line in cells for cell in line for note in cell.notes)),
            elsewhere=elsewhere,
        )

    def _cell(self, scope: Scope, part: Mapping[str, str], row: Sequence[str], column: Sequence[str]) -> Cell:
        """One cell; without a place where its coordinates can have no number, as a label of another task."""
        known = {
            **part,
            **dict(zip(scope.plan.rows, row, strict=True)),
            **dict(zip(scope.plan.columns, column, strict=True)),
        }
        place = scope.place(known)
        if place is None or not self._index.is_expected(place):
            return Cell(place=None)
        number, state, reason = self._index.numbers.get(place), *self._state(place[0], place[1])
        notes = [f"{state}: {reason}"] if reason else []
        if number is not None:
            seeds = len(self._index.result.seeds)
            if number.seeds < seeds and number.value is not None:
                notes = ["; ".join((f"{number.seeds} of {seeds} seeds", *notes))]
            notes += [number.note] if number.note else []
        contrast = self._index.contrasts.get(place)
        if contrast is not None and contrast.note not in ("", *notes):
            notes.append(f"difference: {contrast.note}")
        cell = Cell(place=place, number=number, contrast=contrast, state=state, notes=tuple(dict.fromkeys(notes)))
        return replace(cell, standing=standing_of(cell, self._index.result.reference))

    def _state(self, variant: str, mode: str) -> tuple[str, str]:
        """What became of a variant's training in a mode, and why, where it has not finished."""
        trained = self._index.trained.get((variant, mode), ())
        for state in ("refused", "failed", "waiting"):
            for cell in trained:
                if cell.state == state:
                    return state, cell.reason or ("" if state == "waiting" else "no reason was told")
        return ("finished", "") if trained else ("", "")

    def _heading(self, dimensions: Sequence[str], values: tuple[str, ...]) -> Heading:
        words = tuple(self._word(name, value) for name, value in zip(dimensions, values, strict=True))
        return Heading(values=values, words=words)

    def _word(self, dimension: str, value: str) -> str:
        return title_of(self._index.result, dimension, value)

    def _about(self, plan: TablePlan, cells: Sequence[Cell]) -> Iterator[str]:
        """What the cells share and neither heading tells."""
        shown = {*plan.rows, *plan.columns}
        shared = {
            name: cells[0].at(name) for name in FIXED if name not in shown and len({c.at(name) for c in cells}) == 1
        }
        words = {name: self._word(name, value) for name, value in shared.items()}
        if {"metric", "task"} <= shared.keys():
            words["metric"] += f" of {words.pop('task')}"
        elif "task" in words:
            words["task"] = f"task {words['task']}"
        mine = self._index.sites(shared.get("role", ""))
        if "role" in shared:
            words["role"] += " sites" if len(mine) != 1 else f" site {mine[0]}"
        if "site" in shared and (not shared["site"] or [shared["site"]] == mine):
            words["site"] = "" if len(mine) == 1 else "summary over the sites"
        for name in ("metric", "task", "label", "role", "site", "mode", "modalities", "subgroup", "variant"):
            if words.get(name) and not (name in ("label", "subgroup") and not shared[name]):
                yield words[name]


def _common(told: Sequence[Cell]) -> tuple[str, ...]:
    """Notes that all numbers of a table bear: they are of the table."""
    return tuple(note for note in told[0].notes if all(note in cell.notes for cell in told)) if len(told) > 1 else ()


def _fitted(pivot: Pivot) -> Pivot:
    if len(pivot.columns) <= WIDE or len(pivot.rows) >= len(pivot.columns):
        return pivot
    turned = pivot.plan.model_copy(update={"rows": pivot.plan.columns, "columns": pivot.plan.rows})
    cells = tuple(zip(*pivot.cells, strict=True))
    return replace(pivot, plan=turned, rows=pivot.columns, columns=pivot.rows, cells=cells)


def _published(
    rows: Sequence[Heading], columns: Sequence[Heading], cells: list[list[Cell]], figures: Sequence[PublishedNumber]
) -> tuple[list[list[Cell]], tuple[PublishedNumber, ...]]:
    """The cells with a paper's figures, and those figures that have no cell."""
    given = {(figure.row, figure.column): figure for figure in figures}
    found = [
        [
            replace(cell, published=_value(given.pop((row.name, column.name), None)))
            for cell, column in zip(line, columns, strict=True)
        ]
        for line, row in zip(cells, rows, strict=True)
    ]
    return found, tuple(given.values())


def _value(figure: PublishedNumber | None) -> float | None:
    return None if figure is None else figure.value
