"""How a number came about: integrated gradients, Grad-CAM and leaving out, for any function of tensors.

Attention weights are not used anywhere: they do not say what a prediction rests on (Jain and Wallace 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
"""(n, …) -> (n,), row by row."""

FIRST, MOST = 32, 512  # points of a path
TOLERANCE = 0.02  # of what the attributions of a path add to
SMALL = 0.02  # log-odds: a sum that misses by less is not refined
ROWS = 16  # a pass
BEND = 3  # the points of a path crowd at its start: networks with norms change fastest there


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """values: as the input, they sum to ``total`` up to ``total - values.sum()``; total: f(input) - f(baseline)."""

    values: Tensor
    total: float

    @property
    def gap(self) -> float:
        """What the sum misses: the error of the numerical integral."""
        return abs(float(self.values.sum()) - self.total)


def integrated_gradients(function: Function, x: Tensor, *, baseline: Tensor) -> Attribution:
    """Integrated gradients (Sundararajan et al. 2017): of each number of ``x`` (1, …), its part in f(x) - f(baseline).

    The path is straight. Its integral is taken by the midpoint rule, with twice the points until the attributions sum
    to the difference within 2 % or there are 512 of them.
    """
    with torch.no_grad():
        total = float(function(x)[0] - function(baseline)[0])
    points = FIRST
    while True:
        found = Attribution(values=_integral(function, x, baseline, points), total=total)
        if found.gap <= max(TOLERANCE * abs(total), SMALL) or points >= MOST:
            return found
        points *= 2


def _integral(function: Function, x: Tensor, baseline: Tensor, points: int) -> Tensor:
    """(1, …), float64."""
    middle = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    place, weight = middle**BEND, BEND * middle ** (BEND - 1) / points
    difference = x - baseline
    summed = torch.zeros_like(x, dtype=torch.float64)
    for at, share in zip(torch.split(place, ROWS), torch.split(weight, ROWS), strict=True):
        shape = (-1, *[1] * (x.dim() - 1))
        rows = (baseline + at.to(x).view(shape) * difference).requires_grad_()
        (slope,) = torch.autograd.grad(function(rows).sum(), rows)
        summed += (slope.double() * share.to(x.device).view(shape)).sum(0, keepdim=True)
    return summed * difference.double()


def grad_cam(score: Tensor, maps: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017): relu of the sum over channels of (mean gradient x map), places as in ``maps``.

    Args:
        score: (1,), computed from ``maps``.
        maps: (1, C, *S).

    Returns:
        (*S), 0 where nothing raises the score; all 0 where the score does not depend on the maps.
    """
    (slope,) = torch.autograd.grad(score.sum(), maps, retain_graph=True, allow_unused=True)
    if slope is None:
        return torch.zeros(maps.shape[2:])
    weights = slope.flatten(2).mean(2).view(*maps.shape[:2], *[1] * (maps.dim() - 2))
    return (weights * maps).sum(1)[0].detach().relu().cpu()


@torch.no_grad()
def left_out(function: Function, whole: Tensor, without: Tensor) -> Tensor:
    """What each part adds: f(whole) - f(without it), (n,); whole (1, …), without (n, …)."""
    return (function(whole) - torch.cat([function(part) for part in torch.split(without, ROWS)])).double()
