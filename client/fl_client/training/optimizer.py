"""The study's optimiser by torch's own functions.

``torch.optim.Optimizer`` loads torch._dynamo when the first one is made (1.6 s CPU in every new process); the
functions behind it do not, and take gradients that never were ``parameter.grad``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from fl_shared.study import TrainingPlan

BETAS, EPS = (0.9, 0.999), 1e-8  # torch's defaults


class Optimizer:
    """SGD, Adam or AdamW with fresh state.

    Args:
        parameters: name -> parameter, changed in place.
        plan: names the optimiser, its learning rate and weight decay.
    """

    def __init__(self, parameters: Mapping[str, Tensor], plan: TrainingPlan) -> None:
        self._parameters = dict(parameters)
        self._plan = plan
        self._means = [torch.zeros_like(p) for p in self._parameters.values()]
        self._squares = [torch.zeros_like(p) for p in self._parameters.values()]
        self._steps = [torch.zeros(()) for _ in self._parameters]

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """One update from ``gradients``, which has every parameter's name."""
        parameters = [p.detach() for p in self._parameters.values()]
        ordered = [gradients[name] for name in self._parameters]
        plan = self._plan
        if plan.optimizer == "sgd":
            sgd(
                parameters,
                ordered,
                [None] * len(parameters),
                foreach=False,
                weight_decay=plan.weight_decay,
                momentum=0.0,
                lr=plan.learning_rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            return
        adam(
            parameters,
            ordered,
            self._means,
            self._squares,
            [],
            self._steps,
            foreach=False,
            decoupled_weight_decay=plan.optimizer == "adamw",
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=plan.learning_rate,
            weight_decay=plan.weight_decay,
            eps=EPS,
            maximize=False,
        )
