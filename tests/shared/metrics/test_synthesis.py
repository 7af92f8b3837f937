"""Summaries over sites: scales, what is left out, the worst site, and the gap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student

from fl_shared.metrics.random_effects import random_effects
from fl_shared.metrics.synthesis import SiteEstimate, from_scale, gap, summed, to_scale
from fl_shared.metrics.table import METRICS

Z = 1.959963984540054


def sites(*numbers):
    return [SiteEstimate(site="abcdefgh"[i], value=v, low=a, high=b) for i, (v, a, b) in enumerate(numbers)]


def total(metric, *numbers):
    (found,) = summed([(metric, sites(*numbers))])
    return found


def logit(p):
    return math.log(p / (1 - p))


def test_shares_are_summed_up_as_logits():
    numbers = [(0.80, 0.74, 0.85), (0.70, 0.60, 0.78), (0.86, 0.79, 0.92)]
    found = total("auroc", *numbers)
    y = [logit(v) for v, _, _ in numbers]
    se = [(logit(b) - logit(a)) / (2 * Z) for _, a, b in numbers]
    effects = random_effects(np.array([y]), np.array([se]))
    back = [1 / (1 + math.exp(-float(end[0]))) for end in (effects.mean, effects.low, effects.high)]
    assert [found.value, found.ci_low, found.ci_high] == pytest.approx(back, rel=1e-12)
    assert found.tau == pytest.approx(math.sqrt(effects.tau2[0]), rel=1e-12)
    assert 0 < found.prediction_low < found.ci_low < found.value < found.ci_high < found.prediction_high < 1
    assert (found.sites, found.worst, found.note) == (("a", "b", "c"), "b", "")


def test_positive_numbers_as_logarithms_and_others_as_they_are():
    ratio = total("expected_observed", (0.5, 0.4, 0.625), (2.0, 1.6, 2.5))
    assert ratio.value == pytest.approx(1.0, abs=1e-12)  # half and double: neither way
    slope = total("calibration_slope", (0.5, 0.3, 0.7), (-0.1, -0.3, 0.1))
    assert slope.value == pytest.approx(0.2, abs=1e-12)
    assert slope.prediction_low is None  # below 3 sites


@pytest.mark.parametrize("metric", list(METRICS))
def test_scales_have_an_inverse_within_the_range(metric):
    about = METRICS[metric]
    for value in (0.001, 0.4, 0.95):
        assert from_scale(metric, to_scale(metric, value)) == pytest.approx(value, rel=1e-12)
    for far in (-1e6, 1e6):
        assert about.low <= from_scale(metric, far) <= about.high


def test_one_site_keeps_its_own_interval():
    found = total("auroc", (0.8, 0.71, 0.86))
    assert (found.value, found.ci_low, found.ci_high) == (0.8, 0.71, 0.86)
    assert (found.tau, found.i2, found.prediction_low) == (None, None, None)
    assert found.note == "one site: its own interval"


def test_what_has_no_width_is_left_out_by_name():
    found = total(
        "auroc",
        (0.8, 0.7, 0.9),
        (1.0, 0.9, 1.0),
        (0.7, None, None),
        (None, None, None),
        (0.6, 0.6, 0.6),
        (0.75, 0.6, 0.8),
    )
    assert found.sites == ("a", "f")
    assert found.note == (
        "without b (at the end of the range), c (without an interval), d (withheld), e (an interval without width)"
    )
    assert found.worst == "e"  # shown though it is not in the summary
    alike = total("auroc", (0.8, 0.7, 0.9), (0.75, 0.6, 0.8))
    assert (found.value, found.ci_low) == (alike.value, alike.ci_low)


def test_nothing_to_sum_up():
    found = total("auroc", (None, None, None), (0.7, None, None))
    assert (found.value, found.ci_low, found.sites) == (None, None, ())
    assert found.note.startswith("no site gives a value with an interval; without a (withheld)")
    assert summed([]) == []


def test_an_interval_that_ends_at_1_counts_by_its_other_half():
    found = total("dice", (0.9, 0.8, 1.0), (0.85, 0.75, 0.91))
    se = (logit(0.9) - logit(0.8)) / Z
    other = (logit(0.91) - logit(0.75)) / (2 * Z)
    effects = random_effects(np.array([[logit(0.9), logit(0.85)]]), np.array([[se, other]]))
    assert found.value == pytest.approx(1 / (1 + math.exp(-effects.mean[0])), rel=1e-12)


@pytest.mark.parametrize(
    ("metric", "values", "worst"),
    [
        ("auroc", (0.8, 0.7), "b"),
        ("brier", (0.10, 0.2), "b"),
        ("calibration_slope", (0.7, 1.2), "a"),
        ("calibration_slope", (0.9, 1.2), "b"),
        ("expected_observed", (0.5, 1.6), "a"),  # half is as far from 1 as double
    ],
)
def test_worst_site(metric, values, worst):
    assert total(metric, *((v, v * 0.9, v * 1.1) for v in values)).worst == worst


def test_gap_of_two_sites_is_newcombes():
    internal, external = total("auroc", (0.85, 0.80, 0.89)), total("auroc", (0.75, 0.65, 0.82))
    value, low, high = gap(internal, external)
    assert value == pytest.approx(0.10)
    assert low == pytest.approx(0.10 - math.hypot(0.85 - 0.80, 0.82 - 0.75))
    assert high == pytest.approx(0.10 + math.hypot(0.89 - 0.85, 0.75 - 0.65))


def test_gap_of_an_error_is_positive_where_more_is_lost_outside():
    internal, external = total("brier", (0.10, 0.08, 0.13)), total("brier", (0.15, 0.10, 0.21))
    value, low, high = gap(internal, external)
    assert value == pytest.approx(0.05)
    assert (low, high) == pytest.approx((0.05 - math.hypot(0.05, 0.03), 0.05 + math.hypot(0.06, 0.02)))
    assert gap(internal, total("brier", (None, None, None))) == (None, None, None)


def test_gap_of_several_sites_has_the_degrees_of_freedom_of_a_difference():
    inside = total("calibration_slope", (1.0, 0.7, 1.3), (1.3, 1.0, 1.6), (0.6, 0.3, 0.9))
    outside = total("calibration_slope", (0.2, 0.1, 0.3), (0.9, 0.8, 1.0))
    a, b = np.array([1.0, 1.3, 0.6]), np.array([0.2, 0.9])  # equal errors at each side: Welch's test of the two means
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 2
    times = student.ppf(0.975, (va + vb) ** 2 / (va**2 / 2 + vb**2))
    value, low, high = gap(inside, outside)
    assert value == pytest.approx(a.mean() - b.mean())
    assert (value - low, high - value) == pytest.approx([times * math.sqrt(va + vb)] * 2, rel=1e-6)
