"""What maximum likelihood gives with an intercept only: life tables, Aalen and Johansen's incidences, the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fl_shared.models import heads  # noqa: F401 - they register themselves
from fl_shared.models.heads.trunk import TaskHead
from fl_shared.models.interface import FusionOutput
from fl_shared.models.registry import HEADS
from fl_shared.study import ModelPlan, TaskPlan

Tensor = torch.Tensor
TASKS = {
    "hazard": TaskPlan(type="survival", horizon=100.0, bins=5),
    "weibull": TaskPlan(type="survival", survival_model="weibull", horizon=100.0, bins=5),
    "competing": TaskPlan(type="competing", labels=("death", "transplant"), horizon=100.0, bins=5),
}


def head_of(task: TaskPlan, features: int | None = None) -> TaskHead:
    head = HEADS.get(task.head, key="tasks.x.type").build(task, features, ModelPlan())
    assert isinstance(head, TaskHead)
    return head


def fit(task: TaskPlan, y: Tensor) -> Tensor:
    """The intercepts (C,) that maximise the likelihood of the whole cohort."""
    z = torch.zeros(1, task.outputs, dtype=torch.float64, requires_grad=True)
    head, mask = head_of(task), torch.ones_like(y, dtype=torch.bool)
    solver = torch.optim.LBFGS(
        [z], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = head.loss(z.expand(len(y), -1), y, mask).mean()
        loss.backward()
        return loss

    solver.step(closure)
    return z.detach()


def cohort(n: int, *, causes: int, seed: int = 5) -> Tensor:
    """Weibull times in days, uniform censoring, some followed beyond day 100."""
    rng = np.random.default_rng(seed)
    death, leave = 90 * rng.weibull(1.4, n), rng.uniform(5, 200, n)
    cause = np.where(death <= leave, rng.integers(1, causes + 1, n), 0)
    return torch.from_numpy(np.stack([np.minimum(death, leave), cause], axis=1))


def life_table(y: Tensor, *, causes: int) -> np.ndarray:
    """Events of each cause over those who entered the bin, counted patient by patient: (5, causes)."""
    events, entered = np.zeros((5, causes)), np.zeros(5)
    for time, cause in y.tolist():
        for k in range(5):
            if time > 20 * k:
                entered[k] += 1
                if cause and time <= 20 * (k + 1):
                    events[k, int(cause) - 1] += 1
    return events / entered[:, None]


def test_hazards_of_an_intercept_are_the_life_table() -> None:
    y = cohort(500, causes=1)
    found = fit(TASKS["hazard"], y).sigmoid()[0].numpy()
    np.testing.assert_allclose(found, life_table(y, causes=1)[:, 0], atol=1e-7)


def test_competing_hazards_of_an_intercept_are_the_life_table() -> None:
    y = cohort(500, causes=2)
    z = fit(TASKS["competing"], y)
    found = z.view(5, 3).softmax(1)[:, 1:].numpy()
    table = life_table(y, causes=2)
    np.testing.assert_allclose(found, table, atol=1e-7)
    survival = np.concatenate([[1.0], np.cumprod(1 - table.sum(1))[:-1]])
    aalen_johansen = np.cumsum(survival[:, None] * table, axis=0)
    np.testing.assert_allclose(head_of(TASKS["competing"]).predict(z)[0].numpy(), aalen_johansen, atol=1e-7)


def test_weibull_recovers_the_truth() -> None:
    """Scale 90 days and shape 1.4 from 50,000 censored patients; standard errors are 0.6 % at most."""
    log_scale, log_shape = fit(TASKS["weibull"], cohort(50_000, causes=1))[0].tolist()
    assert 100 * math.exp(log_scale) == pytest.approx(90, rel=0.015)
    assert math.exp(log_shape) == pytest.approx(1.4, rel=0.015)


@pytest.mark.parametrize(("bins", "causes"), [(1, 1), (5, 2), (20, 3), (200, 1)])
def test_untrained_hazards_make_the_risk_one_half(bins: int, causes: int) -> None:
    fused = FusionOutput(fused=torch.zeros(2, 3))
    plans = {"hazard": TaskPlan(type="survival", bins=bins)}
    plans["competing"] = TaskPlan(type="competing", labels=("a", "b", "c")[:causes], bins=bins)
    for task in plans.values():
        head = head_of(task, features=3)
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
        risk = head.predict(head(fused))
        total = risk[:, -1] if task.type == "survival" else risk[:, -1].sum(1)
        torch.testing.assert_close(total, torch.full((2,), 0.5))
        if task.type == "competing":
            torch.testing.assert_close(risk[:, -1], torch.full((2, causes), 0.5 / causes))
        assert set(head.state_dict()) == {"linear.weight", "linear.bias"}
