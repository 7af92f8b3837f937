"""The acceptance tests of a system: rows are independent, absence means absence, privacy's norms are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.validators import ModuleValidator

from fl_shared.models.build import build_model
from fl_shared.models.interface import Batch, take
from fl_shared.models.model import MultimodalModel
from fl_shared.study import Study

Rows = Callable[..., Batch]


def logits(model: MultimodalModel, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(list(model(batch).logits.values()), dim=1)


@pytest.fixture
def model(study: Study) -> MultimodalModel:
    return build_model(study).eval()


def test_rows_are_independent_and_may_be_permuted(model: MultimodalModel, rows: Rows) -> None:
    batch = rows(12)
    whole = logits(model, batch)
    assert whole.shape == (12, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(logits(model, take(batch, order)), whole[order], atol=1e-6, rtol=0)
    for row in range(12):
        torch.testing.assert_close(logits(model, take(batch, torch.tensor([row]))), whole[[row]], atol=1e-6, rtol=0)


def test_absent_inputs_do_not_matter(model: MultimodalModel, rows: Rows) -> None:
    batch = rows(12)
    garbage = {m: {k: v.clone() for k, v in named.items()} for m, named in batch.inputs.items()}
    for name, named in garbage.items():
        for value in named.values():
            value[~batch.present[name]] = float("nan") if value.is_floating_point() else 1
    assert torch.equal(logits(model, replace(batch, inputs=garbage)), logits(model, batch))


@pytest.mark.parametrize("name", ["cine", "ecg", "ehr", "series", "text"])
def test_each_present_modality_matters(model: MultimodalModel, rows: Rows, name: str) -> None:
    batch = rows(12)
    both = batch.present[name] & torch.stack([v for m, v in batch.present.items() if m != name]).any(0)
    without = replace(batch, present={**batch.present, name: batch.present[name] & ~both})
    changed = (logits(model, without) - logits(model, batch)).abs().amax(1) > 1e-5
    assert torch.equal(changed, both)


def test_unobserved_fields_and_missing_leads_do_not_matter(model: MultimodalModel, rows: Rows) -> None:
    batch = rows(8)
    ecg, ehr = dict(batch.inputs["ecg"]), dict(batch.inputs["ehr"])
    ecg["signal"] = ecg["signal"].masked_fill(~ecg["lead_mask"][:, :, None], 9.0)
    ehr["values"] = ehr["values"].masked_fill(~ehr["observed"], float("nan"))
    other = replace(batch, inputs={**batch.inputs, "ecg": ecg, "ehr": ehr})
    assert torch.equal(logits(model, other), logits(model, batch))


def test_a_row_without_any_modality_is_refused(model: MultimodalModel, rows: Rows) -> None:
    batch = rows(3)
    nothing = {m: torch.zeros(3, dtype=torch.bool) for m in batch.present}
    with pytest.raises(ValueError, match="no modality present"):
        model(replace(batch, present=nothing))


def test_modality_dropout_drops_but_never_the_last(study: Study, rows: Rows) -> None:
    model = build_model(study).train()
    batch = rows(400)
    before = torch.stack([batch.present[m] for m in model.encoders])
    after = torch.stack(list(model._present(batch, torch.Generator().manual_seed(0)).values()))
    assert after.any(0).all()
    assert not (after & ~before).any()
    alone = before.sum(0) == 1
    assert torch.equal(after[:, alone], before[:, alone])
    full = before.all(0)
    # 0.3 a modality, less the rows saved from losing all five (0.3^5, one of five kept): 0.3
    assert (~after[:, full]).float().mean().item() == pytest.approx(0.3, abs=0.06)
    again = torch.stack(list(model._present(batch, torch.Generator().manual_seed(0)).values()))
    assert torch.equal(after, again)


def test_gradient_reaches_every_tensor(study: Study, rows: Rows) -> None:
    model = build_model(study).train()
    batch = rows(32)
    model.losses(model(batch), batch).sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-7]
    # softmax does not see the bias of BERT's keys
    assert [n for n in dead if not n.endswith("attention.self.key.bias")] == []


@pytest.mark.parametrize("encoders", ["local", "frozen"])
def test_ghost_norms_are_those_of_single_rows(plan: dict[str, object], rows: Rows, encoders: str) -> None:
    plan["training"] = {"rounds": 1, "steps": 1, "batch": 4, "encoders": encoders}
    plan["model"] = {"width": 16, "depth": 2, "heads": 2, "dropout": 0.0, "modality_dropout": 0.0}
    model = build_model(Study.model_validate(plan)).double().train()
    batch = rows(9, dtype=torch.float64)
    assert ModuleValidator.validate(model) == []
    trainable = [p for p in model.parameters() if p.requires_grad]
    expected = []
    for row in range(9):
        one = take(batch, torch.tensor([row]))
        grads = torch.autograd.grad(model.losses(model(one), one).sum(), trainable)
        expected.append(torch.stack([g.norm() for g in grads]).norm())
    wrapped = GradSampleModuleFastGradientClipping(model, loss_reduction="sum", use_ghost_clipping=True)
    model.losses(wrapped(batch), batch).sum().backward()
    torch.testing.assert_close(wrapped.get_norm_sample(), torch.stack(expected), rtol=1e-9, atol=1e-12)


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


def test_overfits_32_rows(plan: dict[str, object], rows: Rows) -> None:
    plan["model"] = {"width": 16, "heads": 2, "dropout": 0.0, "modality_dropout": 0.0}
    model = build_model(Study.model_validate(plan)).train()
    batch = rows(32)
    every = torch.ones(32, dtype=torch.bool)
    values = torch.rand(32, 4, generator=torch.Generator().manual_seed(5))  # every row can be told apart
    ehr = {"values": values, "observed": torch.ones(32, 4, dtype=torch.bool)}
    batch = replace(batch, inputs={**batch.inputs, "ehr": ehr}, present={**batch.present, "ehr": every})
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(80):
        optimizer.zero_grad()
        loss = model.losses(model(batch), batch).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
