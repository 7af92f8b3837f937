"""The TRIPOD+AI checklist: an item is answered only as far as the results themselves tell it.

What a person must say is left to the authors; nothing is claimed for them. An answer points to where on the page the
facts stand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fl_server.report import view
from fl_server.report.tripod_items import ITEMS
from fl_shared.metrics.table import METRICS
from fl_shared.results import Results

AUTHORS = "to be filled in by the authors"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What this page tells of an item, where (an id of the page), and whether the authors must add to it."""

    text: str
    where: str = ""
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item of the checklist; without an answer it is the authors'."""

    number: str
    asks: str
    answer: Answer | None


def checklist(results: Results) -> list[tuple[str, list[Item]]]:
    """Section of the checklist -> its items."""
    return [
        (
            section,
            [Item(number=n, asks=asks, answer=_ANSWERS[n](results) if n in _ANSWERS else None) for n, asks in items],
        )
        for section, items in ITEMS
    ]


def _hospitals(results: Results) -> Answer:
    inside, outside = view.hospitals(results, "train"), view.hospitals(results, "external")
    return Answer(text=f"{inside} trained, {outside} took no part; why these, by the authors", where="study")


def _quality(results: Results) -> Answer | None:
    return Answer(text="what was left out and why, at each site", where="quality") if results.flow else None


def _missing(results: Results) -> Answer:
    text = "an absent modality is masked; a sample without any of a set of inputs is left out of that set"
    return Answer(text=text, where="quality" if results.described or results.flow else "notes")


def _imputed(results: Results) -> Answer | None:
    told = any(row.subgroup.startswith("hidden=") for row in results.evaluation)
    return Answer(text="what missing inputs cost, hidden at random", where="hidden") if told else None


def _outcomes(results: Results) -> Answer:
    tasks = ", ".join(f"{name} ({kind})" for name, kind in results.study.types.items())
    return Answer(text=f"outcomes by name and type only: {tasks}", where="study")


def _clusters(results: Results) -> Answer:
    summed = "each site's own estimate" + (", random-effects summary, tau and I²" if results.summaries else "")
    return Answer(text=summed, where="sites", whole=bool(results.summaries))


def _measures(results: Results) -> Answer | None:
    if not results.evaluation:
        return None
    used = dict.fromkeys(row.metric for row in results.evaluation)
    titles = ", ".join(METRICS[name].title for name in used)
    return Answer(text=f"{titles}; each explained", where="metrics", whole=True)


def _updating(results: Results) -> Answer:
    if results.shifts:
        return Answer(text="intercepts refitted at the training sites", where="recalibration", whole=True)
    return Answer(text="the judged model was not recalibrated")


def _flow(results: Results) -> Answer | None:
    return Answer(text="from each site's table to its judged samples", where="cohort") if results.flow else None


def _described(results: Results) -> Answer | None:
    return Answer(text="Table 1, by site", where="cohort") if results.described else None


def _fairness(results: Results) -> Answer | None:
    told = any(row.subgroup and not row.subgroup.startswith("hidden=") for row in results.evaluation)
    return Answer(text="performance by subgroup", where="subgroups") if told else None


def _performance(results: Results) -> Answer | None:
    if not results.evaluation:
        return None
    return Answer(text="with intervals, at every site", where="summary", whole=bool(_fairness(results)))


_ANSWERS: Mapping[str, Callable[[Results], Answer | None]] = MappingProxyType(
    {
        "5a": _hospitals,
        "6a": _hospitals,
        "7": _quality,
        "8a": _outcomes,
        "9a": lambda r: Answer(text=f"modalities: {', '.join(r.study.modalities)}", where="study"),
        "11": _missing,
        "12a": lambda r: Answer(text="training sites hold patients out; external sites only judge", where="study"),
        "12c": lambda r: Answer(text=f"system {r.study.system}; study and code are fixed by a hash", where="study"),
        "12d": _clusters,
        "12e": _measures,
        "12f": _updating,
        "12g": lambda r: Answer(text=f"at each site, by package {r.study.package}", where="card", whole=True),
        "14": _fairness,
        "15": _outcomes,
        "20a": _flow,
        "20b": _described,
        "20c": _described,
        "21": lambda r: Answer(text="n and events beside every metric", where="metrics") if r.evaluation else None,
        "23a": _performance,
        "23b": lambda r: _clusters(r) if r.evaluation else None,
        "24": lambda r: Answer(text="raw and recalibrated", where="recalibration", whole=True) if r.shifts else None,
        "26": lambda r: Answer(text="limits of the method", where="notes"),
        "27a": _imputed,
    }
)
