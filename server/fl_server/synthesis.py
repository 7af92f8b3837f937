"""Over the sites of a run: the summary of every metric, what is lost from internal to external sites, pooled AUROC."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fl_shared.metrics.pooled import Groups, pooled_auroc
from fl_shared.metrics.synthesis import SiteEstimate, Summed, gap, summed
from fl_shared.metrics.table import METRICS, MetricName
from fl_shared.results import Curve, EvaluationRow, Gap, PooledApproximate, Summary

Role = Literal["train", "external"]
ROLES: tuple[Role, Role] = ("train", "external")


@dataclass(frozen=True, kw_only=True, order=True)
class Judged:
    """What was judged: of which model, given which inputs, on which outcome."""

    task: str
    label: str
    modalities: str
    model: str


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """What the coordinator makes of the sites' results."""

    summaries: tuple[Summary, ...]
    gaps: tuple[Gap, ...]
    pooled: tuple[PooledApproximate, ...]


def synthesized(rows: Sequence[EvaluationRow], curves: Sequence[Curve], *, roles: Mapping[str, Role]) -> Synthesis:
    """Sum up what the sites tell; training and external sites apart.

    Args:
        rows: of all sites; those of subgroups are not summed up.
        curves: of all sites.
        roles: of every site.
    """
    groups: defaultdict[tuple[Judged, MetricName, Role], list[EvaluationRow]] = defaultdict(list)
    for row in rows:
        if not row.subgroup:
            what = Judged(task=row.task, label=row.label, modalities=row.modalities, model=row.model)
            groups[what, row.metric, row.role].append(row)
    found = summed([(metric, [_estimate(row) for row in told]) for (_, metric, _), told in groups.items()])
    of = dict(zip(groups, found, strict=True))
    return Synthesis(
        summaries=tuple(Summary(**vars(what), role=role, **one.told()) for (what, _, role), one in of.items()),
        gaps=tuple(
            _gap(what, one, of[what, metric, "external"])
            for (what, metric, role), one in of.items()
            if role == "train" and METRICS[metric].ideal is None and (what, metric, "external") in of
        ),
        pooled=tuple(_pooled(curves, roles)),
    )


def _estimate(row: EvaluationRow) -> SiteEstimate:
    remark = row.note if row.label == "macro" else ""  # the mean of which labels
    return SiteEstimate(site=row.site, value=row.value, low=row.ci_low, high=row.ci_high, remark=remark)


def _gap(what: Judged, internal: Summed, external: Summed) -> Gap:
    rounded = METRICS[internal.metric].rounded
    value, low, high = (None if end is None else rounded(end) for end in gap(internal, external))
    notes = (f"{name}: {one.note}" for name, one in (("internal", internal), ("external", external)) if one.note)
    return Gap(**vars(what), metric=internal.metric, value=value, ci_low=low, ci_high=high, note="; ".join(notes))


def _pooled(curves: Sequence[Curve], roles: Mapping[str, Role]) -> Iterator[PooledApproximate]:
    """Of what two sites or more tell: training sites, external sites, all."""
    groups: defaultdict[Judged, dict[str, Groups]] = defaultdict(dict)
    for curve in curves:
        if curve.kind == "risks" and curve.counts and None not in curve.counts:
            what = Judged(task=curve.task, label=curve.label, modalities=curve.modalities, model=curve.model)
            groups[what][curve.site] = _groups(curve)
    for what, told in groups.items():
        for role in (*ROLES, "all"):
            chosen = tuple(site for site in sorted(told) if role in (roles[site], "all"))
            if role == "all" and len({roles[site] for site in chosen}) < len(ROLES):
                continue  # the same as one of the two
            area = pooled_auroc([told[site] for site in chosen]) if len(chosen) > 1 else None
            if area is not None:
                numbers = {"value": area.value, "ci_low": area.low, "ci_high": area.high}
                rounded = {name: METRICS["auroc"].rounded(number) for name, number in numbers.items()}
                count = sum(len(told[site].counts) for site in chosen)
                note = f"approximate: from {count} groups of patients by predicted risk"
                yield PooledApproximate(**vars(what), role=role, sites=chosen, **rounded, n=area.n, note=note)


def _groups(curve: Curve) -> Groups:
    return Groups(risks=np.array(curve.x), shares=np.array(curve.y), counts=np.array(curve.counts, dtype=np.float64))
