"""What the model does beside its parts: presence, modality dropout, losses of several tasks, frozen encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fl_shared.models.build import build_model
from fl_shared.models.interface import Batch
from fl_shared.models.model import MultimodalModel
from fl_shared.study import Study

Rows = Callable[..., Batch]


@pytest.fixture
def model(study: Study) -> MultimodalModel:
    return build_model(study).eval()


def test_a_row_without_any_modality_is_refused(model: MultimodalModel, rows: Rows) -> None:
    batch = rows(3)
    nothing = {m: torch.zeros(3, dtype=torch.bool) for m in batch.present}
    with pytest.raises(ValueError, match="no modality present"):
        model(replace(batch, present=nothing))


def test_modality_dropout_drops_but_never_the_last(study: Study, rows: Rows) -> None:
    model = build_model(study).train()
    batch = rows(400)
    before = torch.stack([batch.present[m] for m in model.encoders])
    torch.manual_seed(0)
    after = torch.stack(list(model._present(batch).values()))
    assert after.any(0).all()
    assert not (after & ~before).any()
    alone = before.sum(0) == 1
    assert torch.equal(after[:, alone], before[:, alone])
    full = before.all(0)
    # 0.3 a modality, less the rows saved from losing all five (0.3^5, one of five kept): 0.3
    assert (~after[:, full]).float().mean().item() == pytest.approx(0.3, abs=0.06)
    torch.manual_seed(0)
    again = torch.stack(list(model._present(batch).values()))
    assert torch.equal(after, again)


def test_loss_of_a_row_is_the_mean_over_its_known_labels(model: MultimodalModel, rows: Rows) -> None:
    batch = rows(10)
    out = model(batch)
    expected = torch.zeros(10)
    for row in range(10):
        for task, z in out.logits.items():
            known = batch.target_mask[task][row]
            if known.any():
                p, y = z[row][known].sigmoid(), batch.targets[task][row][known]
                expected[row] += -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    torch.testing.assert_close(model.losses(out, batch), expected)
    hidden = {t: y.masked_fill(~batch.target_mask[t], float("nan")) for t, y in batch.targets.items()}
    assert torch.equal(model.losses(out, replace(batch, targets=hidden)), model.losses(out, batch))
    assert torch.equal(model.predict(out.logits)["mace"], out.logits["mace"].sigmoid())


def test_frozen_encoders_stay_put_and_quiet(plan: dict[str, object], rows: Rows) -> None:
    plan["training"] = {"rounds": 1, "steps": 1, "batch": 4, "encoders": "frozen"}
    model = build_model(Study.model_validate(plan)).train()
    assert not any(p.requires_grad for p in model.encoders.parameters())
    assert all(p.requires_grad for n, p in model.named_parameters() if not n.startswith("encoders."))
    assert not any(m.training for encoder in model.encoders.values() for m in encoder.modules())
    assert model.fusion.training
