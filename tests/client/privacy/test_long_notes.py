"""Windows of a long note stay one patient's: ghost clipping against a loop over single patients."""

from __future__ import annotations

import pytest
import torch

from fl_client.privacy import clipping
from fl_client.privacy.clipping import GhostClipper
from fl_shared.models.build import build_model
from fl_shared.models.interface import Batch, take
from fl_shared.study import Study
from fl_shared.text import byte_windows

STUDY = {
    "schema": 1,
    "name": "notes",
    "seed": 3,
    "sites": {"a": {"role": "train", "patients": 20}},
    "tasks": {"death": {"type": "binary"}},
    "modalities": {"text": {"kind": "text", "max_tokens": 28, "window": 12}},
    "model": {"width": 16, "depth": 1, "heads": 2, "dropout": 0.0, "modality_dropout": 0.0},
    "training": {"rounds": 1, "steps": 1, "batch": 4},
    "privacy": {"mode": "patient", "epsilon": 8},
    "rounds": {"quorum": 1},
    "evaluation": {"salt": "saltsalt"},
}
NOTES = ("short", "a note that fills every window", "two windows here", "心力衰竭, 心房颤动", "x")


def batch_of(notes: tuple[str, ...]) -> Batch:
    rows = [byte_windows(note, max_tokens=28, window=12) for note in notes]
    n = len(notes)
    return Batch(
        inputs={
            "text": {
                "ids": torch.stack([torch.from_numpy(ids) for ids, _, _ in rows]),
                "mask": torch.stack([torch.from_numpy(mask) for _, mask, _ in rows]),
            }
        },
        present={"text": torch.ones(n, dtype=torch.bool)},
        targets={"death": (torch.arange(n) % 2).double()[:, None]},
        target_mask={"death": torch.ones(n, 1, dtype=torch.bool)},
        index=torch.arange(n),
    )


def test_self_test_passes():
    batch = batch_of(NOTES)
    batch.targets["death"] = batch.targets["death"].float()
    GhostClipper(build_model(Study.model_validate(STUDY))).self_test(batch)


def test_clipped_sum_equals_the_float64_loop(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clipping, "MARGIN", 0.0)
    model, batch = build_model(Study.model_validate(STUDY)).double(), batch_of(NOTES)
    named = dict(model.named_parameters())
    gradients = []
    for row in torch.arange(len(batch)).split(1):
        one = take(batch, row)
        found = torch.autograd.grad(model.losses(model(one), one).sum(), list(named.values()), allow_unused=True)
        gradients.append([torch.zeros_like(p) if g is None else g for g, p in zip(found, named.values(), strict=True)])
    norms = [torch.sqrt(sum((g**2).sum() for g in row)) for row in gradients]
    clip = float(sorted(norms)[2])
    found = GhostClipper(model).clipped_sum(batch, clip=clip, micro_batch=64)
    for k, name in enumerate(named):
        expected = sum(row[k] * min(1.0, clip / float(norm)) for row, norm in zip(gradients, norms, strict=True))
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12, msg=name)
