"""Masked modelling of series: what is hidden, what is read off the tokens, and what must not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fl_shared.models.build import build_model
from fl_shared.models.interface import Batch, EncoderOutput
from fl_shared.models.masked import MaskedSeries
from fl_shared.study import ModalityPlan, Study


def events(bins: int, *, fields: tuple[str, ...] = ("a",)) -> MaskedSeries:
    head = MaskedSeries(ModalityPlan(kind="events", fields=fields, hours=48.0, bins=bins), width=1)
    return head.double()


def rows_of(bins: int, *, rows: int = 4) -> dict[str, torch.Tensor]:
    values = torch.randn(rows, bins, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"values": values, "observed": torch.ones(rows, bins, 1, dtype=torch.bool)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("bins", "parts", "hidden"),
    [(1000, 20, 6), (48, 16, 4), (20, 20, 6), (12, 12, 3), (10, 10, 3), (6, 6, 1), (1, 1, 1)],
)
def test_three_tenths_of_the_parts_are_hidden(bins: int, parts: int, hidden: int, training: bool) -> None:
    head = events(bins).train(training)
    seen, which = head.hide(rows_of(bins))
    assert which.shape == (4, parts)
    assert which.sum(1).tolist() == [hidden] * 4
    longest = -(-bins // parts)
    for row in range(4):
        gone = [step for step in range(bins) if which[row, step // longest]]
        assert not seen["values"][row, gone].any() and not seen["observed"][row, gone].any()
        assert int(seen["observed"][row].sum()) == bins - len(gone)


def test_rows_are_judged_by_the_same_evenly_spread_parts() -> None:
    head = events(1000).eval()
    which = head.hide(rows_of(1000))[1]
    assert bool((which == which[0]).all())
    assert which[0].nonzero()[:, 0].diff().tolist() == [4, 3, 3, 4, 3]


@pytest.mark.parametrize("bins", [16, 20, 48, 100])
def test_a_part_is_read_off_the_tokens_of_its_own_steps(bins: int) -> None:
    """Values that are constant within parts, tokens that hold the values: the identity predicts them."""
    head = events(bins).eval()
    inputs = rows_of(bins)
    longest = head.linear.out_features
    inputs["values"] = inputs["values"][:, ::longest].repeat_interleave(longest, dim=1)
    torch.nn.init.ones_(head.linear.weight)
    torch.nn.init.zeros_(head.linear.bias)
    tokens = inputs["values"]
    output = EncoderOutput(pooled=tokens[:, 0], tokens=tokens, token_mask=inputs["observed"][..., 0])
    which = head.hide(inputs)[1]
    torch.testing.assert_close(head.loss(output, inputs, which), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(
        head.loss(replace(output, tokens=tokens + 2), inputs, which), torch.full((4,), 4.0, dtype=torch.float64)
    )


def test_unobserved_values_reach_neither_loss_nor_gradient() -> None:
    head = events(20)
    inputs = rows_of(20)
    inputs["observed"][:, ::2] = False
    tokens = torch.randn(4, 20, 1, dtype=torch.float64)
    output = EncoderOutput(pooled=tokens[:, 0], tokens=tokens, token_mask=torch.ones(4, 20, dtype=torch.bool))
    which = head.hide(inputs)[1]
    losses = []
    for other in (0.0, torch.nan):
        losses.append(head.loss(output, {**inputs, "values": inputs["values"].where(inputs["observed"], other)}, which))
    assert torch.equal(*losses)
    losses[1].sum().backward()
    assert head.linear.weight.grad is not None
    assert head.linear.weight.grad.isfinite().all()


def masked_study(plan: dict[str, object], *, encoders: str = "local") -> Study:
    plan["training"] = {
        "rounds": 2,
        "steps": 1,
        "batch": 4,
        "encoders": encoders,
        "phases": [{"name": "hidden", "rounds": 1, "objective": "masked"}, {"name": "tasks", "rounds": 1}],
    }
    return Study.model_validate(plan)


def test_what_an_absent_series_holds_reaches_neither_loss_nor_gradient(
    plan: dict[str, object], rows: Callable[..., Batch]
) -> None:
    model = build_model(masked_study(plan)).eval()
    batch = rows(8)
    absent = ~batch.present["series"]
    worst = {"values": torch.full_like(batch.inputs["series"]["values"], torch.nan)}
    worst["observed"] = torch.ones_like(batch.inputs["series"]["observed"])
    spoilt = {k: v.masked_scatter(absent[:, None, None], worst[k][absent]) for k, v in batch.inputs["series"].items()}
    losses = model.losses(model(replace(batch, inputs={**batch.inputs, "series": spoilt})), batch)
    assert torch.equal(losses, model.losses(model(batch), batch))
    losses.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_frozen_encoder_does_not_see_what_is_hidden_either(
    plan: dict[str, object], rows: Callable[..., Batch]
) -> None:
    """Its features of the whole series are kept for the other phases: they would give the answer away."""
    model = build_model(masked_study(plan, encoders="frozen")).eval()
    batch = rows(8)
    kept = replace(batch, features={m: model.features(m, batch) for m in model.constant_encoders()})
    assert kept.features
    assert torch.equal(model.losses(model(kept), kept), model.losses(model(batch), batch))
