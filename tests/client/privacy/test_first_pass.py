"""The pass that gives the norms: without the gradients of weights, and never without a norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_client.privacy.clipping import GhostClipper
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.interface import Batch


def test_the_first_pass_makes_no_gradient_of_a_layer_with_a_bias_but_that(small_model: Any, small_batch: Any) -> None:
    model = small_model()
    clipper = GhostClipper(model)
    clipper._norms(small_batch(5))
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None]
    assert len(layers) > 10
    assert all(layer.weight.grad is None and hasattr(layer.weight, "_norm_sample") for layer in layers)


class Partly(nn.Module):
    """Calls a layer, and reads its weight past it too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, batch: Batch) -> Tensor:
        x = batch.inputs["ehr"]["values"]
        return self.inner(x) + nn.functional.linear(x, self.other.weight)

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        return logits.square().sum(1)


def test_a_gradient_that_the_first_pass_does_not_reach_never_enters_a_sum(small_batch: Any) -> None:
    clipper = GhostClipper(Partly())
    for look in (clipper.self_test, lambda rows: clipper.clipped_sum(rows, clip=1e9, micro_batch=8)):
        with pytest.raises(ConsiliumError) as caught:
            look(small_batch(4))
        assert caught.value.code == ExitCode.PRIVACY
        assert all(torch.isfinite(p).all() for p in clipper._trainable.values())
