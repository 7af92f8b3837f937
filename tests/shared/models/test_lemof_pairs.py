"""LeMoF over the zoo: every ECG encoder beside every encoder of a table or of events trains, chooses and predicts."""

from __future__ import annotations

import pytest
import torch
from acceptance import Case, of
from random_rows import random_rows

from fl_shared.models.build import build_model
from fl_shared.models.fusion.level_guided import LevelGuidedFusion
from fl_shared.models.registry import ENCODERS

ECG = [entry.name for entry in ENCODERS if entry.kind == "waveform"]
EHR = [(entry.kind, entry.name) for entry in ENCODERS if entry.kind in ("table", "events")]
LEVELS, CHOICE = 1, 3  # rounds: a phase each


@pytest.mark.parametrize(("kind", "ehr"), EHR, ids=[name for _, name in EHR])
@pytest.mark.parametrize("ecg", ECG)
def test_a_pair_trains_chooses_its_levels_and_predicts(ecg: str, kind: str, ehr: str) -> None:
    case = Case(
        name="",
        modalities={"ecg": of("waveform", ecg), "ehr": of(kind, ehr)},
        model={"system": "lemof", "fusion": "level_guided"},
        phases=(),
    )
    study = case.plan(modality_dropout=0.0, width=8)
    model, batch = build_model(study).train(), random_rows(study, 6)
    model.enter(LEVELS)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.losses(model(batch), batch).mean().backward()
    optimizer.step()
    for name in study.modalities:
        assert any(
            n.startswith(f"encoders.{name}.") and not torch.equal(p, before[n]) for n, p in model.named_parameters()
        )
    model.eval()
    model.enter(CHOICE)
    with torch.no_grad():
        model.choose(batch)
        model.enter(study.training.rounds)
        risk = model.predict(model(batch).logits)["death"]
    assert isinstance(model.fusion, LevelGuidedFusion)
    assert bool((model.fusion.importance > 0).any(2).all())
    assert risk.shape == (6, 1)
    assert bool(((risk > 0) & (risk < 1)).all())
    assert len(risk.unique()) > 3


def test_the_issue_s_pairs_are_among_them() -> None:
    assert len(ECG) >= 4
    assert {"ft_transformer", "tpc", "tabnet", "tab_transformer"} <= {name for _, name in EHR}
