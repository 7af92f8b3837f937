"""What came of the risk groups over time: the share with the event by day, with the number at risk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from fl_server.report import view
from fl_server.report.curves import curve_model, of_headline
from fl_server.report.style import BAND_DASHES, BAND_NAMES, BAND_WIDTHS, BANDS, GRID, Picture, canvas
from fl_shared.results import Curve, Results

SIZE = (4.3, 2.9)  # inches
_TIMES = 6  # at most, at which the number at risk is told


@dataclass(frozen=True, kw_only=True)
class AtRisk:
    """The number at risk of each group (rows) at some days (columns); None: withheld."""

    days: tuple[float, ...]
    groups: tuple[tuple[str, tuple[int | None, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Course:
    """The picture of an outcome at a site, and the table under it."""

    picture: Picture
    at_risk: AtRisk | None


def courses(results: Results, task: str, index: int) -> list[Course]:
    """Every label and site that told its incidence, labels first."""
    found = []
    for at, curves in enumerate(of_headline(results, task, ("incidence",), model=curve_model(results)).values()):
        for i, (site, mine) in enumerate(groupby(curves, key=lambda curve: curve.site)):
            groups = sorted(mine, key=lambda curve: _place(curve.group))
            found.append(_course(results, site, groups, key=f"incidence{index}-{at}-{i}"))
    return found


def _named(group: str) -> str:
    """A group in words; of bands told together, all."""
    bands = group.split("+")
    return "everybody" if len(bands) == len(BAND_NAMES) else " and ".join(bands)


def _place(group: str) -> int:
    """The band of a group: of bands told together ('low+middle') the last one."""
    last = group.rpartition("+")[2]
    return BAND_NAMES.index(last) if last in BAND_NAMES else len(BAND_NAMES) - 1


def _course(results: Results, site: str, curves: Sequence[Curve], *, key: str) -> Course:
    first = curves[0]
    with canvas(*SIZE, key=key) as drawn:
        axes = drawn.figure.add_subplot()
        for curve in curves:
            band = _place(curve.group)
            axes.plot(curve.x, curve.y, color=BANDS[band], linestyle=BAND_DASHES[band], linewidth=BAND_WIDTHS[band],
                      marker="o", markersize=3.5)  # fmt: skip
            axes.annotate(_named(curve.group), (curve.x[-1], curve.y[-1]), xytext=(4, 0), textcoords="offset points",
                          color=BANDS[band], va="center", annotation_clip=False)  # fmt: skip
        top = max([0.05, *(y for curve in curves for y in curve.y)])
        axes.set(xlabel="Days", ylabel="Share with the event", xlim=(0, None), ylim=(0, 1.08 * top))
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.grid(axis="y", color=GRID, linewidth=0.7)
    named = f"{first.task}, {first.label}" if first.label else first.task
    groups = [(_named(curve.group), curve.x[-1], curve.y[-1]) for curve in curves]
    said = "; ".join(f"{name} {share:.1%} by day {day:g}" for name, day, share in groups)
    return Course(
        picture=Picture(
            svg=drawn.svg,
            alt=f"Share with {named} at {site} by predicted risk: {said}.",
            caption=f"{named}: {site} ({view.ROLE_NAMES[results.sites[site].role]})",
        ),
        at_risk=_at_risk(curves),
    )


def _at_risk(curves: Sequence[Curve]) -> AtRisk | None:
    """Numbers on some of the days on which any group tells one, evenly chosen; a site withholds the others."""
    by = [(curve.group, dict(zip(curve.x, curve.counts, strict=False))) for curve in curves]
    told = sorted({day for _, counts in by for day, number in counts.items() if number is not None})
    if not told:
        return None
    step = max(1.0, (len(told) - 1) / (_TIMES - 1))
    days = tuple(told[round(i * step)] for i in range(_TIMES) if round(i * step) < len(told))
    return AtRisk(
        days=days, groups=tuple((_named(name), tuple(counts.get(day) for day in days)) for name, counts in by)
    )
