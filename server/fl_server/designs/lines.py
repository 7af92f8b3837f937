"""A board's lines: a site each, then the summaries over sites, and the worst site in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fl_server.designs import Design
from fl_server.designs.part import Part, arm_name, number
from fl_server.report.view import NO_VALUE, ROLE_NAMES

Role = Literal["external", "train"]
ROLES: dict[Role, str] = {"external": "all external sites", "train": "all internal sites"}


@dataclass(frozen=True, kw_only=True)
class BoardLine:
    """A site (or a summary over sites): its cells under the board's columns."""

    name: str
    cells: tuple[str, ...]
    summary: bool = False
    worst: bool = False


def columns(part: Part, arms: Sequence[str]) -> tuple[str, ...]:
    """Titles of the cells."""
    match part.result.design:
        case Design.LOSO:
            return ("external (left out)", "internal, by model")
        case Design.SEEDS:
            return ("mean (lowest–highest)", *map(arm_name, arms))
        case Design.SIDES:
            return tuple(map(arm_name, arms))


def lines(part: Part, arms: Sequence[str]) -> Iterator[BoardLine]:
    """Sites first, then what sums them up."""
    match part.result.design:
        case Design.LOSO:
            yield from _left_out(part)
        case Design.SEEDS:
            yield from _seeds(part, arms)
        case Design.SIDES:
            yield from _sides(part, arms)


def worst(part: Part) -> Iterator[str]:
    """The worst sites in sentences, where there is one over all arms."""
    for one in part.worst:
        if part.result.design is Design.SEEDS:
            yield f"Worst {ROLE_NAMES[one.role]} site: {one.site}, {part.spread(one.site, one.role)}"
        elif part.result.design is Design.LOSO:
            yield f"Worst site: {one.site}, {part.cell(part.row(one.site, one.site))}"


def _left_out(part: Part) -> Iterator[BoardLine]:
    for site in sorted(part.result.sites):
        cells = (part.cell(part.row(site, site)), part.spread(site, "train"))
        yield BoardLine(name=site, cells=cells, worst=part.is_worst(site))
    for one in part.summaries:
        far = ""
        if one.prediction_low is not None and one.prediction_high is not None:
            far = f"a new site: {number(part.name, one.prediction_low)} to {number(part.name, one.prediction_high)}"
        yield BoardLine(name="all left-out sites", cells=(part.cell(one), far), summary=True)


def _seeds(part: Part, arms: Sequence[str]) -> Iterator[BoardLine]:
    for site in part.sites:
        each = (part.cell(part.row(site, arm)) for arm in arms)
        cells = (part.spread(site, part.result.sites[site]), *each)
        yield BoardLine(name=part.titled(site), cells=cells, worst=part.is_worst(site))
    for role, name in ROLES.items():
        if told := part.summary(role):
            cells = (part.spread("", role), *(part.cell(told.get(arm)) for arm in arms))
            yield BoardLine(name=name, cells=cells, summary=True)


def _sides(part: Part, arms: Sequence[str]) -> Iterator[BoardLine]:
    for site in part.sites:
        yield BoardLine(name=part.titled(site), cells=tuple(part.cell(part.row(site, arm)) for arm in arms))
    for role, name in ROLES.items():
        if told := part.summary(role):
            yield BoardLine(name=name, cells=tuple(part.cell(told.get(arm)) for arm in arms), summary=True)
            yield from _worst_of_each(part, arms, role)


def _worst_of_each(part: Part, arms: Sequence[str], role: Role) -> Iterator[BoardLine]:
    """Which site each arm serves worst."""
    if sites := {one.arm: one.site for one in part.worst if one.role == role}:
        told = {arm: f"{site} {part.cell(part.row(site, arm))}" for arm, site in sites.items()}
        cells = tuple(told.get(arm, NO_VALUE) for arm in arms)
        yield BoardLine(name=f"worst {ROLE_NAMES[role]} site", cells=cells, worst=True)
