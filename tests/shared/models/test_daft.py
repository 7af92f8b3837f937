"""DAFT against a loop over patients and places, written from the paper's equations; published sizes; its start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from one_patient import driven, encoders_of, fusion_of, inside, mean_over_places, row_of, until, weight, with_each_place
from random_rows import random_rows

from fl_shared.models.fusion.daft import Transform
from fl_shared.models.interface import Batch
from fl_shared.models.model import MultimodalModel


@pytest.mark.parametrize(("conditioners", "bottleneck", "size"), [(256, 38, 38_912), (512, 75, 96_000)])
def test_published_sizes(conditioners: int, bottleneck: int, size: int) -> None:
    """An image of 256 or 512 channels conditions a time series of 256."""
    transform = Transform(channels=256, conditioners=conditioners)
    assert transform.bottleneck.out_features == bottleneck
    assert sum(p.numel() for p in transform.parameters()) == size


@pytest.mark.parametrize(
    ("names", "host"),
    [(("ecg", "ehr"), "ecg"), (("cine", "ehr", "image"), "image"), (("cine", "ecg", "ehr", "series", "text"), "cine")],
)
def test_each_patient_is_as_in_a_loop(names: tuple[str, ...], host: str) -> None:
    study, model = inside("daft", names, guide=host)
    batch = random_rows(study, 3 * len(names), dtype=torch.float64)
    found = driven(model, batch)[host].pooled
    for row in range(len(batch)):
        torch.testing.assert_close(found[row], one_patient(model, batch, row), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def one_patient(model: MultimodalModel, batch: Batch, row: int) -> torch.Tensor:
    """s = [GAP(map), pooled of the others]; alpha, beta = W2 ReLU(W1 s); map <- (1 + alpha) map + beta."""
    encoders, (inputs, there), host = encoders_of(model), row_of(batch, row), fusion_of(model).host
    own, others = encoders[host], [m for m in encoders if m != host]
    state = until(own, inputs[host], left=1)
    if any(there[m] for m in others):
        pooled = {m: encoders[m](inputs[m]).pooled[0].numpy() for m in others if there[m]}
        absent = {m: weight(model, f"absent.vectors.{m}.weight")[0] for m in others if not there[m]}
        s = np.concatenate([mean_over_places(state), *((pooled | absent)[m] for m in others)])
        h = weight(model, "transform.bottleneck.weight") @ s
        alpha, beta = np.split(weight(model, "transform.affine.weight") @ np.where(h > 0, h, 0), 2)
        state = with_each_place(state, lambda x: (1 + alpha) * x + beta)
    return own.finish(own.run_stage(len(own.stage_channels) - 1, state)).pooled[0]


def test_it_starts_as_joint_fusion_and_then_moves() -> None:
    """Bit for bit; the second step reaches what stands before the layer that starts at 0."""
    names = ("cine", "ecg", "ehr")
    study, model = inside("daft", names, spread=False)
    _, joint = inside("joint", names, spread=False)
    batch = random_rows(study, 12, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(model(batch).logits["death"], joint(batch).logits["death"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model.losses(model(batch), batch).sum().backward()
        optimizer.step()
    for name, parameter in model.fusion.named_parameters():
        assert float(parameter.grad.abs().max()) > 0, name
    with torch.no_grad():
        joint.load_state_dict({k: v for k, v in model.state_dict().items() if k in joint.state_dict()})
        assert not torch.allclose(model(batch).logits["death"], joint(batch).logits["death"])


def test_the_host_is_the_first_with_places_unless_the_study_says() -> None:
    hosts = {names: fusion_of(inside("daft", names)[1]).host for names in (("ehr", "series"), ("ehr", "text"))}
    assert hosts == {("ehr", "series"): "series", ("ehr", "text"): "ehr"}
    assert fusion_of(inside("daft", ("ecg", "ehr"), guide="ehr")[1]).host == "ehr"
