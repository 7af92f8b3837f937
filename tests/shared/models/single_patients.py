"""The oracle of clipping: gradients of patients taken one at a time, clipped and summed by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from fl_client.privacy.clipping import GhostClipper
from fl_shared.models.interface import Batch, take
from fl_shared.models.model import MultimodalModel


def gradients_of_single_rows(model: MultimodalModel, batch: Batch) -> list[dict[str, Tensor]]:
    """For each row, trainable parameter -> gradient of that row's loss, computed without the others."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    each = []
    for row in range(len(batch)):
        one = take(batch, torch.tensor([row]))
        loss = model.losses(model(one), one).sum()
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
        each.append(dict(zip(named, gradients, strict=True)))
    return each


def clipped_like_a_loop(
    clipper: GhostClipper, each: list[dict[str, Tensor]], batch: Batch, *, micro_batch: int
) -> dict[str, Tensor]:
    """Clipped sums, which are those of the loop; half of the rows are clipped."""
    norms = torch.stack([torch.stack([g.norm() for g in one.values()]).norm() for one in each])
    clip = float(norms.median())
    found = clipper.clipped_sum(batch, clip=clip, micro_batch=micro_batch)
    for name, value in found.items():
        expected = sum(one[name] * min(1.0, clip / float(norm)) for one, norm in zip(each, norms, strict=True))
        torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-11, msg=name)
    return found
