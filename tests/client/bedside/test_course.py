"""Intervals of shares over time from what hospitals tell: Greenwood's variance, never too narrow."""

from __future__ import annotations

import numpy as np
import pytest

from fl_client.bedside.course import effective_patients, same_band
from fl_client.bedside.similar import wilson
from fl_shared.results import Curve


def curve(site: str = "a", **changes) -> Curve:
    body = {
        "site": site, "task": "survival", "label": "", "modalities": "all", "kind": "incidence", "group": "high",
        "x": (0.0, 90.0, 180.0, 365.0), "y": (0.0, 0.1, 0.3, 0.5), "counts": (40, 36, 28, 20),
    }  # fmt: skip
    return Curve.model_validate(body | changes)


def ask(curves, band="high", day=365.0, **changes):
    given = {"task": "survival", "model": "federated", "modalities": ("all",)} | changes
    return same_band(curves, band, day=day, **given)


def greenwood(times, events, day):
    """Survival by ``day`` and its variance, event by event."""
    free, variance = 1.0, 0.0
    for t in np.unique(times[events & (times <= day)]):
        n, d = (times >= t).sum(), (events & (times == t)).sum()
        free *= 1 - d / n
        variance += d / (n * (n - d))
    return free, free**2 * variance


def test_without_censoring_all_patients_count():
    assert effective_patients((0.0, 0.1, 0.3, 0.5), (40, 36, 28, 20)) == pytest.approx(40)
    found = ask([curve()])
    assert found is not None and (found.together.low, found.together.high) == pytest.approx(wilson(0.5, 40))


@pytest.mark.parametrize("seed", range(20))
def test_with_censoring_the_variance_is_never_below_greenwoods(seed):
    rng = np.random.default_rng(seed)
    happens, leaves = rng.exponential(400, 200), rng.exponential(500, 200)
    times, events = np.minimum(happens, leaves), happens <= leaves
    days = (0.0, 60.0, 120.0, 240.0, 365.0)
    shares = [1 - greenwood(times, events, day)[0] for day in days]
    at_risk = [int((times > day).sum()) for day in days]
    free, variance = greenwood(times, events, 365.0)
    exact = free * (1 - free) / variance
    told = effective_patients(shares, at_risk)
    assert told is not None and 0.75 * exact < told <= exact * (1 + 1e-9)
    withheld = effective_patients(shares, [at_risk[0], None, None, at_risk[3], at_risk[4]])
    assert withheld is not None and withheld <= told


@pytest.mark.parametrize(
    ("shares", "at_risk"), [((0.0, 0.3), (40, None)), ((0.0, 0.0), (40, 40)), ((0.0, 1.0), (40, 0))]
)
def test_what_gives_no_variance_is_told_without(shares, at_risk):
    assert effective_patients(shares, at_risk) is None


def test_only_the_patients_band_counts():
    curves = [curve(group="high"), curve(group="low+middle", y=(0.0, 0.05, 0.1, 0.2))]
    low = ask(curves, "low")
    assert low is not None and low.together.share == pytest.approx(0.2)
    assert ask([curve(group="low+middle+high")]) is None
    assert (
        ask(curves, day=30.0) is None and ask(curves, task="readmission") is None and ask(curves, modalities=()) is None
    )


def test_several_hospitals_are_taken_together():
    found = ask([curve("a"), curve("b", y=(0.0, 0.1, 0.2, 0.3), counts=(60, 54, 48, 42))])
    assert found is not None and found.together.patients == 100
    assert found.together.share == pytest.approx((0.5 * 40 + 0.3 * 60) / 100)
    assert found.together.weight == pytest.approx(100 / found.spread) and found.spread > 1
