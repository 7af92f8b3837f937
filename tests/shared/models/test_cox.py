"""The Cox head: Efron's partial likelihood of the batch, and the hazard ratio that it recovers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from fl_shared.models.heads import cox
from fl_shared.models.interface import FusionOutput
from fl_shared.study import ModelPlan, TaskPlan

Tensor = torch.Tensor
Numbers = Sequence[float]
PLAN = TaskPlan(type="survival", survival_model="cox", horizon=100.0)


def head_of(features: int | None = None) -> cox.CoxHead:
    return cox.build(PLAN, features, ModelPlan())


def targets(n: int) -> Tensor:
    """Times on one another and beyond the horizon, with and without events."""
    rng = np.random.default_rng(0)
    columns = [rng.choice([0, 0.5, 7, 20, 20.5, 40, 77, 100, 100.5, 400], n), rng.integers(0, 2, n)]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float64))


def efron(scores: Numbers, times: Numbers, events: Sequence[bool]) -> float:
    """Negative log partial likelihood, tie by tie."""
    total = 0.0
    for t in {t for t, e in zip(times, events, strict=True) if e}:
        at_risk = [math.exp(s) for s, u in zip(scores, times, strict=True) if u >= t]
        tied = [s for s, u, e in zip(scores, times, events, strict=True) if e and u == t]
        hazards = sum(math.exp(s) for s in tied)
        total -= sum(tied)
        total += sum(math.log(sum(at_risk) - k / len(tied) * hazards) for k in range(len(tied)))
    return total


def test_cox_equals_efrons_formula() -> None:
    z = 2 * torch.randn(60, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = targets(60)
    mask = torch.ones_like(y, dtype=torch.bool)
    mask[::7, 0] = False
    known = mask.all(1)
    late = y[:, 0] > 100
    times, events = y[:, 0].clamp(max=100)[known], ((y[:, 1] > 0) & ~late)[known]
    terms = head_of().loss(z, y, mask)
    assert float(terms.sum()) == pytest.approx(efron(z[known, 0].tolist(), times.tolist(), events.tolist()), rel=1e-12)
    assert not terms[~known].any()
    assert not terms[known][~events].any()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(head_of().loss(z[order], y[order], mask[order]), terms[order])


def test_cox_by_hand() -> None:
    """Three at risk, the first two tied: hazards 1, 2 and 3 give 6 and 6 - 3 / 2 in Efron's denominators."""
    z = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64).log()
    y = torch.tensor([[5.0, 1], [5.0, 1], [9.0, 0]], dtype=torch.float64)
    loss = head_of().loss(z, y, torch.ones_like(y, dtype=torch.bool)).sum()
    assert float(loss) == pytest.approx(math.log(6) + math.log(4.5) - math.log(2))


def test_cox_without_events_is_0_with_a_graph() -> None:
    head = head_of(3)
    y = torch.tensor([[9.0, 0.0]]).expand(4, -1)
    loss = head.loss(head(FusionOutput(fused=torch.randn(4, 3))), y, torch.ones(4, 2, dtype=torch.bool))
    loss.sum().backward()
    assert float(loss.sum().detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_cox_recovers_a_hazard_ratio() -> None:
    """Exponential times whose hazard a covariate multiplies by exp(0.7 x); standard error 0.03."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=1500)
    death, leave = rng.exponential(80 * np.exp(-0.7 * x)), rng.uniform(5, 200, 1500)
    y = torch.from_numpy(np.stack([np.minimum(death, leave), death <= leave], axis=1))
    beta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    head, mask, z = head_of(), torch.ones_like(y, dtype=torch.bool), torch.from_numpy(x)[:, None]
    for _ in range(5):  # Newton
        loss = head.loss(z * beta, y, mask).sum()
        (slope,) = torch.autograd.grad(loss, beta, create_graph=True)
        (curve,) = torch.autograd.grad(slope, beta)
        with torch.no_grad():
            beta -= slope / curve
    assert beta.item() == pytest.approx(0.7, abs=0.06)
