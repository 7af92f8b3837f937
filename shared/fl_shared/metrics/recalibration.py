"""Logistic regressions of the outcome on the predicted logit, refitted in every resample.

Two fits tell whether risks are right (Cox, Biometrika 1958; Van Calster, BMC Med 2019): the intercept with the logit as
an offset (calibration in the large) and the slope. Both see the logits through sums of smooth functions alone. Over a
panel of logits such a function is a polynomial to all digits that count, so the samples of a panel are replaced by
weights on its Chebyshev nodes, once; a resample then has a hundred nodes instead of all samples and is fitted whole
(tests: equal to a fit on the samples within 1e-9).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOGIT = 30.0  # beyond it a risk is 0 or 1 to every digit
STEPS, CONVERGED = 50, 1e-10  # of Newton's method
STRIDE = 2.0  # of a step, at most
FLAT = 1e-9  # variance a sample, below which nothing is left to fit
NODES, HALF = 16, 1.25  # of a panel: nodes, and half its width in units of 1 / slope: 16 digits less 5


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Places (J,) on the axis of logits less their ``centre``, and each sample's weights (n, J) on them."""

    places: Floats
    shares: Floats
    centre: float

    @classmethod
    def of(cls, logits: Floats, targets: Floats) -> Self:
        """For ``logits`` (n,) with outcomes ``targets``: the logits themselves where they are fewer than nodes."""
        centre = float(logits.mean())
        x = logits - centre
        places, at, times = np.unique(x, return_inverse=True, return_counts=True)
        logit_nodes = cls(places=places, shares=np.zeros((0, 0)), centre=centre)
        slope = slopes(times[None].astype(np.float64), logit_nodes, targets.sum()[None], (targets @ x)[None])[0]
        half = HALF / max(1.0, float(np.nan_to_num(np.abs(slope))))
        used, panel = np.unique(np.floor((x - places[0]) / (2 * half)), return_inverse=True)
        if len(used) * NODES >= len(places):
            return cls(places=places, shares=np.eye(len(places))[at], centre=centre)
        unit = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
        middle = places[0] + (2 * used + 1) * half
        shares = np.zeros((len(x), len(used), NODES))
        shares[np.arange(len(x)), panel] = _lagrange((x - middle[panel]) / half, unit)
        return cls(places=(middle[:, None] + half * unit).ravel(), shares=shares.reshape(len(x), -1), centre=centre)


def _lagrange(x: Floats, nodes: Floats) -> Floats:
    """Values (n, J) at ``x`` of the polynomials that are 1 at one Chebyshev node and 0 at the others (barycentric)."""
    number = np.arange(len(nodes))
    sign = (-1.0) ** number * np.sin(np.pi * (number + 0.5) / len(nodes))
    apart = x[:, None] - nodes
    hit = np.abs(apart) < 1e-14
    ratio = sign / np.where(hit, 1.0, apart)
    shares = ratio / ratio.sum(axis=1, keepdims=True)
    return np.where(hit.any(axis=1, keepdims=True), hit.astype(np.float64), shares)


def logits_of(risks: Floats) -> Floats:
    """(n,) of risks, within +-`LOGIT`."""
    with np.errstate(divide="ignore"):
        logits: Floats = np.clip(np.log(risks) - np.log1p(-risks), -LOGIT, LOGIT)
    return logits


def intercepts(mass: Floats, nodes: Nodes, events: Floats) -> Floats:
    """Intercept (b,) of the outcome with the logit as an offset: the expected events are then the observed ones.

    Args:
        mass: (b, J) weights on the nodes.
        nodes: their places.
        events: (b,) sums of outcomes.

    Returns:
        NaN without events or without others.
    """
    offset = nodes.places + nodes.centre
    samples = mass.sum(axis=1)
    found = np.where((events > 0.5) & (events < samples - 0.5), 0.0, np.nan)
    active = np.flatnonzero(np.isfinite(found))
    for _ in range(STEPS):
        p = _risk(found[active, None] + offset)
        weight = mass[active]
        step = (events[active] - (weight * p).sum(1)) / np.maximum((weight * p * (1 - p)).sum(1), 1e-300)
        found[active] += np.clip(step, -STRIDE, STRIDE)
        active = active[np.abs(step) >= CONVERGED]
        if not len(active):
            return found
    found[active] = np.nan
    return found


def slopes(mass: Floats, nodes: Nodes, events: Floats, moments: Floats) -> Floats:
    """Slope (b,) of the outcome on the logit, with an intercept.

    Args:
        mass: (b, J) weights on the nodes.
        nodes: their places.
        events: (b,) sums of outcomes.
        moments: (b,) sums of outcome times centred logit.

    Returns:
        NaN where there is no solution: all logits are equal, all outcomes are, or the logits separate them.
    """
    x, samples = nodes.places, mass.sum(axis=1)
    beta = np.zeros((len(mass), 2))
    found = np.full(len(mass), np.nan)
    active = np.flatnonzero((events > 0.5) & (events < samples - 0.5))
    for _ in range(STEPS):
        p = _risk(beta[active, :1] + beta[active, 1:] * x)
        fitted, weight = mass[active] * p, mass[active] * p * (1 - p)
        u, v = events[active] - fitted.sum(1), moments[active] - fitted @ x
        a, b, c = weight.sum(1), weight @ x, weight @ x**2
        determinant = a * c - b * b
        good = (determinant > CONVERGED * (a + c) ** 2) & (a > FLAT * samples[active])
        active, u, v, a, b, c, determinant = (each[good] for each in (active, u, v, a, b, c, determinant))
        step = np.stack([c * u - b * v, a * v - b * u], axis=1) / determinant[:, None]
        size = np.abs(step).max(axis=1, initial=1e-300)
        beta[active] += step * np.minimum(1.0, STRIDE / size)[:, None]
        done = size < CONVERGED
        found[active[done]] = beta[active[done], 1]
        active = active[~done]
        if not len(active):
            break
    return found


def _risk(eta: Floats) -> Floats:
    risk: Floats = 1 / (1 + np.exp(-np.clip(eta, -LOGIT, LOGIT)))
    return risk
