"""Exact Shapley values of a function of few features (Shapley 1953; Lundberg and Lee 2017, eq. 8).

The value of a set of features is the function with the others at a baseline. The n values are one linear map of the
2^n function values, so that all rows are evaluated together: eight evaluations for three features.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial

import torch
from torch import Tensor


def shapley(function: Callable[[Tensor], Tensor], x: Tensor, *, baseline: Tensor) -> Tensor:
    """Shapley value of each feature; they sum to ``function(x) - function(baseline)``.

    Args:
        function: (..., n) -> (...), for any leading dimensions.
        x: (..., n), n small.
        baseline: what stands for a feature that is absent; broadcast to ``x``.

    Returns:
        (..., n).
    """
    member = _subsets(x.shape[-1], x.device)
    each = [function(torch.where(inside, x, baseline)) for inside in member]
    return torch.stack(each, dim=-1) @ _coefficients(member).to(x.dtype)


def _subsets(n: int, device: torch.device) -> Tensor:
    """All sets of n features, (2^n, n) bool."""
    return (torch.arange(2**n, device=device)[:, None] >> torch.arange(n, device=device)) % 2 == 1


def _coefficients(member: Tensor) -> Tensor:
    """What the value of each set adds to each feature, (2^n, n).

    A feature gains v(S + feature) - v(S) in the share s! (n - s - 1)! / n! of the orders, s the size of S.
    """
    n = member.shape[1]
    share = [factorial(s) * factorial(n - s - 1) / factorial(n) for s in range(n)]
    size = member.sum(1)
    entering = member.new_tensor([0.0, *share], dtype=torch.float64)[size]
    leaving = member.new_tensor([*share, 0.0], dtype=torch.float64)[size]
    return torch.where(member, entering[:, None], -leaving[:, None])
