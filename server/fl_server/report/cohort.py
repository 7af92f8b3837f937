"""Who was judged: the way from a site's table to its judged patients, and Table 1, sites side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fl_server.report import view
from fl_shared.results import Described, Flow, Results

PRESENT = "has "  # Table 1 names a modality so
LEFT_OUT = "set aside: "
_STAGES = {
    "rows": "in the site's table",
    "index_time_ok": "with a usable index time",
    "after_outcome_check": "without an outcome before it",
    "usable": "with a usable modality",
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage at each site: samples, patients, and the share of the first stage's samples (for the bar)."""

    name: str
    cells: tuple[tuple[Flow, float | None] | None, ...]


@dataclass(frozen=True, kw_only=True)
class Characteristic:
    """One row of Table 1: in words, at each site. ``of``: a category of the variable above."""

    name: str
    category: str
    cells: tuple[tuple[str, str], ...]  # what is told, and why something is not


def sites_with(results: Results, parts: Sequence[Flow | Described]) -> list[str]:
    """Sites that tell something of this, external ones first."""
    told = {part.site for part in parts}
    return [site for site in view.site_order(results) if site in told]


def stages(results: Results, *, left_out: bool) -> list[Stage]:
    """Stages in the order in which the sites tell them; ``left_out``: those that say why samples are not judged."""
    order = sites_with(results, results.flow)
    by = {(found.site, found.stage): found for found in results.flow}
    first = {site: next(f.samples for f in results.flow if f.site == site) for site in order}
    found = []
    for name in dict.fromkeys(f.stage for f in results.flow if is_left_out(f.stage) is left_out):
        told = [(by.get((site, name)), first[site]) for site in order]
        cells = tuple((flow, _share(flow.samples, start)) if flow else None for flow, start in told)
        said = _STAGES.get(name, name.removeprefix(LEFT_OUT).replace("_", " "))
        found.append(Stage(name=said, cells=cells))
    return found


def is_left_out(stage: str) -> bool:
    """Whether a stage counts what was left out, with the reason, rather than what passed."""
    return stage.startswith(LEFT_OUT)


def _share(samples: int | None, start: int | None) -> float | None:
    return None if samples is None or not start else min(1.0, samples / start)


def characteristics(results: Results, *, present: bool) -> list[Characteristic]:
    """Rows of Table 1; ``present``: those that say who has a modality, which belong to the quality of the data."""
    rows = [row for row in results.described if row.variable.startswith(PRESENT) is present]
    order = sites_with(results, results.described)
    found = []
    for variable, category in dict.fromkeys((row.variable, row.category) for row in rows):
        mine = [row for row in rows if (row.variable, row.category) == (variable, category)]
        cells = tuple(_cell([row for row in mine if row.site == site]) for site in order)
        if any(said != view.NO_VALUE or note for said, note in cells):  # not: nothing missing, and no more to say
            found.append(Characteristic(name=variable, category=category, cells=cells))
    return found


def _cell(rows: Iterable[Described]) -> tuple[str, str]:
    """``62.1 (sd 11.4), median 63 (55 to 71)`` or ``45 %``; and the notes."""
    told = {row.statistic: row.value for row in rows}
    notes = ", ".join(dict.fromkeys(row.note for row in rows if row.note))
    said = []
    if (mean := told.get("mean")) is not None:
        sd = told.get("sd")
        said.append(_number(mean) + ("" if sd is None else f" (sd {_number(sd)})"))
    if (median := told.get("median")) is not None:
        low, high = told.get("q1"), told.get("q3")
        said.append(f"median {_number(median)}" + _between(low, high))
    count, share = told.get("count"), told.get("share")
    if count is not None:
        said.append(f"{count:,.0f}" + ("" if share is None else f" ({_percent(share)})"))
    elif share is not None:
        said.append(_percent(share))
    if (missing := told.get("missing")) is not None and missing > 0:
        said.append(f"missing {_percent(missing)}")
    return ", ".join(said) or view.NO_VALUE, notes


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({_number(low)} to {_number(high)})"


def _percent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"


def _number(value: float) -> str:
    """Three digits, as in the table of statistics."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
