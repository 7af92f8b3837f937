"""All records of a patient: clipped sums against a loop over single patients, on the product's own model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fl_client.privacy import grouped
from fl_client.privacy.grouped import GroupClipper
from fl_shared.errors import ConsiliumError
from fl_shared.models.interface import Batch, take

PATIENT = torch.tensor([4, 0, 2, 2, 9, 4, 4, 0, 7, 9, 9, 9])


def loop(model: Any, batch: Batch, clip: float) -> tuple[dict[str, Tensor], list[float]]:
    """The definition: the mean loss of a patient's records, differentiated alone, clipped, added."""
    model.train()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    norms = []
    for patient in sorted(set(batch.index.tolist())):
        one = take(batch, (batch.index == patient).nonzero()[:, 0])
        gradients = torch.autograd.grad(model.losses(model(one), one).mean(), list(named.values()), allow_unused=True)
        norms.append(float(torch.sqrt(sum((g**2).sum() for g in gradients if g is not None))))
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient * min(1.0, clip / norms[-1])
    return sums, norms


def of_patients(batch: Batch) -> Batch:
    return replace(batch, index=PATIENT)


@pytest.mark.parametrize("micro_batch", [1, 5, 100])
def test_the_sum_is_that_of_single_patients(
    small_model: Any, small_batch: Any, micro_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped, "MARGIN", 0.0)
    model, batch = small_model().double(), of_patients(small_batch(len(PATIENT), dtype=torch.float64))
    _, norms = loop(model, batch, 1.0)
    clip = sorted(norms)[len(norms) // 2]  # some are clipped, some are not
    expected, _ = loop(model, batch, clip)
    clipper = GroupClipper(model)
    found = clipper.clipped_sum(batch, clip=clip, micro_batch=micro_batch)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_more_records_of_one_patient_move_the_sum_no_further(small_model: Any, small_batch: Any) -> None:
    model, batch = small_model(), of_patients(small_batch(len(PATIENT)))
    clipper, clip = GroupClipper(model), 1e-2
    whole = clipper.clipped_sum(batch, clip=clip, micro_batch=100)
    for patient in (9, 4):  # four and three records
        rest = clipper.clipped_sum(take(batch, (batch.index != patient).nonzero()[:, 0]), clip=clip, micro_batch=100)
        moved = torch.cat([(whole[n] - rest[n]).flatten() for n in whole]).norm()
        assert 0.9 * clip < moved <= clip * (1 + 1e-5)


def test_nobody_drawn_gives_zeros(small_model: Any, small_batch: Any) -> None:
    nobody = take(small_batch(3), torch.zeros(0, dtype=torch.long))
    found = GroupClipper(small_model()).clipped_sum(nobody, clip=1.0, micro_batch=4)
    assert found and all(not value.any() for value in found.values())


def test_the_self_test_passes_and_finds_wrong_gradients(
    small_model: Any, small_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clipper, batch = GroupClipper(small_model()), of_patients(small_batch(len(PATIENT)))
    clipper.self_test(batch)
    honest = GroupClipper._per_patient
    monkeypatch.setattr(
        grouped.GroupClipper,
        "_per_patient",
        lambda self, *a, **k: (
            (found := honest(self, *a, **k))[0],
            {name: 1.01 * each for name, each in found[1].items()},
        ),
    )
    with pytest.raises(ConsiliumError, match="differ"):
        clipper.self_test(batch)
