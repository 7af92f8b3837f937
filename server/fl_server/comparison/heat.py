"""A table as a heat map: the stronger the colour, the better; every cell says its number and how it stands.

One hue, so that it is read without telling colours apart; the text keeps its contrast on the strongest cell, in light
and dark (`STRONGEST`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from markupsafe import Markup, escape

from fl_server.comparison.cell import Cell, Pivot, Standing, badness
from fl_server.comparison.words import estimate, p_holm
from fl_server.report import view
from fl_server.report.style import Picture
from fl_shared.metrics.table import METRICS

WIDE, HIGH, LINE = 128, 58, 15  # of a cell and a line of text, in units of the drawing
LABEL, LABEL_CHARACTERS, HEAD_CHARACTERS = 168, 24, 16
WEAKEST, STRONGEST = 0.05, 0.42  # opacity of --mark
_SIGNS = {
    Standing.REFERENCE: "reference", Standing.BETTER: "▲ better", Standing.WORSE: "▼ worse",
    Standing.DIFFERENT: "◆ different", Standing.CHANCE: "≈ may be chance", Standing.UNTESTED: "",
}  # fmt: skip


def heat(pivot: Pivot) -> Picture:
    """The picture of a table."""
    rows = [textwrap.wrap(row.title, LABEL_CHARACTERS) or [""] for row in pivot.rows]
    heads = [textwrap.wrap(column.title, HEAD_CHARACTERS) or [""] for column in pivot.columns]
    top, width = 10 + LINE * max(map(len, heads)), LABEL + WIDE * len(heads)
    parts, shares = [], _shares(pivot.all_cells)
    for at, head in enumerate(heads):
        parts.append(_text(head, LABEL + WIDE * (at + 0.5), top - 6 - LINE * (len(head) - 1), "heat-head"))
    for down, (row, line) in enumerate(zip(rows, pivot.cells, strict=True)):
        y = top + HIGH * down
        parts.append(_text(row, LABEL - 10, y + HIGH / 2 + 5 - LINE * (len(row) - 1) / 2, "heat-row"))
        for at, cell in enumerate(line):
            parts += _drawn(cell, LABEL + WIDE * at, y, shares, pivot.numbers(cell))
    height = top + HIGH * len(rows) + 3
    style = f"min-width:{0.78 * width:.0f}px;max-width:{1.35 * width:.0f}px"
    box = f'viewBox="0 0 {width} {height}" style="{style}"'
    svg = Markup(f'<svg class="heat" {box} aria-hidden="true">{"".join(parts)}</svg>')
    return Picture(svg=svg, alt=f"Heat map: {pivot.title}. {'; '.join(_said(pivot))}.", caption=_caption(pivot))


def _caption(pivot: Pivot) -> str:
    kinds = {(cell.at("metric"), cell.at("task")) for cell in pivot.all_cells if cell.value is not None}
    among = "" if len(kinds) < 2 else " among the cells of the same metric and task"
    standings = {cell.standing for cell in pivot.all_cells}
    signs = {Standing.BETTER: "▲ clearly better", Standing.WORSE: "▼ clearly worse", Standing.CHANCE: "≈ may be chance"}
    told = [words for standing, words in signs.items() if standing in standings]
    against = f" Against the reference: {', '.join(told)}." if told else ""
    return f"The stronger the colour, the better{among}; framed: the best.{against}"


def _shares(cells: Sequence[Cell]) -> dict[object, float]:
    """Place of a cell -> how good it is among those of its metric and task, 0 to 1."""
    found: dict[tuple[str, str], list[tuple[object, float]]] = {}
    for cell in cells:
        if cell.value is not None and cell.metric is not None:
            kind = (cell.at("metric"), cell.at("task"))
            found.setdefault(kind, []).append((cell.place, badness(cell.value, cell.metric)))
    shares: dict[object, float] = {}
    for told in found.values():
        low, high = min(bad for _, bad in told), max(bad for _, bad in told)
        shares |= {place: (high - bad) / (high - low) if high > low else 0.5 for place, bad in told}
    return shares


def _drawn(cell: Cell, x: float, y: float, shares: dict[object, float], notes: list[int]) -> Iterator[str]:
    """A cell: its ground, its number, how it stands; what has no number is an empty, dashed box with its state."""
    middle, box = x + WIDE / 2, f'x="{x + 2:g}" y="{y + 2:g}" width="{WIDE - 4}" height="{HIGH - 4}" rx="6"'
    if cell.place is None:
        return
    mark = " ".join(f"[{number}]" for number in notes)
    if cell.value is None or cell.number is None:
        state = cell.state if cell.state not in ("", "finished") else view.NO_VALUE
        yield f'<rect class="heat-none" {box}/>'
        yield _text([" ".join(filter(None, (state, mark)))], middle, y + HIGH / 2 + 4, "heat-sign")
        return
    opacity = WEAKEST + (STRONGEST - WEAKEST) * shares[cell.place]
    yield f'<rect class="heat-ground" {box} fill-opacity="{opacity:.3f}"/>'
    if cell.best:
        yield f'<rect class="heat-best" {box}/>'
    number = view.number(cell.value, estimate(cell.number))
    sign = _SIGNS[cell.standing]
    yield _text(
        [number],
        middle,
        y + (25 if sign or mark else HIGH / 2 + 5),
        "heat-number strong" if cell.best else "heat-number",
    )
    if sign or mark:
        yield _text([" ".join(filter(None, (sign, mark)))], middle, y + 43, "heat-sign")


def _text(lines: Sequence[str], x: float, y: float, kind: str) -> str:
    spans = "".join(f'<tspan x="{x:g}" y="{y + LINE * at:g}">{escape(line)}</tspan>' for at, line in enumerate(lines))
    return f'<text class="{kind}">{spans}</text>'


def _said(pivot: Pivot) -> Iterator[str]:
    """Row by row, in words."""
    for row, line in zip(pivot.rows, pivot.cells, strict=True):
        told = [
            f"{column.title} {_words(cell)}" for column, cell in zip(pivot.columns, line, strict=True) if cell.place
        ]
        yield f"{row.title}: {', '.join(told)}"


def _words(cell: Cell) -> str:
    if cell.value is None or cell.number is None:
        return cell.state if cell.state not in ("", "finished") else "no number"
    number = f"{METRICS[cell.number.metric].title} {view.number(cell.value, estimate(cell.number))}"
    p = p_holm(cell.contrast) if cell.contrast and cell.standing is not Standing.REFERENCE else ""
    about = ", ".join(part for part in ("best" if cell.best else "", str(cell.standing), p) if part)
    return f"{number} ({about})" if about else number
