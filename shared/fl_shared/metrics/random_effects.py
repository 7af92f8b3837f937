"""A random-effects summary of estimates of several sites: REML, Hartung-Knapp, prediction interval.

Estimate k of a group is Normal(mean, tau2 + variance of k). tau2 maximises the restricted likelihood (Viechtbauer,
J Educ Behav Stat 2005) over all of [0, inf): on a grid first, then by bisection of its derivative, so that no second
maximum is mistaken for the first. The interval is Hartung and Knapp's (Stat Med 2001), Student's t of K - 1 degrees of
freedom, and never narrower than the normal one: estimates that happen to be alike would give a summary without width
(Jackson, Stat Med 2017). Of 3 to 10 sites it covers 94-98 % where they differ and up to 99 % where they do not; without
the guard 93-95 %; with a standard error that is never below the normal one, the other guard in use, up to 100 %
(``tests/benchmarks/interval_coverage.py``). Many groups are summed up at once: a study has thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

Floats = NDArray[np.float64]

GRID = 64  # values of tau2 among which the maximum is looked for
HALVINGS = 60
LEAST_PREDICTED = 3  # sites


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Of G groups, each (G,). Groups without an estimate hold NaN.

    mean, se: the summary and its standard error (Hartung-Knapp). least: half the normal 95 % interval. low, high: the
    95 % interval. tau2: variance between sites. i2: share of the variance of a typical estimate that is between sites
    (Higgins and Thompson, Stat Med 2002). predicted_low, predicted_high: 95 % prediction interval of a new site's true
    value, NaN below 3 sites.
    """

    mean: Floats
    se: Floats
    least: Floats
    low: Floats
    high: Floats
    tau2: Floats
    i2: Floats
    predicted_low: Floats
    predicted_high: Floats


def random_effects(estimates: Floats, errors: Floats) -> Effects:
    """Sum up groups of estimates.

    One estimate is its own summary, with its own normal interval. The prediction interval is mean +- t sqrt(tau2 +
    se2) with K - 2 degrees of freedom (Higgins, J R Stat Soc A 2009): of 3 sites it is very wide and holds every new
    site, of 5 or 10 that differ as much as they are uncertain 91 %, with K - 1 (IntHout, BMJ Open 2016) fewer.

    Args:
        estimates: (G, K); NaN where a group has no such site.
        errors: (G, K) their standard errors, above 0.
    """
    given = np.isfinite(estimates) & np.isfinite(errors)
    y, v = np.where(given, estimates, 0.0), np.where(given, errors, 1.0) ** 2
    sites = given.sum(axis=1)
    tau2 = np.where(sites > 1, _restricted(y, v, given), 0.0)
    total, mean, squares, _ = _weighted(y, v, given, tau2)
    several, free = sites > 1, np.maximum(sites - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        known = 1 / np.sqrt(total)
        se = np.where(several, np.sqrt(squares / free / total), known)
        least = norm.ppf(0.975) * known
        reach = np.maximum(np.where(several, student.ppf(0.975, free) * se, 0.0), least)
        far = student.ppf(0.975, np.maximum(sites - 2, 1)) * np.sqrt(tau2 + np.maximum(se, known) ** 2)
    mean, far = np.where(sites > 0, mean, np.nan), np.where(sites >= LEAST_PREDICTED, far, np.nan)
    return Effects(
        mean=mean,
        se=np.where(sites > 0, se, np.nan),
        least=least,
        low=mean - reach,
        high=mean + reach,
        tau2=np.where(several, tau2, np.nan),
        i2=np.where(several, _share_between(v, given, tau2), np.nan),
        predicted_low=mean - far,
        predicted_high=mean + far,
    )


def _weighted(y: Floats, v: Floats, given: NDArray[np.bool_], tau2: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Sum of the weights, weighted mean, weighted squares about it, and derivative of the restricted likelihood.

    ``tau2`` (G, ...) may hold several values a group; all results have its shape.
    """
    spread = (slice(None), *(None,) * (tau2.ndim - 1), slice(None))
    y, v, given = y[spread], v[spread], given[spread]
    w = given / (v + tau2[..., None])
    total = w.sum(axis=-1)
    mean = (w * y).sum(axis=-1) / np.where(total > 0, total, 1.0)
    off = (y - mean[..., None]) ** 2
    square = (w**2).sum(axis=-1)
    slope = (w**2 * off).sum(axis=-1) - total + square / np.where(total > 0, total, 1.0)
    return total, mean, (w * off).sum(axis=-1), slope


def _restricted(y: Floats, v: Floats, given: NDArray[np.bool_]) -> Floats:
    """tau2 (G,) of the highest restricted likelihood."""
    width = np.where(given, y, -np.inf).max(axis=1) - np.where(given, y, np.inf).min(axis=1)
    most = np.where(np.isfinite(width), width, 0.0) ** 2 * given.sum(axis=1)  # beyond it the likelihood falls
    grid = most[:, None] * np.concatenate([[0.0], np.geomspace(1e-6, 1.0, GRID - 1)])
    best = np.argmax(_likelihood(y, v, given, grid), axis=1)
    row = np.arange(len(y))
    low, high = grid[row, np.maximum(best - 1, 0)], grid[row, np.minimum(best + 1, GRID - 1)]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rises = _weighted(y, v, given, middle)[3] > 0
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    at_zero = (best == 0) & (_weighted(y, v, given, np.zeros(len(y)))[3] <= 0)
    return np.where(at_zero, 0.0, high)


def _likelihood(y: Floats, v: Floats, given: NDArray[np.bool_], tau2: Floats) -> Floats:
    """Restricted log likelihood (G, T) at each ``tau2`` (G, T), up to a constant."""
    total, _, squares, _ = _weighted(y, v, given, tau2)
    logs = np.where(given[:, None], np.log(v[:, None] + tau2[..., None]), 0.0).sum(axis=-1)
    likelihood: Floats = -(logs + np.log(np.where(total > 0, total, 1.0)) + squares) / 2
    return likelihood


def _share_between(v: Floats, given: NDArray[np.bool_], tau2: Floats) -> Floats:
    w = given / v
    total, square = w.sum(axis=1), (w**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        typical = (given.sum(axis=1) - 1) * total / (total**2 - square)
        return np.asarray(tau2 / (tau2 + typical), dtype=np.float64)
