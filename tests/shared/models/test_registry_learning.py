"""Everything that is registered can learn 32 rows by heart, phase after phase."""

from __future__ import annotations

import pytest
import torch
from acceptance import Case, cases, phases
from random_rows import random_rows

from fl_shared.models.interface import Batch
from fl_shared.models.model import CHOOSE, MultimodalModel

ROWS, STEPS, RATE = 32, 200, 5e-3
LEFT = 0.1  # of the loss at the start


@pytest.mark.parametrize("case", [case for case in cases() if case.learns], ids=lambda case: case.name)
def test_32_rows_are_learnt(case: Case) -> None:
    study, model = case.quiet()
    model = model.float()
    batch = random_rows(study, ROWS, only=case.learns)
    start = _loss(model, batch, round=study.training.rounds)
    for round, phase in phases(study):
        model.enter(round)
        if phase.objective == CHOOSE:
            model.eval().choose(batch)
        else:
            _descend(model, batch)
    assert _loss(model, batch, round=study.training.rounds) < LEFT * start


@torch.no_grad()
def _loss(model: MultimodalModel, batch: Batch, *, round: int) -> float:
    model.enter(round)
    return float(model.train().losses(model(batch), batch).mean())


def _descend(model: MultimodalModel, batch: Batch) -> None:
    """Until little is left of the phase's own loss, or no patience."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    start = float("inf")
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model.losses(model(batch), batch).mean()
        start = loss.item() if step == 0 else start
        if loss.item() < LEFT * start:
            return
        loss.backward()
        optimizer.step()
