"""The log of rounds: a strip that shows every site's part at a glance, and the rows that are worth reading."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fl_server.report import view
from fl_server.report.style import Picture
from fl_shared.results import Results, RoundResult

MAX_SHOWN = 60
_CELL, _GAP, _MOST = 14, 2, 150
_MARKS = {"accepted": "", "rejected": "M3 3L11 11M11 3L3 11", "failed": "M3 3L11 11M11 3L3 11", "absent": "M3 7H11"}


def shown(rounds: Sequence[RoundResult]) -> list[RoundResult]:
    """All rounds, or of a long run the last ones and those in which something went wrong."""
    last = len(rounds) - MAX_SHOWN
    return [
        entry
        for index, entry in enumerate(rounds)
        if index >= last or entry.outcome == "failed" or any(site.status != "accepted" for site in entry.sites.values())
    ]


def strip(results: Results) -> list[tuple[str, Picture]]:
    """Of each training site a row of cells, a round each; none of a run too long to be drawn."""
    rounds = [entry for entry in results.rounds if entry.round > 0]
    if not rounds or len(rounds) > _MOST:
        return []
    sites = [name for name in view.site_order(results) if results.sites[name].role == "train"]
    return [(site, _row(rounds, site)) for site in sites]


def _row(rounds: Sequence[RoundResult], site: str) -> Picture:
    cells, troubles = [], []
    for at, entry in enumerate(rounds):
        found = entry.sites.get(site)
        status = found.status if found else "absent"
        move = f'<g transform="translate({at * (_CELL + _GAP)} 0)">'
        mark = f'<path d="{_MARKS[status]}"/>' if _MARKS[status] else ""
        cells.append(f'{move}<rect class="round-{status}" width="{_CELL}" height="{_CELL}" rx="3"/>{mark}</g>')
        if status != "accepted":
            troubles.append(f"{status} in round {entry.round}")
    wide = len(rounds) * (_CELL + _GAP)
    svg = f'<svg class="strip" viewBox="0 0 {wide} {_CELL}" width="{wide}" height="{_CELL}" aria-hidden="true">'
    said = ", ".join(troubles) or "accepted in every round"
    return Picture(svg=Markup(f"{svg}{''.join(cells)}</svg>"), alt=f"{site}: {said}.", caption="")
