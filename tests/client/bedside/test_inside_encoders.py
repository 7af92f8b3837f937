"""A record in front of a model whose fusion acts inside the encoders: every question runs all of them anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fl_client.bedside import explain
from fl_client.bedside.case import Case, ready
from fl_client.bedside.targets import log_odds, targets_of
from fl_shared.models.build import build_model
from fl_shared.models.interface import Batch
from fl_shared.study import Study

FIELDS = ("age", "sex", "bmi")


@pytest.fixture(params=["mmtm", "daft", "hyperfusion"])
def case(request: pytest.FixtureRequest) -> Case:
    study = Study.model_validate(
        {
            "schema": 1,
            "name": "small",
            "seed": 3,
            "sites": {"north": {"role": "train", "patients": 100}},
            "tasks": {
                "death": {"type": "binary"},
                "scar": {"type": "segmentation", "modality": "cine", "labels": ["scar"]},
            },
            "modalities": {
                "cine": {"kind": "cine", "frames": 2, "slices": 1, "size": 16},
                "ecg": {"kind": "waveform", "leads": ["I", "II"], "rate": 50, "seconds": 2},
                "ehr": {"kind": "table", "fields": FIELDS},
                "text": {"kind": "text", "max_tokens": 16},
            },
            "model": {"system": "baselines", "fusion": request.param, "width": 16, "heads": 2},
            "training": {"rounds": 1, "steps": 1, "batch": 8},
            "privacy": {"mode": "none"},
            "rounds": {"quorum": 1},
            "evaluation": {"salt": "saltsalt"},
        }
    )
    torch.manual_seed(0)
    model = build_model(study)
    for parameter in model.fusion.parameters():
        nn.init.normal_(parameter, std=0.2)
    inputs = {
        "cine": {
            "video": torch.randn(1, 2, 1, 16, 16),
            "frame_mask": torch.ones(1, 2, dtype=torch.bool),
            "slice_mask": torch.ones(1, 1, dtype=torch.bool),
            "spacing": torch.ones(1, 3),
        },
        "ecg": {"signal": torch.randn(1, 2, 100), "lead_mask": torch.ones(1, 2, dtype=torch.bool)},
        "ehr": {"values": torch.tensor([[0.5, 1.0, 0.0]]), "observed": torch.tensor([[True, True, False]])},
        "text": {"ids": torch.randint(4, 200, (1, 16)), "mask": torch.arange(16)[None] < 9},
    }
    there = torch.ones(1, dtype=torch.bool)
    batch = Batch(inputs=inputs, present=dict.fromkeys(inputs, there), targets={}, target_mask={}, index=torch.zeros(1))
    return Case.of(ready(model), study, batch)


def told(case: Case, batch: Batch) -> float:
    """The log-odds of the model itself."""
    with torch.no_grad():
        return float(log_odds(torch.sigmoid(case.model(batch).logits["death"].double())))


def test_contributions_add_up_to_the_score(case):
    (target,) = targets_of(case.study)
    assert case.scores()[target] == pytest.approx(told(case, case.batch))
    parts = case.contributions({target: -1.0})[target]
    assert sum(parts.values()) == pytest.approx(case.scores()[target] + 1.0)
    assert all(abs(part) > 1e-6 for part in parts.values())


def test_attributions_are_of_the_whole_model(case):
    (target,) = targets_of(case.study)
    signal = explain.of_signal(case, target, "ecg")
    flat = case.batch.inputs["ecg"] | {"signal": torch.zeros(1, 2, 100)}
    without = told(case, replace(case.batch, inputs={**case.batch.inputs, "ecg": flat}))
    assert signal.total == pytest.approx(told(case, case.batch) - without, abs=1e-5)
    text = explain.of_text(case, target, "text")
    assert text is not None and text.values[0, 1:8].abs().sum() > 0
    fields = {field.name: field.effect for field in explain.of_fields(case, target, "ehr")}
    assert fields["bmi"] is None
    for place, name in enumerate(FIELDS[:2]):
        observed = case.batch.inputs["ehr"]["observed"].clone()
        observed[0, place] = False
        fewer = replace(
            case.batch, inputs={**case.batch.inputs, "ehr": case.batch.inputs["ehr"] | {"observed": observed}}
        )
        assert fields[name] == pytest.approx(told(case, case.batch) - told(case, fewer), abs=1e-6)


def test_pictures_have_heat_and_drawings(case):
    (target,) = targets_of(case.study)
    heat = explain.of_images(case, target, "cine")
    assert heat.shape == (2, 1, 1, 1) and bool((heat >= 0).all())
    with torch.no_grad():
        expected = case.model.predict(case.model.segment(case.batch))["scar"][0]
    assert torch.equal(explain.drawn(case)["scar"], expected)
