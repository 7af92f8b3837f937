"""How often it happened to patients of like predicted risk: from what the hospitals told when the model was judged."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fl_shared.results import Curve

Z = 1.959963984540054  # 95 %
TOLD = 5e-4  # results tell a risk to three decimals: nearer to 0 or 1 it cannot be told apart
LIKE = math.log(2)  # between log-odds: a group whose odds are more than twice or less than half are not like


@dataclass(frozen=True, kw_only=True)
class Group:
    """Judged patients of one hospital (or of several together) with predicted risks like the patient's.

    predicted: their mean predicted risk, where it is told; share: with the event; low, high: its 95 % interval; weight:
    as many patients as the share is worth, fewer where follow-up was cut short.
    """

    sites: tuple[str, ...]
    predicted: float | None
    share: float
    low: float
    high: float
    patients: int
    weight: float


@dataclass(frozen=True, kw_only=True)
class Similar:
    """The groups of each hospital and all together.

    inputs: the modalities that the model was given then. unlike: hospitals where no group was like the patient. spread:
    how many times more the hospitals' shares vary than chance explains, at least 1; the interval of all together is
    that of so many times fewer patients.
    """

    inputs: tuple[str, ...]
    together: Group
    groups: tuple[Group, ...]
    unlike: tuple[str, ...]
    spread: float


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share among ``n`` (Wilson 1927)."""
    if n <= 0:
        raise ValueError("an interval needs at least one patient")
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def spread_of(groups: Sequence[Group]) -> float:
    """Pearson's chi-square of the hospitals' shares over its degrees of freedom, at least 1.

    The overdispersion of counts (McCullagh and Nelder 1989, section 4.5).
    """
    n = sum(group.weight for group in groups)
    share = sum(group.share * group.weight for group in groups) / n
    if len(groups) < 2 or not 0 < share < 1:
        return 1.0
    chance = share * (1 - share)
    chi_square = sum(group.weight * (group.share - share) ** 2 / chance for group in groups)
    return max(1.0, chi_square / (len(groups) - 1))


def similar(
    curves: Sequence[Curve],
    risk: float,
    *,
    task: str,
    label: str,
    day: float | None,
    model: str,
    inputs: Sequence[Collection[str]],
    members: Mapping[str, frozenset[str]],
) -> Similar | None:
    """The groups nearest to a predicted risk, or None where the results tell none like it.

    Args:
        curves: of the model's evaluation; those of kind ``risks`` tell groups and their numbers of patients.
        risk: what the model predicts for the patient.
        task: its task.
        label: as results tell it.
        day: of a risk over time.
        model: whose evaluation counts: the name in the results.
        inputs: sets of modalities, the best one first: the first that was judged is used.
        members: name of a set in the results -> its modalities.
    """
    told = [
        curve
        for curve in curves
        if (curve.kind, curve.task, curve.label, curve.model) == ("risks", task, label, model)
        and curve.day in (None, day)
        and any(curve.counts)
    ]
    for wanted in inputs:
        fitting = [curve for curve in told if members.get(curve.modalities) == frozenset(wanted)]
        if fitting:
            return _nearest(fitting, risk, inputs=tuple(wanted))
    return None


def _nearest(curves: Sequence[Curve], risk: float, *, inputs: tuple[str, ...]) -> Similar | None:
    """One group a hospital: the same hospital twice would count its patients twice."""
    groups, unlike = [], []
    for curve in {curve.site: curve for curve in curves}.values():
        known = [(x, y, n) for x, y, n in zip(curve.x, curve.y, curve.counts, strict=True) if n]
        x, y, n = min(known, key=lambda point: abs(_log_odds(point[0]) - _log_odds(risk)))
        if abs(_log_odds(x) - _log_odds(risk)) > LIKE:
            unlike.append(curve.site)
        else:
            low, high = wilson(y, n or 0)
            groups.append(
                Group(sites=(curve.site,), predicted=x, share=y, low=low, high=high, patients=n or 0, weight=n or 0)
            )
    return combined(tuple(groups), inputs=inputs, unlike=tuple(unlike)) if groups else None


def combined(groups: Sequence[Group], *, inputs: tuple[str, ...], unlike: tuple[str, ...]) -> Similar:
    """The groups of several hospitals, and all together; the interval is Wilson's of their weight over their spread."""
    n, spread = sum(group.weight for group in groups), spread_of(groups)
    share = sum(group.share * group.weight for group in groups) / n
    predicted = [group.predicted for group in groups if group.predicted is not None]
    low, high = wilson(share, n / spread)
    together = Group(
        sites=tuple(group.sites[0] for group in groups),
        predicted=sum(p * g.weight for p, g in zip(predicted, groups, strict=True)) / n if predicted else None,
        share=share,
        low=low,
        high=high,
        patients=sum(group.patients for group in groups),
        weight=n / spread,
    )
    return Similar(inputs=inputs, together=together, groups=tuple(groups), unlike=unlike, spread=spread)


def _log_odds(risk: float) -> float:
    bounded = min(max(risk, TOLD), 1 - TOLD)
    return math.log(bounded / (1 - bounded))
