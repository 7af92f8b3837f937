"""MedFuse's encoder and fusion against torch.nn.LSTM, its published sizes, and its per-patient gradients."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from single_patients import clipped_like_a_loop, gradients_of_single_rows
from torch import nn

from fl_client.privacy import clipping
from fl_client.privacy.clipping import GhostClipper
from fl_shared.models.build import build_model
from fl_shared.models.encoders.events_lstm import EventsLstm
from fl_shared.models.fusion.lstm import LstmFusion
from fl_shared.models.interface import Batch, EncoderOutput, take
from fl_shared.models.model import MultimodalModel
from fl_shared.models.recurrent import Lstm
from fl_shared.study import Study

Plan = dict[str, object]
FIELDS, BINS, WIDTH = 3, 9, 5


def torchs(*layers: Lstm) -> nn.LSTM:
    """torch's own LSTM with the weights of these layers."""
    inputs, hidden = layers[0].input.in_features, layers[0].hidden
    lstm = nn.LSTM(inputs, hidden, num_layers=len(layers), batch_first=True).to(layers[0].input.weight.dtype)
    state = {
        f"{leaf}_{which}_l{n}": getattr(part, leaf)
        for n, layer in enumerate(layers)
        for which, part in (("ih", layer.input), ("hh", layer.recurrent))
        for leaf in ("weight", "bias")
    }
    lstm.load_state_dict(state)
    return lstm


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes(plan: Plan) -> None:
    fields = [f"f{i}" for i in range(38)]  # a value and a flag each: 76 inputs
    labels = [f"phenotype{i}" for i in range(25)]
    plan["modalities"] = {
        "ehr": {"kind": "events", "fields": fields, "hours": 48},
        "cxr": {"kind": "image", "size": 64},
    }
    plan["tasks"] = {"phenotype": {"type": "multilabel", "labels": labels}}
    plan["model"] = {"system": "medfuse", "preset": "paper"}
    plan["training"] = {"rounds": 2, "steps": 1, "batch": 4}
    study = Study.model_validate(plan)
    model = build_model(study)
    assert study.modalities["ehr"].encoder == "events_lstm"
    assert count(model.encoders["ehr"]) == 868_352
    assert study.modalities["cxr"].encoder == "resnet34"
    assert count(model.encoders["cxr"]) == 21_284_672
    assert count(model.adapters["ehr"]) == 0
    assert count(model.adapters["cxr"]) == 131_328
    assert count(model.fusion) == 1_576_960
    assert count(model.heads["phenotype"]) == 12_825
    assert count(model.heads["phenotype@ehr"]) == 6_425
    dropout = next(m for m in model.encoders["ehr"].modules() if isinstance(m, nn.Dropout))
    assert dropout.p == 0.3


def test_the_encoder_is_torchs_two_layers_over_carried_values() -> None:
    torch.manual_seed(0)
    encoder = EventsLstm(fields=FIELDS, width=WIDTH, dropout=0.5).double().eval()
    values, observed = torch.randn(4, BINS, FIELDS).double(), torch.rand(4, BINS, FIELDS) < 0.4
    x = torch.zeros(4, BINS, 2 * FIELDS).double()
    for row, bin, field in product(range(4), range(BINS), range(FIELDS)):
        if observed[row, bin, field]:
            x[row, bin, field], x[row, bin, FIELDS + field] = values[row, bin, field], 1.0
        elif bin:
            x[row, bin, field] = x[row, bin - 1, field]
    first, second = encoder.layers
    assert isinstance(first, Lstm)
    assert isinstance(second, Lstm)
    out = encoder({"values": torch.where(observed, values, float("nan")), "observed": observed})
    torch.testing.assert_close(out.tokens, torchs(first, second)(x)[0], rtol=1e-12, atol=1e-14)
    assert torch.equal(out.pooled, out.tokens[:, -1])
    levels = [x, torchs(first)(x)[0], out.tokens]
    for level, expected in zip(out.levels, levels, strict=True):
        torch.testing.assert_close(level.map, expected.transpose(1, 2), rtol=1e-12, atol=1e-14)


def test_dropout_acts_on_the_last_state_only() -> None:
    torch.manual_seed(1)
    encoder = EventsLstm(fields=FIELDS, width=64, dropout=0.5)
    out = encoder({"values": torch.randn(4, BINS, FIELDS), "observed": torch.ones(4, BINS, FIELDS, dtype=torch.bool)})
    kept = out.pooled != 0
    assert 0.3 < float(kept.double().mean()) < 0.7
    torch.testing.assert_close(out.pooled[kept], 2 * out.tokens[:, -1][kept])
    assert bool((out.tokens != 0).all())


def test_the_fusion_is_torchs_lstm_over_the_modalities_that_are_there() -> None:
    torch.manual_seed(2)
    names = ("ehr", "ecg", "text", "cine")
    fusion = LstmFusion(modalities=names, width=WIDTH).double()
    patterns = torch.tensor([p for p in product([False, True], repeat=4) if any(p)])  # all 15
    vectors = torch.randn(len(patterns), 4, WIDTH).double()
    outputs = {
        name: EncoderOutput(pooled=v, tokens=v[:, None], token_mask=torch.ones(len(v), 1, dtype=torch.bool))
        for name, v in zip(names, vectors.unbind(1), strict=True)
    }
    present = dict(zip(names, patterns.unbind(1), strict=True))
    reversed_names = {name: outputs[name] for name in reversed(names)}  # the study's order counts, not the mapping's
    lstm = torchs(fusion.lstm)
    for given in (outputs, reversed_names):
        fused = fusion(given, present).fused
        assert fused.shape == (15, fusion.out_features) == (15, 2 * WIDTH)
        for row, there in enumerate(patterns):
            expected = lstm(vectors[row, there][None])[1][0][0, 0]
            torch.testing.assert_close(fused[row], expected, rtol=1e-12, atol=1e-14)


@pytest.fixture
def medfuse(plan: Plan) -> MultimodalModel:
    modalities = {name: plan["modalities"][name] for name in ("series", "ecg", "ehr")}  # type: ignore[index]
    plan |= {
        "modalities": modalities,
        "model": {"system": "medfuse", "width": 8, "dropout": 0.0, "modality_dropout": 0.0},
        "training": {"rounds": 2, "steps": 1, "batch": 4},
        "privacy": {"mode": "patient", "epsilon": 8},
    }
    model = build_model(Study.model_validate(plan)).double()
    model.enter(2)
    return model


def few(batch: Batch) -> Batch:
    """The rows, and of their modalities what the study above has."""
    names = ("series", "ecg", "ehr")
    there = torch.stack([batch.present[m] for m in names]).any(0)
    kept = Batch(
        inputs={m: batch.inputs[m] for m in names},
        present={m: batch.present[m] for m in names},
        targets=batch.targets,
        target_mask=batch.target_mask,
        index=batch.index,
    )
    return take(kept, there.nonzero()[:, 0])


def test_clipped_sums_are_those_of_a_loop_over_patients(
    medfuse: MultimodalModel, rows: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clipping, "MARGIN", 0.0)  # float64 needs none
    batch = few(rows(10, dtype=torch.float64))
    each = gradients_of_single_rows(medfuse.train(), batch)
    clipper = GhostClipper(medfuse)
    clipper.self_test(batch)
    found = clipped_like_a_loop(clipper, each, batch, micro_batch=64)
    assert {"encoders.series.layers.1.recurrent.weight", "fusion.lstm.recurrent.bias"} <= found.keys()
