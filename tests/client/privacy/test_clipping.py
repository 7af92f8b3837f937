"""Clipped sums against a float64 loop over single patients, on the product's own model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_client.privacy import clipping
from fl_client.privacy.clipping import GhostClipper, refuse_banned
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.interface import Batch, take


def loop(model: Any, batch: Batch, clip: float) -> tuple[dict[str, Tensor], list[float]]:
    """The definition: differentiate each patient alone, clip, add."""
    model.train()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    norms = []
    for row in torch.arange(len(batch)).split(1):
        one = take(batch, row)
        gradients = torch.autograd.grad(model.losses(model(one), one).sum(), list(named.values()), allow_unused=True)
        norm = torch.sqrt(sum((g**2).sum() for g in gradients if g is not None))
        norms.append(float(norm))
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient * min(1.0, clip / float(norm))
    return sums, norms


def flat(sums: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in sums.values()])


@pytest.mark.parametrize("encoders", ["local", "frozen"])
def test_ghost_clipping_equals_the_float64_loop(
    small_model: Any, small_batch: Any, encoders: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(clipping, "MARGIN", 0.0)  # float64 needs none
    model = small_model(encoders=encoders).double()
    batch = small_batch(9, dtype=torch.float64)
    clip = sorted(loop(model, batch, 1.0)[1])[4]  # half of the patients are clipped
    expected, _ = loop(model, batch, clip)
    found = GhostClipper(model).clipped_sum(batch, clip=clip, micro_batch=64)
    assert found.keys() == expected.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=name)
    assert any(name.startswith("encoders.") for name in found) == (encoders == "local")


def test_removing_any_patient_moves_the_sum_by_at_most_the_clip(small_model: Any, small_batch: Any):
    clipper, batch, clip = GhostClipper(small_model()), small_batch(8), 0.05
    whole = flat(clipper.clipped_sum(batch, clip=clip, micro_batch=64))
    moved = []
    for left_out in range(8):
        rest = take(batch, torch.arange(8)[torch.arange(8) != left_out])
        moved.append(float((whole - flat(clipper.clipped_sum(rest, clip=clip, micro_batch=64))).norm()))
    assert max(moved) <= clip * (1 + 1e-5)
    assert max(moved) > clip * 0.999  # the bound is reached, so something was clipped


def test_an_extreme_patient_moves_the_sum_by_no_more(small_model: Any, small_batch: Any):
    clipper, batch = GhostClipper(small_model()), small_batch(6)
    whole = flat(clipper.clipped_sum(batch, clip=1.0, micro_batch=64))
    batch.inputs["ecg"]["signal"][0] *= 1e4
    batch.present["ecg"][0] = True
    extreme = flat(clipper.clipped_sum(batch, clip=1.0, micro_batch=64))
    assert float((whole - extreme).norm()) <= 2 * (1 + 1e-5)  # one leaves, one enters


def test_micro_batches_leave_the_sum_unchanged(small_model: Any, small_batch: Any):
    clipper, batch = GhostClipper(small_model()), small_batch(7)
    whole = flat(clipper.clipped_sum(batch, clip=0.1, micro_batch=7))
    for micro_batch in (1, 2, 3):
        parts = flat(clipper.clipped_sum(batch, clip=0.1, micro_batch=micro_batch))
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_an_empty_draw_gives_zeros(small_model: Any, small_batch: Any):
    model = small_model()
    found = GhostClipper(model).clipped_sum(small_batch(0), clip=1.0, micro_batch=4)
    assert set(found) == dict(model.named_parameters()).keys()
    assert not flat(found).any()


def test_a_patient_whose_gradient_is_not_finite_adds_nothing(small_model: Any, small_batch: Any):
    clipper, batch = GhostClipper(small_model()), small_batch(5)
    expected = flat(clipper.clipped_sum(take(batch, torch.tensor([0, 1, 3, 4])), clip=1.0, micro_batch=64))
    batch.inputs["ecg"]["signal"][2] = float("nan")
    batch.present["ecg"][2] = True
    torch.testing.assert_close(flat(clipper.clipped_sum(batch, clip=1.0, micro_batch=64)), expected)
    assert not flat(clipper.clipped_sum(take(batch, torch.tensor([2])), clip=1.0, micro_batch=64)).any()


def test_self_test_passes_on_the_products_model_with_dropout(small_model: Any, small_batch: Any):
    model = small_model(dropout=0.3)
    clipper = GhostClipper(model)
    names, state = list(model.state_dict()), {k: v.clone() for k, v in model.state_dict().items()}
    clipper.self_test(small_batch(6))
    assert list(model.state_dict()) == names
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


class Tiny(nn.Module):
    """Reads the table only; `middle` is put between two layers."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, 4), middle, nn.Linear(4, 1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"death": self.last(self.middle(self.first(batch.inputs["ehr"]["values"])))}

    def losses(self, logits: dict[str, Tensor], batch: Batch) -> Tensor:
        return (logits["death"][:, 0] - batch.targets["death"][:, 0]) ** 2


class Coupled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class NoisyScale(nn.Module):
    """A parameter with dropout in its own forward pass: the per-patient pass draws another mask."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5) * self.scale


class BesideChildren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.child = nn.Parameter(torch.zeros(4)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x + self.token)


class Switched(nn.Module):
    """Its layer is left out of some passes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.on = nn.Linear(4, 4), True

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if self.on else x


def test_self_test_passes_on_a_plain_network(small_batch: Any):
    GhostClipper(Tiny(nn.Dropout(0.5))).self_test(small_batch(6))


@pytest.mark.parametrize("middle", [Coupled(), NoisyScale()], ids=lambda m: type(m).__name__)
def test_self_test_refuses_wrong_gradients(small_batch: Any, middle: nn.Module):
    with pytest.raises(ConsiliumError) as caught:
        GhostClipper(Tiny(middle)).self_test(small_batch(6))
    assert caught.value.code == ExitCode.PRIVACY


def test_a_layer_that_is_not_always_used_leaves_no_stale_norms(small_batch: Any):
    middle = Switched()
    model = Tiny(middle)
    clipper = GhostClipper(model)
    for rows, middle.on in ((4, True), (3, False), (3, True), (5, False), (4, False), (2, True)):
        batch = small_batch(rows, seed=rows)
        expected, _ = loop(model, batch, 0.1)
        torch.testing.assert_close(clipper.clipped_sum(batch, clip=0.1, micro_batch=64), expected)


@pytest.mark.parametrize(
    "banned",
    [
        nn.MultiheadAttention(4, 2),  # noqa: TID251
        nn.TransformerEncoderLayer(4, 2),
        nn.LSTM(4, 4),
        nn.GRU(4, 4),
        nn.BatchNorm1d(4),
        nn.BatchNorm1d(4, affine=False),
        nn.InstanceNorm1d(4, track_running_stats=True),
        nn.Embedding(5, 4, padding_idx=0),
        BesideChildren(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_banned_modules_are_refused_by_name(banned: nn.Module):
    with pytest.raises(ConsiliumError, match=f"model: middle: {type(banned).__name__}") as caught:
        refuse_banned(Tiny(banned))
    assert caught.value.code == ExitCode.PRIVACY


def test_a_frozen_text_encoder_may_hold_what_is_never_trained():
    refuse_banned(Tiny(nn.Embedding(5, 4, padding_idx=0).requires_grad_(False)))
