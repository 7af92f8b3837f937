"""Heads: every loss equals a float64 loop over its formula, and what is fitted by it is the textbook's estimate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy import stats

from fl_shared.models import heads  # noqa: F401 - they register themselves
from fl_shared.models.heads.trunk import TaskHead
from fl_shared.models.interface import FusionOutput
from fl_shared.models.registry import HEADS
from fl_shared.study import ModelPlan, TaskPlan

Tensor = torch.Tensor
Numbers = Sequence[float]
TASKS = {
    "multiclass": TaskPlan(type="multiclass", labels=("a", "b", "c"), weights=(1.0, 0.5, 3.0)),
    "mse": TaskPlan(type="regression", offset=10.0, scale=4.0),
    "huber": TaskPlan(type="regression", loss="huber", offset=10.0, scale=4.0),
    "msle": TaskPlan(type="regression", loss="msle", scale=4.0),
    "hazard": TaskPlan(type="survival", horizon=100.0, bins=5),
    "weibull": TaskPlan(type="survival", survival_model="weibull", horizon=100.0, bins=5),
    "cox": TaskPlan(type="survival", survival_model="cox", horizon=100.0, bins=5),
    "competing": TaskPlan(type="competing", labels=("death", "transplant"), horizon=100.0, bins=5),
}


def head_of(task: TaskPlan, features: int | None = None, form: str = "linear") -> TaskHead:
    head = HEADS.get(task.head, key="tasks.x.type").build(task, features, ModelPlan(head=form))
    assert isinstance(head, TaskHead)
    return head


def targets(task: TaskPlan, n: int, *, seed: int = 0) -> Tensor:
    """Random targets; times fall on edges, on one another and beyond the horizon."""
    rng = np.random.default_rng(seed)
    if task.type == "multiclass":
        columns = [rng.integers(0, 3, n)]
    elif task.type == "regression":
        columns = [rng.uniform(0, 40, n)]
    else:
        columns = [rng.choice([0, 0.5, 7, 20, 20.5, 40, 77, 100, 100.5, 400], n), rng.integers(0, 2, n)]
        if task.type == "competing":
            columns[1] = rng.integers(0, 3, n)
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float64))


def logits_of(task: TaskPlan, n: int, *, spread: float = 2.0, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, task.outputs, generator=g, dtype=torch.float64) * spread


# ---- oracles: one row at a time, written from the formulas


def softmax(z: Numbers) -> list[float]:
    return [math.exp(v) / sum(math.exp(w) for w in z) for v in z]


def multiclass_row(z: Numbers, y: Numbers) -> float:
    return -(1.0, 0.5, 3.0)[int(y[0])] * math.log(softmax(z)[int(y[0])])


def mse_row(z: Numbers, y: Numbers) -> float:
    return (z[0] - (y[0] - 10) / 4) ** 2


def huber_row(z: Numbers, y: Numbers) -> float:
    miss = abs(z[0] - (y[0] - 10) / 4)
    return miss**2 / 2 if miss < 1 else miss - 0.5


def msle_row(z: Numbers, y: Numbers) -> float:
    return (math.log(1 + 4 * math.exp(z[0])) - math.log(1 + y[0])) ** 2


def place(y: Numbers) -> tuple[int, int]:
    """Bin from 0 and cause, 20 days a bin up to day 100."""
    if y[0] > 100:
        return 4, 0
    return max(math.ceil(y[0] / 20) - 1, 0), int(y[1])


def hazard_row(z: Numbers, y: Numbers) -> float:
    b, event = place(y)
    h = [1 / (1 + math.exp(-v)) for v in z]
    lived = sum(math.log(1 - h[k]) for k in range(b))
    return -(lived + event * math.log(h[b]) + (1 - event) * math.log(1 - h[b]))


def competing_row(z: Numbers, y: Numbers) -> float:
    b, cause = place(y)
    p = [softmax(z[3 * k : 3 * k + 3]) for k in range(5)]
    return -sum(math.log(p[k][0]) for k in range(b)) - math.log(p[b][cause])


def weibull_row(z: Numbers, y: Numbers) -> float:
    time, event = (y[0] / 100, y[1]) if y[0] <= 100 else (1.0, 0)
    time = max(time, 1e-4)
    law = stats.weibull_min(c=math.exp(min(max(z[1], -2), 2)), scale=math.exp(z[0]))
    hazard, log_hazard = float(-law.logsf(time)), math.log(-law.logsf(time))
    beyond = math.exp(10) * (log_hazard - 9) - hazard if log_hazard > 10 else 0.0  # the tangent in place of exp
    return float(-law.logpdf(time) if event else hazard) + beyond


ROWS: dict[str, Callable[[Numbers, Numbers], float]] = {
    "multiclass": multiclass_row,
    "mse": mse_row,
    "huber": huber_row,
    "msle": msle_row,
    "hazard": hazard_row,
    "weibull": weibull_row,
    "competing": competing_row,
}


@pytest.mark.parametrize("name", ROWS)
def test_loss_equals_the_formula_row_by_row(name: str) -> None:
    task = TASKS[name]
    z, y = logits_of(task, 200), targets(task, 200)
    loss = head_of(task).loss(z, y, torch.ones_like(y, dtype=torch.bool))
    expected = [ROWS[name](row.tolist(), target.tolist()) for row, target in zip(z, y, strict=True)]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    single = head_of(task).loss(z.float(), y.float(), torch.ones_like(y, dtype=torch.bool))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), loss, rtol=2e-5, atol=2e-5)


TRUE = torch.ones(4, 2, dtype=torch.bool)


@pytest.mark.parametrize("name", TASKS)
def test_unknown_rows_are_0_whatever_they_hold(name: str) -> None:
    task = TASKS[name]
    z, y = logits_of(task, 40).requires_grad_(), targets(task, 40)
    mask = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    known = mask.all(1)
    whole = head_of(task).loss(z, y, mask)
    for garbage in (math.nan, math.inf, -math.inf, 1e30, -7.0):
        filled = torch.where(mask, y, garbage)
        loss = head_of(task).loss(z, filled, mask)
        assert torch.equal(loss, whole)
        assert not loss[~known].any()
        (grad,) = torch.autograd.grad(loss.sum(), z)
        assert grad.isfinite().all()
        assert not grad[~known].any()
        assert grad[known].any()


@pytest.mark.parametrize("name", TASKS)
def test_extreme_logits_stay_finite(name: str) -> None:
    task = TASKS[name]
    y = targets(task, 400).float()
    signs = torch.randint(-1, 2, (400, task.outputs), generator=torch.Generator().manual_seed(2))
    z = (50.0 * signs).requires_grad_()
    head = head_of(task)
    loss = head.loss(z, y, torch.ones_like(y, dtype=torch.bool))
    (grad,) = torch.autograd.grad(loss.sum(), z)
    assert loss.isfinite().all()
    assert grad.isfinite().all()
    assert grad.pow(2).sum(1).isfinite().all()  # a clipped norm must exist
    told = head.predict(z.detach())
    assert told.isfinite().all()
    if task.type not in ("regression", "survival"):
        assert ((told >= 0) & (told <= 1 + 1e-6)).all()


@pytest.mark.parametrize("name", TASKS)
def test_an_empty_batch(name: str) -> None:
    task = TASKS[name]
    head = head_of(task, features=3)
    z = head(FusionOutput(fused=torch.zeros(0, 3)))
    y = torch.zeros(0, len(task.names))
    loss = head.loss(z, y, y.bool())
    assert loss.shape == (0,)
    loss.sum().backward()
    assert len(head.predict(z)) == 0


def test_hazard_closed_forms() -> None:
    """z = 0, event in the third bin: 3 log 2; censored there it survives the bin: the same; beyond the horizon: all."""
    y = torch.tensor([[50.0, 1], [50.0, 0], [100.0, 1], [101.0, 1], [5000.0, 0], [40.0, 1], [0.0, 1]])
    loss = head_of(TASKS["hazard"]).loss(torch.zeros(7, 5), y, torch.ones_like(y, dtype=torch.bool))
    torch.testing.assert_close(loss, math.log(2) * torch.tensor([3.0, 3, 5, 5, 5, 2, 1]))


def test_a_censored_patient_survives_its_bin() -> None:
    z = torch.tensor([[0.0, 0.0, 9.0, 0.0, 0.0]])
    lived, died = (head_of(TASKS["hazard"]).loss(z, torch.tensor([[50.0, e]]), TRUE[:1]) for e in (0.0, 1.0))
    assert float(lived - died) == pytest.approx(9.0, abs=1e-5)


def test_hazard_risk_by_each_edge() -> None:
    z = logits_of(TASKS["hazard"], 30)
    survival = torch.ones(30, dtype=torch.float64)
    for k, risk in enumerate(head_of(TASKS["hazard"]).predict(z).T):
        survival = survival * (1 - z[:, k].sigmoid())
        torch.testing.assert_close(risk, 1 - survival)


def test_competing_incidences_and_survival_sum_to_1() -> None:
    task = TASKS["competing"]
    z = logits_of(task, 30)
    found = head_of(task).predict(z)
    survival = z.view(30, 5, 3).softmax(2)[:, :, 0].cumprod(1)
    torch.testing.assert_close(found.sum(2) + survival, torch.ones(30, 5, dtype=torch.float64))
    assert (found.diff(dim=1) >= 0).all()
    first = z[:, 3:6].softmax(1)
    torch.testing.assert_close(found[:, 1] - found[:, 0], survival[:, :1] * first[:, 1:])


def test_competing_with_one_cause_is_the_hazard_head() -> None:
    hazard = TASKS["hazard"]
    z, y = logits_of(hazard, 100), targets(hazard, 100)
    mask = torch.ones_like(y, dtype=torch.bool)
    one = head_of(TaskPlan(type="competing", labels=("death",), horizon=100.0, bins=5))
    both = torch.stack([torch.zeros_like(z), z], dim=2).flatten(1)
    torch.testing.assert_close(one.loss(both, y, mask), head_of(hazard).loss(z, y, mask))
    torch.testing.assert_close(one.predict(both)[:, :, 0], head_of(hazard).predict(z))


def test_weibull_risk_by_each_edge() -> None:
    z = logits_of(TASKS["weibull"], 30, spread=1.0)
    law = stats.weibull_min(c=z[:, 1:].clamp(-2, 2).exp().numpy(), scale=100 * z[:, :1].exp().numpy())
    expected = law.cdf(np.array([20.0, 40, 60, 80, 100]))
    np.testing.assert_allclose(head_of(TASKS["weibull"]).predict(z).numpy(), expected, atol=1e-12)


def test_weibull_of_hopeless_parameters_points_back() -> None:
    """Beyond what exp can hold the loss goes on rising, and its gradient asks for a longer scale."""
    z = torch.tensor([[-9.0, 1.0], [-50.0, 1.0]], requires_grad=True)
    loss = head_of(TASKS["weibull"]).loss(z, torch.tensor([[80.0, 0.0], [80.0, 0.0]]), TRUE[:2])
    loss.sum().backward()
    assert float(loss[0].detach()) > 2e4
    assert float(loss[1].detach()) > float(loss[0].detach())
    assert (z.grad[:, 0] < 0).all()


def test_regression_predicts_in_the_targets_unit() -> None:
    z = torch.tensor([[-1.0], [0.0], [0.5]])
    for name in ("mse", "huber"):
        assert head_of(TASKS[name]).predict(z).tolist() == [[6.0], [10.0], [12.0]]
    msle = head_of(TASKS["msle"])
    assert msle.predict(z).flatten().tolist() == pytest.approx([4 / math.e, 4, 4 * math.sqrt(math.e)])
    y = torch.tensor([[0.5], [4.0], [17.0]])
    again = msle.loss((y / 4).log(), y, torch.ones_like(y, dtype=torch.bool))
    torch.testing.assert_close(again, torch.zeros(3), atol=1e-10, rtol=0)


def test_multiclass_predicts_probabilities() -> None:
    z = logits_of(TASKS["multiclass"], 5)
    expected = [softmax(row.tolist()) for row in z]
    torch.testing.assert_close(head_of(TASKS["multiclass"]).predict(z), torch.tensor(expected, dtype=torch.float64))


def test_a_fusions_own_logits_pass_unchanged() -> None:
    z = torch.randn(3, 5)
    assert torch.equal(head_of(TASKS["hazard"])(FusionOutput(fused=z)), z)


@pytest.mark.parametrize("form", ["linear", "mlp"])
@pytest.mark.parametrize("name", TASKS)
def test_each_head_trains_every_tensor(name: str, form: str) -> None:
    task = TASKS[name]
    torch.manual_seed(0)
    head = head_of(task, features=16, form=form)
    z = head(FusionOutput(fused=torch.randn(50, 16)))
    assert z.shape == (50, task.outputs)
    y = targets(task, 50).float()
    head.loss(z, y, torch.ones_like(y, dtype=torch.bool)).sum().backward()
    for path, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-3, path
