"""Which variant won where, by how much, and what may be chance: in words, from the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fl_server.comparison.cell import Cell, Pivot, Standing, groups
from fl_server.comparison.plan import FIXED
from fl_server.comparison.result import ComparisonResult
from fl_server.comparison.words import difference, estimate, listed, mode_title, p_holm, title_of
from fl_server.report import view
from fl_shared.metrics.table import Metric

MANY = 6
"""More variants than these are counted, not named."""
STATES = {"refused": "refused", "failed": "failed", "waiting": "not trained yet"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Cells that were compared with one another. ``where``: what tells them from the table's others, in words.

    ``best``: one cell, or several with the same number; none where nothing can be compared. ``said``: sentences.
    """

    where: str
    best: tuple[Cell, ...]
    winner: str
    said: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """All of it."""
        return f"{self.where}: {' '.join(self.said)}" if self.where else " ".join(self.said)


def outcomes(result: ComparisonResult, pivot: Pivot) -> list[Outcome]:
    """An outcome a group of cells that may be compared, in the order of the table."""
    found = groups(pivot.all_cells)
    axes = ("variant", "mode") if _of_modes(found) else ("variant",)
    varied = [
        name for name in FIXED if name not in axes and len({cell.at(name) for group in found for cell in group}) > 1
    ]
    return [_outcome(result, group, ", ".join(_where(result, group[0], varied))) for group in found]


def _of_modes(found: Sequence[Sequence[Cell]]) -> bool:
    """Whether modes of one variant stand against each other."""
    return any(len({cell.at("mode") for cell in group}) > 1 for group in found)


def _where(result: ComparisonResult, cell: Cell, varied: Sequence[str]) -> list[str]:
    words = {name: title_of(result, name, cell.at(name)) for name in varied}
    if "role" in words:
        words["role"] += " sites"
        if not cell.at("site"):
            words.pop("site", None)
    name, word = next(iter(words.items()), ("", ""))
    if name in ("mode", "role", "modalities", "subgroup"):  # words, not somebody's names
        words[name] = word[:1].upper() + word[1:]
    return list(words.values())


def _outcome(result: ComparisonResult, group: Sequence[Cell], where: str) -> Outcome:
    told, dimension = [cell for cell in group if cell.value is not None], "mode" if _of_modes([group]) else "variant"
    names = {cell.place: title_of(result, dimension, cell.at(dimension)) for cell in group}
    best = tuple(cell for cell in told if cell.best)
    silent = [
        f"{name}: {word}."
        for state, word in STATES.items()
        if (name := _names([names[c.place] for c in group if c.value is None and c.state == state], len(group)))
    ]
    if not best:
        only = told[0] if told else None
        said = f"Only {names[only.place]} has a number: {_number(only)}." if only else "No number was told."
        return Outcome(where=where, best=(), winner="", said=(said, *silent))
    winner, metric = listed([names[cell.place] for cell in best]), best[0].metric
    assert metric is not None  # it has a value
    said = f"{winner} {'has' if len(best) == 1 else 'have'} the {_superlative(metric)}, {_number(best[0])}"
    if dimension == "mode":
        return Outcome(where=where, best=best, winner=winner, said=(f"{said}. No test compares modes.", *silent))
    first = f"{said}{_against(result, best[0])}"
    others = [cell for cell in told if cell not in best[:1]]
    return Outcome(where=where, best=best, winner=winner, said=(first, *_others(others, names), *silent))


def _superlative(metric: Metric) -> str:
    if metric.ideal is not None:
        return f"{metric.title} nearest to {metric.ideal:g}"
    return f"{'highest' if metric.higher_is_better else 'lowest'} {metric.title}"


def _number(cell: Cell) -> str:
    return view.estimate(estimate(cell.number)) if cell.number else view.NO_VALUE


def _against(result: ComparisonResult, cell: Cell) -> str:
    """How the best stands to the reference, after its number."""
    reference = title_of(result, "variant", result.reference)
    if cell.standing is Standing.REFERENCE:
        return "; it is the reference."
    if cell.contrast is None or cell.contrast.value is None:
        return f"; it was not tested against the reference, {reference}: the difference may be chance."
    about = ", ".join(part for part in (difference(cell.contrast), p_holm(cell.contrast)) if part)
    if cell.standing is Standing.CHANCE:
        return f"; its difference to the reference, {reference}, may be chance: {about}."
    how = {Standing.BETTER: "better than", Standing.WORSE: "worse than"}.get(cell.standing, "not the same as")
    return f"; clearly {how} the reference, {reference}: {about}."


def _others(others: Sequence[Cell], names: dict[tuple[str, ...] | None, str]) -> list[str]:
    """The rest of the group, by how it stands to the reference."""
    said = []
    for standing, words in {
        Standing.BETTER: "Clearly better than the reference too",
        Standing.DIFFERENT: "Clearly not the same as the reference",
        Standing.CHANCE: "May be chance against the reference",
        Standing.WORSE: "Clearly worse than the reference",
        Standing.UNTESTED: "Not tested against the reference",
    }.items():
        if name := _names([names[cell.place] for cell in others if cell.standing is standing], len(others)):
            said.append(f"{words}: {name}.")
    return said


def _names(names: list[str], of: int) -> str:
    """Names; of many, how many."""
    return listed(names) if len(names) <= MANY else f"{len(names)} of {of}"


def states(result: ComparisonResult) -> str:
    """``34 finished, 4 refused``, of all cells."""
    counted = Counter(cell.state for cell in result.cells)
    return ", ".join(
        f"{counted[state]} {state}" for state in ("finished", "refused", "failed", "waiting") if counted[state]
    )


def reasons(result: ComparisonResult) -> dict[tuple[str, str], tuple[str, ...]]:
    """State and reason -> what was refused or failed for it: a variant and its modes, in words."""
    found: dict[tuple[str, str], dict[str, dict[str, None]]] = {}
    for cell in result.cells:
        if cell.state in ("refused", "failed"):
            of = found.setdefault((cell.state, cell.reason or "no reason was told"), {})
            of.setdefault(title_of(result, "variant", cell.variant), {})[mode_title(cell.mode)] = None
    return {why: tuple(f"{name} ({'; '.join(modes)})" for name, modes in of.items()) for why, of in found.items()}
