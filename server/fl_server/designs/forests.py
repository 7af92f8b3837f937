"""A board's forest: a group a site, a line a model, each with its 95 % interval; then the summaries over sites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fl_server.designs import Design
from fl_server.designs.lines import ROLES
from fl_server.designs.part import Part, arm_name
from fl_server.designs.result import ArmSummary
from fl_server.report.forest import Forest, Group, Line, axis_of

MARKED = {
    Design.LOSO: "Squares: the site was left out, and judged a model that none of its patients trained. Circles: the "
    "same site's held-out patients under models that it helped to train.",
    Design.SEEDS: "A line a seed. Squares: sites that never trained.",
    Design.SIDES: "All models of a site are judged on the same patients. Squares: sites that never trained.",
}


def forest(part: Part, arms: Sequence[str]) -> Forest:
    """Every model at every site on one axis."""
    found = _left_out(part) if part.result.design is Design.LOSO else _by_arm(part, arms)
    groups = tuple(group for group in found if group.lines)
    better = "" if part.metric.higher_is_better else "; lower is better"
    unit = ", in the unit of the target" if part.metric.in_unit else ""
    return Forest(
        caption=f"{part.metric.title}{unit}{better}. {MARKED[part.result.design]}",
        groups=groups,
        axis=axis_of(part.metric, [line for group in groups for line in group.lines]),
        first="Site and model",
    )


def _left_out(part: Part) -> Iterator[Group]:
    for site in sorted(part.result.sites):
        inside = [
            line for arm in part.arms if arm != site for line in _line(part, f"without {arm}", site, arm, "train")
        ]
        yield Group(name=site, lines=(*_line(part, "left out", site, site, "external"), *inside))
    yield Group(name="all left-out sites", lines=tuple(_summary("random effects", one) for one in part.summaries))


def _by_arm(part: Part, arms: Sequence[str]) -> Iterator[Group]:
    for site in part.sites:
        kind = part.result.sites[site]
        found = [line for arm in arms for line in _line(part, arm_name(arm), site, arm, kind)]
        yield Group(name=part.titled(site), lines=tuple(found))
    for role, name in ROLES.items():
        told = part.summary(role)
        yield Group(name=name, lines=tuple(_summary(arm_name(arm), told[arm]) for arm in arms if arm in told))


def _line(part: Part, name: str, site: str, arm: str, kind: str) -> Iterator[Line]:
    if (row := part.row(site, arm)) is not None:
        yield Line(name=name, told=row, kind=kind)


def _summary(name: str, one: ArmSummary) -> Line:
    low, high = one.prediction_low, one.prediction_high
    predicted = (low, high) if low is not None and high is not None else None
    return Line(name=name, told=one, kind="summary", predicted=predicted)
