"""Whatever is made on the way stands on the device of the rows: a study is trained on GPUs, which no test has."""

from __future__ import annotations

import pytest
import torch
from acceptance import Case, cases, phases
from random_rows import random_rows

from fl_shared.models.model import CHOOSE


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_nothing_is_made_on_another_device(case: Case) -> None:
    """Rows and model are on the CPU; what names no device is made where it fails to meet them."""
    study, model = case.quiet()
    batch = random_rows(study, 5, dtype=torch.float64)
    for round, phase in phases(study):
        model.enter(round)
        model.train(phase.objective != CHOOSE)
        with torch.device("meta"):
            if phase.objective == CHOOSE:
                model.choose(batch)
            else:
                losses = model.losses(model(batch), batch)
                losses.sum().backward()
                assert losses.device == torch.device("cpu")
    model.eval()
    with torch.no_grad(), torch.device("meta"):
        told = model.predict({**model(batch).logits, **model.segment(batch)})
    assert {x.device.type for x in told.values()} == {"cpu"}


def test_a_mix_of_devices_would_be_noticed() -> None:
    with torch.device("meta"), pytest.raises(RuntimeError, match="device"):
        torch.ones(2, device="cpu") + torch.arange(2)
