"""MMTM against a loop over patients and places, written from the paper's equations; published sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from one_patient import (
    Vector,
    driven,
    encoders_of,
    inside,
    mean_over_places,
    row_of,
    until,
    weight,
    with_each_place,
)
from random_rows import random_rows

from fl_shared.models.fusion.mmtm import Excitation
from fl_shared.models.interface import Batch, EncoderOutput, FusionSpec
from fl_shared.models.model import MultimodalModel
from fl_shared.study import ModelPlan


@pytest.mark.parametrize(("image", "size"), [(64, 102_880), (128, 148_032), (256, 262_912), (512, 590_976)])
def test_published_sizes(image: int, size: int) -> None:
    """Beside 256 channels of the EHR; nothing stands in for an absent one, since nobody else could hear it."""
    names = ("ehr", "image")
    spec = FusionSpec(
        modalities=names, widths=dict.fromkeys(names, 256), levels={}, tasks={}, model=ModelPlan(width=256)
    )
    assert sum(p.numel() for p in Excitation({"ehr": 256, "image": image}, spec).parameters()) == size


@pytest.mark.parametrize("names", [("ecg", "ehr"), ("cine", "ehr", "image"), ("cine", "ecg", "ehr", "series", "text")])
def test_each_patient_is_as_in_a_loop(names: tuple[str, ...]) -> None:
    """Of encoders of three and four stages, with masks over frames, segments and words, and absent modalities."""
    study, model = inside("mmtm", names)
    batch = random_rows(study, 3 * len(names), dtype=torch.float64)
    found = driven(model, batch)
    for row in range(len(batch)):
        expected = one_patient(model, batch, row)
        for name, output in expected.items():
            if bool(batch.present[name][row]):
                torch.testing.assert_close(found[name].pooled[row], output.pooled[0], rtol=1e-10, atol=1e-12)
                tokens = found[name].tokens[row, : output.tokens.shape[1]]
                torch.testing.assert_close(tokens, output.tokens[0], rtol=1e-10, atol=1e-12)


@torch.no_grad()
def one_patient(model: MultimodalModel, batch: Batch, row: int) -> dict[str, EncoderOutput]:
    """S = mean over places; Z = ReLU(W [S_1 … S_M] + b); E_m = W_m Z + b_m; map_m <- 2 sigmoid(E_m) * map_m."""
    encoders, (inputs, there) = encoders_of(model), row_of(batch, row)
    states = {m: until(encoder, inputs[m], left=2) for m, encoder in encoders.items()}
    for number in range(2):
        part = f"exchanges.{number}"
        states = {m: e.run_stage(len(e.stage_channels) - 2 + number, states[m]) for m, e in encoders.items()}
        squeezed: list[Vector] = [
            mean_over_places(states[m]) if there[m] else weight(model, f"{part}.absent.vectors.{m}.weight")[0]
            for m in encoders
            if there[m] or sum(there.values()) > 1
        ]
        if sum(there.values()) == 1:
            continue
        z = weight(model, f"{part}.joint.weight") @ np.concatenate(squeezed) + weight(model, f"{part}.joint.bias")
        z = np.where(z > 0, z, 0)
        for m in encoders:
            e = weight(model, f"{part}.gates.{m}.weight") @ z + weight(model, f"{part}.gates.{m}.bias")
            gate = 2 / (1 + np.exp(-e))
            states[m] = with_each_place(states[m], lambda x, gate=gate: gate * x)
    return {m: encoders[m].finish(states[m]) for m in encoders}


def test_gates_are_near_one_at_the_start_and_between_0_and_2() -> None:
    model = inside("mmtm", ("ecg", "ehr"), spread=False)[1]
    exchange = model.fusion.fusion.exchanges[-1]
    torch.manual_seed(0)
    squeezed = {m: torch.randn(64, gate.out_features).double() for m, gate in exchange.gates.items()}
    for gate in exchange(squeezed, {m: torch.ones(64, dtype=torch.bool) for m in squeezed}).values():
        assert 0 < float(gate.detach().min()) < 1 < float(gate.detach().max()) < 2
        assert float((gate.detach() - 1).abs().mean()) < 0.2
