"""Cells of a comparison's tables: how a number stands to the others, and which one is best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from fl_server.comparison.index import Place, judged
from fl_server.comparison.plan import FIXED, PublishedNumber, TablePlan
from fl_server.comparison.result import Contrast, Number
from fl_server.comparison.words import DIMENSIONS
from fl_shared.metrics.table import METRICS, Metric


class Standing(StrEnum):
    """A number against the reference's. ``DIFFERENT``: of a metric that is right at one value: no better, no worse."""

    REFERENCE = "reference"
    BETTER = "better"
    WORSE = "worse"
    DIFFERENT = "different"
    CHANCE = "may be chance"
    UNTESTED = ""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """Of a row or column: the values of its dimensions, and as people read them."""

    values: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def title(self) -> str:
        """For people."""
        return " / ".join(self.words)

    @property
    def name(self) -> str:
        """As a published figure names it."""
        return " / ".join(self.values)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number with its difference to the reference, or the state of what should have told it.

    ``notes``: what is to be said of it, below the table. ``place`` None: there is no such cell.
    """

    place: Place | None
    number: Number | None = None
    contrast: Contrast | None = None
    state: str = ""
    notes: tuple[str, ...] = ()
    published: float | None = None
    standing: Standing = Standing.UNTESTED
    best: bool = False

    @property
    def value(self) -> float | None:
        """The number, if there is one."""
        return self.number.value if self.number else None

    @property
    def metric(self) -> Metric | None:
        """What it is measured by."""
        return METRICS[self.number.metric] if self.number else None

    def at(self, dimension: str) -> str:
        """Its coordinate."""
        return self.place[FIXED.index(dimension)] if self.place else ""


@dataclass(frozen=True, kw_only=True)
class Pivot:
    """A table. ``about``: what all its cells share, in words. ``elsewhere``: published figures without a cell here.

    ``footnotes``: each once; `numbers` tells which ones a cell bears.
    """

    plan: TablePlan
    title: str
    about: tuple[str, ...]
    rows: tuple[Heading, ...]
    columns: tuple[Heading, ...]
    cells: tuple[tuple[Cell, ...], ...]
    footnotes: tuple[str, ...]
    elsewhere: tuple[PublishedNumber, ...] = ()

    @property
    def corner(self) -> str:
        """What the rows are."""
        return " / ".join(DIMENSIONS.get(name, name) for name in self.plan.rows)

    @property
    def all_cells(self) -> list[Cell]:
        """Row by row."""
        return [cell for line in self.cells for cell in line]

    @property
    def told(self) -> bool:
        """Whether it has any number."""
        return any(cell.value is not None for cell in self.all_cells)

    @property
    def several_seeds(self) -> bool:
        """Whether any number is of more than one seed."""
        return any(cell.number is not None and cell.number.seeds > 1 for cell in self.all_cells)

    @property
    def has_published(self) -> bool:
        """Whether figures of a paper stand in it or below it."""
        return bool(self.elsewhere) or any(cell.published is not None for cell in self.all_cells)

    def numbers(self, cell: Cell) -> list[int]:
        """Which footnotes a cell bears, from 1."""
        return [self.footnotes.index(note) + 1 for note in cell.notes]


def standing_of(cell: Cell, reference: str) -> Standing:
    """How a cell stands to the reference: by the adjusted p, and the side on which its metric is better."""
    contrast = cell.contrast
    if cell.value is None:
        return Standing.UNTESTED
    if cell.at("variant") == reference:
        return Standing.REFERENCE
    if contrast is None or contrast.value is None:
        return Standing.UNTESTED
    if contrast.noise:
        return Standing.CHANCE
    metric = METRICS[contrast.metric]
    if metric.ideal is not None:
        return Standing.DIFFERENT
    return Standing.BETTER if (contrast.value > 0) is metric.higher_is_better else Standing.WORSE


def badness(value: float, metric: Metric) -> float:
    """The lower the better, whatever the metric."""
    if metric.ideal is not None:
        return abs(value - metric.ideal)
    return -value if metric.higher_is_better else value


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that may be compared with one another: variants with all else alike; of one variant, its modes."""
    told = [cell for cell in cells if cell.place is not None]
    by_variant = _grouped(told, lambda cell: _rest(cell.place or ()))
    if any(len(group) > 1 for group in by_variant):
        return by_variant
    return _grouped(told, lambda cell: judged(cell.place or ()))


def _grouped(cells: Sequence[Cell], key: Callable[[Cell], Place]) -> list[list[Cell]]:
    found: dict[Place, list[Cell]] = {}
    for cell in cells:
        found.setdefault(key(cell), []).append(cell)
    return list(found.values())


def _rest(place: Place) -> Place:
    """What two variants share when they are compared: all coordinates but the variant's."""
    return tuple(value for name, value in zip(FIXED, place, strict=False) if name != "variant")


def with_best(grid: list[list[Cell]]) -> list[list[Cell]]:
    """The cells, the best of each group marked; equals are all best, one alone is not."""
    best: set[Place] = set()
    for group in groups([cell for line in grid for cell in line]):
        ranked = [
            (badness(cell.value, cell.metric), cell.place) for cell in group if cell.value is not None and cell.metric
        ]
        if len(ranked) > 1:
            top = min(bad for bad, _ in ranked)
            best |= {place for bad, place in ranked if bad == top and place}
    return [[replace(cell, best=cell.place in best) for cell in line] for line in grid]
