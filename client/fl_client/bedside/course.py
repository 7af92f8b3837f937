"""How often an event had come by a day to judged patients of the same band of risk, with an interval.

Hospitals tell the share with the event by day (1 - Kaplan-Meier) of groups by predicted risk by the horizon, and how
many were at risk at the end of each step; no more is needed for Greenwood's variance, if whoever left within a step is
taken to have left at its beginning, which can only widen the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fl_client.bedside.similar import Group, Similar, combined, wilson
from fl_client.bedside.timeline import BANDS
from fl_shared.results import Curve


def same_band(
    curves: Sequence[Curve], band: str, *, task: str, day: float, model: str, modalities: Sequence[str]
) -> Similar | None:
    """Judged patients of a band (``low``, ``middle``, ``high``) at every hospital that tells them, or None.

    Args:
        curves: of the model's evaluation; those of kind ``incidence`` are read.
        band: of the patient, by the horizon.
        task: a survival task. Of competing causes the steps do not tell who had another event.
        day: by which the event is asked for.
        model: whose evaluation counts.
        modalities: names in the results of the sets of modalities that the model was given, all the same set.
    """
    groups: dict[str, Group] = {}
    for curve in curves:
        told = (curve.kind, curve.task, curve.label, curve.model) == ("incidence", task, "", model)
        bands = curve.group.split("+")  # all three together tell nothing of this patient's
        if told and curve.modalities in modalities and band in bands and len(bands) < len(BANDS) and day in curve.x:
            group = _group(curve, curve.x.index(day))
            if group is not None:
                groups[curve.site] = group
    return combined(tuple(groups.values()), inputs=(), unlike=()) if groups else None


def effective_patients(shares: Sequence[float], at_risk: Sequence[int | None]) -> float | None:
    """So many patients without any censoring would give the last share this variance (Rothman 1978, for intervals).

    shares: with the event by each day from day 0; at_risk: on each of these days and later ones. For a number that is
    withheld the next one stands, which is not greater. None where there is none, or the share is 0 or 1: then
    Greenwood's variance is 0 and tells nothing.
    """
    free = [1 - share for share in shares]
    if not 0 < free[-1] < 1:
        return None
    variance = 0.0
    for step, (before, after) in enumerate(pairwise(free), 1):
        left = next((n for n in at_risk[step:] if n is not None), 0)
        if after < before:
            if not left:
                return None
            variance += (1 - after / before) / left
    return (1 - free[-1]) / (free[-1] * variance)


def _group(curve: Curve, at: int) -> Group | None:
    patients, share = curve.counts[0] if curve.counts else None, curve.y[at]
    n = effective_patients(curve.y[: at + 1], curve.counts)
    if patients is None or n is None:
        return None
    n = min(n, float(patients))
    low, high = wilson(share, n)
    return Group(sites=(curve.site,), predicted=None, share=share, low=low, high=high, patients=patients, weight=n)
