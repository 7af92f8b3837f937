"""Fixed-edge histograms: cells, quantiles with their bounds, and what is made of noised counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binomtest

from fl_shared.histograms import Bins, kept, projected, wilson

BINS = Bins(low=0.0, high=10.0, cells=5)
CREATININE = Bins(low=math.log(15), high=math.log(3000), cells=64)  # the plausible range of the concept file
SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)


def test_every_value_has_one_cell_and_the_ends_are_inside() -> None:
    values = np.array([-0.1, 0.0, 1.9, 2.0, 9.99, 10.0, 10.1, 1e9, -1e9])
    assert BINS.place(values).tolist() == [0, 1, 1, 2, 5, 5, 6, 6, 0]
    assert BINS.size == 7
    rounded = np.array([np.float32(-4 / 3), np.float32(4 / 3)])  # of scaled limits, either side of the true ones
    assert set(Bins(low=-4 / 3, high=4 / 3, cells=64).place(rounded).tolist()) == {1, 64}


def test_quantiles_are_linear_within_a_cell() -> None:
    counts = np.array([0, 10, 10, 0, 20, 0, 0], dtype=float)  # cells 0-2, 2-4 and 6-8
    assert [BINS.quantile(counts, p) for p in (0.125, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([1, 2, 4, 7, 8])
    assert BINS.quantile(np.array([4.0, 0, 0, 0, 0, 0, 4.0]), 0.25) == 0.0
    assert BINS.quantile(np.array([4.0, 0, 0, 0, 0, 0, 4.0]), 0.75) == 10.0


def five_sites(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """9,800 log creatinines of five sites that differ, and each site's counts (5, 66)."""
    rng = np.random.default_rng(seed)
    each = [rng.normal(math.log(80) + shift, 0.45, 1960) for shift in (-0.2, -0.1, 0.0, 0.1, 0.2)]
    cells = np.stack([np.bincount(CREATININE.place(x), minlength=CREATININE.size) for x in each])
    return np.concatenate(each), cells


def errors(noise: float, seeds: int) -> np.ndarray:
    """(seeds, shares) relative errors of the quantiles of the summed counts; noise of each site's counts."""
    found = []
    for seed in range(seeds):
        values, cells = five_sites(seed)
        summed = cells.sum(0) + np.random.default_rng(seed + 1000).normal(0, noise, (5, CREATININE.size)).sum(0)
        held = kept(summed, noise=noise * 5**0.5)
        truth = np.quantile(values, SHARES)
        found.append([abs(math.expm1(CREATININE.quantile(held, p) - t)) for p, t in zip(SHARES, truth, strict=True)])
    return np.array(found)


def test_five_sites_without_noise_have_the_facts_quantiles() -> None:
    """Facts: median within 0.16 %, p1 and p99 within 1.5 % (n = 9,800, 64 bins)."""
    middle, worst = np.median(errors(0.0, 40), axis=0), errors(0.0, 40).max(axis=0)
    assert middle[2] <= 0.0016 and worst[2] <= 0.006
    assert max(middle[0], middle[4]) <= 0.015 and max(worst[0], worst[4]) <= 0.025


def test_five_sites_with_noise_of_epsilon_1_each() -> None:
    """Facts: p25 to p75 within 0.8 % under (Laplace) noise of epsilon 1 a site; here Gaussian, delta 1e-5."""
    middle = np.median(errors(4.05, 40), axis=0)
    assert max(middle[1:4]) <= 0.008
    assert max(middle[0], middle[4]) <= 0.08  # the tails lie in cells that hold less than the noise


@pytest.mark.parametrize(("noise", "share"), [(0.0, 1.0), (4.05, 0.9), (15.0, 0.9)])
def test_bounds_hold_the_true_quantile(noise: float, share: float) -> None:
    inside = []
    for seed in range(60):
        values, cells = five_sites(seed)
        summed = cells.sum(0) + np.random.default_rng(seed).normal(0, noise, (5, CREATININE.size)).sum(0)
        for p in SHARES:
            low, high = CREATININE.bounds(summed.astype(float), p, off=0.0, noise=noise * 5**0.5)
            # between two values both count as the quantile
            inside.append(
                low <= np.quantile(values, p, method="higher") and np.quantile(values, p, method="lower") <= high
            )
    assert np.mean(inside) >= share


def test_bounds_allow_for_small_cells_that_were_moved() -> None:
    counts = np.array([0, 100, 0, 100, 0, 0, 0], dtype=float)
    assert BINS.bounds(counts, 0.5, off=0.0, noise=0.0) == (4.0, 2.0) or BINS.bounds(
        counts, 0.5, off=0.0, noise=0.0
    ) == (4.0, 4.0)
    low, high = BINS.bounds(counts, 0.5, off=9.0, noise=0.0)
    assert (low, high) == (0.0, 6.0)  # nine more or fewer could move the median into either
    assert BINS.bounds(np.zeros(7), 0.5, off=0.0, noise=0.0) == (0.0, 10.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8))
def test_projection_is_the_nearest_point_of_the_simplex(values: list[float]) -> None:
    found, total = projected(values), max(sum(values), 0.0)
    assert (found >= 0).all() and found.sum() == pytest.approx(total, abs=1e-6)
    oracle = minimize(
        lambda x: ((x - values) ** 2).sum(),
        np.full(len(values), total / len(values)),
        bounds=[(0, None)] * len(values),
        constraints={"type": "eq", "fun": lambda x: x.sum() - total},
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    assert ((found - values) ** 2).sum() <= ((oracle.x - values) ** 2).sum() + 1e-4


def test_kept_drops_what_says_nothing_and_keeps_the_total() -> None:
    held = kept(np.array([-30.0, 12.0, 300.0, 700.0]), noise=10.0, least=10.0)
    assert held[:2].tolist() == [0.0, 0.0] and held.sum() == pytest.approx(982.0)
    assert held[3] / held[2] == pytest.approx(7 / 3)
    assert kept(np.array([-5.0, -5.0]), noise=10.0).tolist() == [0.0, 0.0]


def test_interval_of_a_share_is_wilsons_and_wider_with_noise() -> None:
    for events, n in ((3, 40), (0, 20), (200, 400)):
        oracle = binomtest(events, n).proportion_ci(method="wilson")
        assert wilson(events, n) == pytest.approx((oracle.low, oracle.high), abs=1e-4)
    rng, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        events = rng.binomial(2000, 0.15)
        a, b = events + rng.normal(0, 20), 2000 - events + rng.normal(0, 20)
        low, high = wilson(a, a + b, noise=20.0)
        hits += low <= 0.15 <= high
    assert 0.93 <= hits / 2000 <= 0.98
    assert wilson(0, 0) == (0.0, 1.0)
