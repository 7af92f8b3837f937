"""The optimisers against torch's own classes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fl_client.training.optimizer import Optimizer
from fl_shared.study import TrainingPlan

PHASES = [{"name": "all", "rounds": 1}]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_equals_torch_optim(name: str, decay: float):
    torch.manual_seed(0)
    start = [torch.randn(3, 4), torch.randn(5)]
    ours = {str(k): torch.nn.Parameter(p.clone()) for k, p in enumerate(start)}
    theirs = [torch.nn.Parameter(p.clone()) for p in start]
    how = {"optimizer": name, "learning_rate": 0.05, "weight_decay": decay}
    plan = TrainingPlan.model_validate({"rounds": 1, "steps": 1, "batch": 1, "phases": PHASES, **how})
    optimizer = Optimizer(ours, plan)
    classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    reference = classes[name](theirs, lr=0.05, weight_decay=decay, foreach=False)
    for _ in range(5):
        gradients = [torch.randn(p.shape) for p in start]
        optimizer.step(dict(zip(ours, gradients, strict=True)))
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        reference.step()
    for mine, other in zip(ours.values(), theirs, strict=True):
        assert torch.equal(mine, other)


def test_a_step_does_not_load_the_compiler():
    code = """
import sys, torch
from fl_client.training.optimizer import Optimizer
from fl_shared.study import TrainingPlan
for name in ("sgd", "adamw"):
    p = {"w": torch.nn.Parameter(torch.ones(3))}
    plan = {"rounds": 1, "steps": 1, "batch": 1, "phases": [{"name": "all", "rounds": 1}], "optimizer": name}
    Optimizer(p, TrainingPlan.model_validate(plan)).step({"w": torch.ones(3)})
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
