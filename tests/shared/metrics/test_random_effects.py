"""Random-effects summaries against R's metafor and against a brute search of the restricted likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import t as student

from fl_shared.metrics.random_effects import random_effects

# 13 trials of the BCG vaccine (Colditz, JAMA 1994; metafor's dat.bcg): cases and healthy, vaccinated and not
BCG = np.array(
    [
        [4, 119, 11, 128], [6, 300, 29, 274], [3, 228, 11, 209], [62, 13536, 248, 12619], [33, 5036, 47, 5761],
        [180, 1361, 372, 1079], [8, 2537, 10, 619], [505, 87886, 499, 87892], [29, 7470, 45, 7232],
        [17, 1699, 65, 1600], [186, 50448, 141, 27197], [5, 2493, 3, 2338], [27, 16886, 29, 17825],
    ],
    dtype=float,
)  # fmt: skip


def log_risk_ratios():
    a, b, c, d = BCG.T
    return np.log(a / (a + b)) - np.log(c / (c + d)), np.sqrt(1 / a - 1 / (a + b) + 1 / c - 1 / (c + d))


def one(y, se):
    return {name: float(value[0]) for name, value in vars(random_effects(np.array([y]), np.array([se]))).items()}


def test_equals_metafor_on_the_bcg_trials():
    found = one(*log_risk_ratios())  # rma(yi, vi, method="REML", test="knha")
    assert found["tau2"] == pytest.approx(0.313243258137274, abs=2e-7)  # R stops iterating at 1e-5
    assert found["mean"] == pytest.approx(-0.714532342158211, abs=2e-8)
    assert (found["low"], found["high"]) == pytest.approx((-1.10844371368566, -0.320620970630764), abs=2e-7)
    assert found["i2"] == pytest.approx(0.9222, abs=5e-5)
    assert found["se"] == pytest.approx(0.1808, abs=5e-5)


def restricted(tau2, y, se):
    """Minus twice the restricted log likelihood, term by term."""
    v = [s * s + tau2 for s in se]
    total = math.fsum(1 / each for each in v)
    mean = math.fsum(a / each for a, each in zip(y, v, strict=True)) / total
    squares = math.fsum((a - mean) ** 2 / each for a, each in zip(y, v, strict=True))
    return math.fsum(math.log(each) for each in v) + math.log(total) + squares


def by_hand(y, se, tau2):
    """Mean and interval at a given tau2."""
    k, w = len(y), 1 / (se**2 + tau2)
    mean = (w @ y) / w.sum()
    spread = math.sqrt((w @ (y - mean) ** 2) / (k - 1) / w.sum())
    reach = max(student.ppf(0.975, k - 1) * spread, 1.959963984540054 / math.sqrt(w.sum()))
    wide = max(spread, 1 / math.sqrt(w.sum()))
    far = student.ppf(0.975, k - 2) * math.sqrt(tau2 + wide**2) if k > 2 else math.nan
    return mean, mean - reach, mean + reach, mean - far, mean + far


@pytest.mark.parametrize("seed", range(25))
def test_maximises_the_restricted_likelihood(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 12))
    y = rng.normal(rng.normal(), rng.choice([0.01, 0.3, 2.0]), k)
    se = np.exp(rng.uniform(-4, 0.5, k))  # some sites fifty times as precise as others
    found = one(y, se)
    most = np.ptp(y) ** 2 * 10 * k
    grid = np.concatenate([[0.0], np.geomspace(1e-9, most, 4001)])
    best = int(np.argmin([restricted(tau2, y, se) for tau2 in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    brute = minimize_scalar(restricted, bounds=around, args=(y, se), method="bounded", options={"xatol": 1e-12}).x
    brute = 0.0 if restricted(0.0, y, se) <= restricted(brute, y, se) else brute
    assert restricted(found["tau2"], y, se) <= restricted(brute, y, se) + 1e-9
    assert found["tau2"] == pytest.approx(brute, rel=1e-3, abs=1e-5)
    told = [found[name] for name in ("mean", "low", "high", "predicted_low", "predicted_high")]
    assert told == pytest.approx(by_hand(y, se, found["tau2"]), rel=1e-12, nan_ok=True)


def test_equal_errors_have_a_closed_form():
    y, se = np.array([0.1, 0.9, 0.4, 1.6]), np.full(4, 0.3)
    assert one(y, se)["tau2"] == pytest.approx(y.var(ddof=1) - 0.09, abs=1e-12)
    assert one(y / 10, se)["tau2"] == 0.0  # no more spread than chance gives


def test_estimates_alike_keep_a_width():
    found = one(np.full(3, 0.7), np.full(3, 0.2))
    assert found["se"] == pytest.approx(0.0, abs=1e-12)
    assert found["high"] - found["mean"] == pytest.approx(1.959963984540054 * 0.2 / math.sqrt(3), abs=1e-12)


def test_groups_of_any_size_at_once():
    y, se = log_risk_ratios()
    rows, errors = np.full((4, 13), np.nan), np.full((4, 13), np.nan)
    for row, at in enumerate([[0], [2, 5], list(range(13))]):
        rows[row, at], errors[row, at] = y[at], se[at]
    found = random_effects(rows, errors)
    assert found.mean[0] == y[0]
    assert found.high[0] - y[0] == pytest.approx(1.959963984540054 * se[0], rel=1e-9)
    assert np.isnan(found.tau2[0])
    assert found.mean[1] == pytest.approx(one(y[[2, 5]], se[[2, 5]])["mean"], rel=1e-12)
    assert np.isnan(found.predicted_low[:2]).all()
    assert found.low[2] == pytest.approx(one(y, se)["low"], rel=1e-12)
    assert np.isnan(found.mean[3])
    assert np.isnan(found.low[3])
