"""What every registered head and decoder owes, whatever its loss is: a row's own loss, and 0 where nothing is known."""

from __future__ import annotations

import pytest
import torch
from acceptance import Case, decoder_cases, head_cases
from random_rows import random_rows, spoiled
from torch import Tensor

from fl_shared.models.interface import Head

ROWS = 12
heads = pytest.mark.parametrize("case", [*head_cases(), *decoder_cases()], ids=lambda case: case.name)


def prepared(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Head, Tensor, Tensor, Tensor, Tensor]:
    """Head, logits of rows, their targets with garbage where unknown, the same without, and the mask of the known."""
    study, model = case.quiet()
    task = list(study.tasks)[-1]
    batch = random_rows(study, ROWS, dtype=torch.float64)
    batch.target_mask[task][:2] = False
    with torch.no_grad():
        logits = {**model(batch).logits, **model.segment(batch)}[task]
    target, mask = batch.targets[task], batch.target_mask[task]
    clean = target.where(mask.view(*mask.shape, *[1] * (target.dim() - mask.dim())), torch.zeros_like(target))
    return model.heads[task], logits.to(dtype).requires_grad_(), spoiled(batch).targets[task], clean, mask


@heads
def test_a_loss_a_row_and_none_where_nothing_is_known(case: Case) -> None:
    head, logits, garbage, clean, mask = prepared(case)
    loss = head.loss(logits, garbage, mask)
    assert loss.shape == (ROWS,)
    assert loss.dtype == torch.float64
    assert torch.equal(loss, head.loss(logits, clean, mask))
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    known = mask.flatten(1).any(1)
    assert slope.isfinite().all()
    assert not loss[~known].any()
    assert not slope[~known].any()
    assert int((slope.flatten(1).abs().amax(1) > 0).sum()) > ROWS // 2


@heads
def test_a_row_s_loss_is_its_own(case: Case) -> None:
    head, logits, target, _, mask = prepared(case)
    loss = head.loss(logits, target, mask)
    alone = torch.cat([head.loss(*(x[k : k + 1] for x in (logits, target, mask))) for k in range(ROWS)])
    of_others = torch.stack([torch.autograd.grad(each, logits, retain_graph=True)[0].flatten(1) for each in loss])
    of_others = of_others.abs().amax(2).fill_diagonal_(0)
    if case.dp:
        torch.testing.assert_close(loss, alone, rtol=1e-12, atol=1e-12)
        assert not of_others.any()
    else:
        assert of_others.any()


@heads
def test_float32_stays_float32(case: Case) -> None:
    head, logits, target, _, mask = prepared(case, torch.float32)
    target = target.float() if target.is_floating_point() else target
    assert head.loss(logits, target, mask).dtype == torch.float32
    told = head.predict(logits.detach())
    assert told.dtype in (torch.float32, torch.uint8)
    assert told.isfinite().all()
    assert len(told) == ROWS
