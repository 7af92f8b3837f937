"""Shapley values against their definition over permutations, and their axioms."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from fl_shared.models.fusion.shapley import shapley


def bent(x: Tensor) -> Tensor:
    """Neither linear nor symmetric in its features."""
    return torch.sigmoid(x[..., 0] * x[..., -1]) + x[..., 1] ** 2 + torch.sin(x.sum(-1)) * x[..., 0]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_values_are_the_mean_gain_over_all_orders(n: int) -> None:
    g = torch.Generator().manual_seed(n)
    x, baseline = torch.randn(2, 5, n, generator=g, dtype=torch.float64), torch.randn(n, generator=g).double()
    expected = torch.zeros_like(x)
    orders = list(permutations(range(n)))
    for order in orders:
        current = baseline.expand_as(x).clone()
        for feature in order:
            before = bent(current)
            current[..., feature] = x[..., feature]
            expected[..., feature] += (bent(current) - before) / len(orders)
    found = shapley(bent, x, baseline=baseline)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.sum(-1), bent(x) - bent(baseline), rtol=1e-12, atol=1e-12)


def test_three_features_take_eight_evaluations() -> None:
    calls = []
    shapley(lambda x: (calls.append(1), x.sum(-1))[1], torch.ones(10, 3), baseline=torch.zeros(3))
    assert len(calls) == 8


def test_of_a_linear_logit_they_are_weight_times_deviation() -> None:
    g = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*shape, 3, generator=g, dtype=torch.float64) for shape in ((7, 2), (2,), (2,)))
    found = shapley(lambda z: (z * w).sum(-1) + 4, x, baseline=b)
    torch.testing.assert_close(found, w * (x - b), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shapley(lambda z: (z * w).sum(-1) + 4, x, baseline=torch.zeros_like(b)), w * x)
