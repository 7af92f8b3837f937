"""Adapters against merged weights, published sizes, starts, what sites share, and per-patient gradients."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from single_patients import clipped_like_a_loop, gradients_of_single_rows
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from fl_client.privacy import clipping
from fl_client.privacy.clipping import GhostClipper
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models import lora
from fl_shared.models.build import build_model, select
from fl_shared.models.encoders.text_bert import TextBert
from fl_shared.models.interface import Batch
from fl_shared.models.lora import LAYERS, add_lora, is_lora
from fl_shared.models.model import MultimodalModel
from fl_shared.models.registry import ENCODERS
from fl_shared.study import Study
from fl_shared.weights import directory_digest

Plan = dict[str, object]
RANK = 2
KINDS = {entry.name: entry.kind for entry in ENCODERS}
FIELDS = [f"f{k}" for k in range(5)]
PLANS: dict[str, Plan] = {
    "cine": {"kind": "cine", "frames": 2, "size": 32},
    "events": {"kind": "events", "fields": FIELDS, "hours": 10, "bins": 6},
    "table": {"kind": "table", "fields": FIELDS},
    "text": {"kind": "text", "max_tokens": 16},
}


def count(module: nn.Module, chosen: Callable[[str], bool] = lambda name: True) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if chosen(name))


def adapted(plan: Plan, **modalities: Plan) -> Study:
    plan |= {
        "modalities": modalities,
        "tasks": {"death": {"type": "binary"}},
        "model": {"width": 16, "heads": 2, "dropout": 0.0, "modality_dropout": 0.0, "lora_rank": RANK},
        "training": {"rounds": 1, "steps": 1, "batch": 4, "encoders": "adapters"},
    }
    return Study.model_validate(plan)


def batch_of(name: str, rows: int = 4) -> Batch:
    """Rows for the modality of a kind in `PLANS`, named as its kind."""
    g = torch.Generator().manual_seed(0)
    there = torch.ones(rows, dtype=torch.bool)
    fields = (rows, 6, 5) if name == "events" else (rows, 5)
    inputs = {
        "cine": {
            "video": torch.randn(rows, 2, 1, 32, 32, generator=g),
            "frame_mask": torch.ones(rows, 2, dtype=torch.bool),
            "slice_mask": torch.ones(rows, 1, dtype=torch.bool),
        },
        "text": {
            "ids": torch.randint(5, 200, (rows, 16), generator=g),
            "mask": torch.arange(16) < torch.arange(4, 4 + 3 * rows, 3)[:, None],
        },
    }.get(name, {"values": torch.rand(fields, generator=g), "observed": torch.rand(fields, generator=g) < 0.7})
    return Batch(
        inputs={name: {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}},
        present={name: there},
        targets={"death": (torch.arange(rows)[:, None] % 2).double()},
        target_mask={"death": there[:, None]},
        index=torch.arange(rows),
    )


def move(model: nn.Module) -> None:
    """Away from the start, where B is 0 and A has no gradient."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            nn.init.normal_(parameter, std=0.3)


def test_published_sizes_of_bert_base() -> None:
    with torch.device("meta"):
        with_pooler, bert = BertModel(BertConfig()), BertModel(BertConfig(), add_pooling_layer=False)
        encoder = TextBert(bert, window=512)
        assert count(with_pooler) == 109_482_240
        # no pooler here: a linear map 768 -> 768 that only the next-sentence task trained
        assert count(encoder) == 109_482_240 - (768 * 768 + 768) == 108_891_648
        add_lora(encoder, name="text_bert", key="", rank=8)
    assert count(encoder, is_lora) == 294_912
    assert count(encoder) == 108_891_648 + 294_912


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_an_adapted_encoder_is_the_one_with_w_plus_2_b_a(name: str, plan: Plan) -> None:
    kind = KINDS[name]
    study = adapted(plan, **{kind: PLANS[kind] | {"encoder": name}})
    model = build_model(study).double().eval()
    move(model)
    plain = build_model(study.model_copy(update={"training": study.training.model_copy(update={"encoders": "local"})}))
    arrays = model.encoders[kind].state_dict()
    merged = {n.replace(".base_layer", ""): x.clone() for n, x in arrays.items() if not is_lora(n)}
    for path in [n.removesuffix(".lora_A.default.weight") for n in arrays if n.endswith(".lora_A.default.weight")]:
        a, b = (arrays[f"{path}.lora_{which}.default.weight"] for which in "AB")
        assert a.shape[0] == b.shape[1] == RANK
        merged[f"{path}.weight"] += 2 * b @ a  # alpha / r
    plain.double().eval().encoders[kind].load_state_dict(merged)
    batch = batch_of(kind)
    found, expected = model.encode(kind, batch), plain.encode(kind, batch)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_exactly_the_adapters_train_and_each_patients_gradient_is_its_own(name: str, plan: Plan) -> None:
    kind = KINDS[name]
    study = adapted(plan, **{kind: PLANS[kind] | {"encoder": name}})
    model = build_model(study).double()
    move(model)
    encoder = dict(model.encoders[kind].named_parameters())
    assert {n for n, p in encoder.items() if p.requires_grad} == {n for n in encoder if is_lora(n)} != set()
    assert all(study.releases(f"encoders.{kind}.{n}", 1) == is_lora(n) for n in encoder)
    batch = batch_of(kind)
    clipper = GhostClipper(model)
    clipper.self_test(batch)  # with dropout, each row against its own derivative
    sums = clipper.clipped_sum(batch, clip=1.0, micro_batch=4)
    for n in encoder:
        assert (f"encoders.{kind}.{n}" in sums) == is_lora(n)
        assert not is_lora(n) or bool(sums[f"encoders.{kind}.{n}"].any()), n


def test_clipped_sums_are_those_of_a_loop_over_patients(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "MARGIN", 0.0)  # float64 needs none
    monkeypatch.setattr(lora, "DROPOUT", 0.0)
    model = build_model(adapted(plan, text=PLANS["text"])).double().train()
    move(model)
    batch = batch_of("text", rows=5)
    each = gradients_of_single_rows(model, batch)
    found = clipped_like_a_loop(GhostClipper(model), each, batch, micro_batch=2)
    assert sum(map(is_lora, found)) == 2 * 2 * 2  # layers, query and value, A and B


def pretrained(plan: Plan, directory: Path) -> tuple[Study, dict[str, Tensor]]:
    """A study that starts its text encoder from weights of another seed, and those weights."""
    donor = build_model(Study.model_validate({**adapted_plan(plan), "seed": 1})).encoders["text"].state_dict()
    save_file(donor, directory / "model.safetensors")
    named = {"weights": "notes", "weights_sha256": directory_digest(directory), "provenance": "public"}
    return adapted(plan, text=PLANS["text"] | named), donor


def adapted_plan(plan: Plan) -> Plan:
    raw = {**plan}
    adapted(raw, text=PLANS["text"])
    return {**raw, "training": {"rounds": 1, "steps": 1, "batch": 4}}


def test_pretrained_weights_come_first_and_adapters_start_from_them(plan: Plan, tmp_path: Path) -> None:
    study, donor = pretrained(plan, tmp_path)
    torch.manual_seed(5)
    model = build_model(study, weights={"notes": tmp_path})
    arrays = model.encoders["text"].state_dict()
    bare = {n.replace(".base_layer", ""): x for n, x in arrays.items() if not is_lora(n)}
    assert bare.keys() == donor.keys()
    assert all(torch.equal(bare[n], donor[n]) for n in donor)
    assert not any(x.any() for n, x in arrays.items() if ".lora_B" in n)
    bound = 16**-0.5  # of a linear map with 16 inputs
    starts = [x for n, x in arrays.items() if ".lora_A" in n]
    assert len({x.sum().item() for x in starts}) == len(starts) == 4
    assert all(0.8 * bound < float(x.abs().max()) <= bound for x in starts)
    torch.manual_seed(6)  # the draws are the study's, not the process's
    again = select(build_model(study, weights={"notes": tmp_path}))
    assert all((x == again[n]).all() for n, x in select(model).items())


@pytest.mark.parametrize(("kind", "encoder"), [("waveform", "ecg_resnet"), ("image", "resnet34")])
def test_an_encoder_without_linear_maps_stays_frozen_but_not_alone(plan: Plan, kind: str, encoder: str) -> None:
    other: Plan = {"kind": kind, "encoder": encoder}
    if kind == "waveform":
        other |= {"leads": ["I"], "rate": 100, "seconds": 2}
    beside = build_model(adapted(plan, text=PLANS["text"], other=other))
    assert beside.constant_encoders() == ("other",)
    with pytest.raises(ConsiliumError) as refused:
        build_model(adapted(plan, other=other))
    assert refused.value.code == ExitCode.STUDY
    (fault,) = refused.value.faults
    assert (fault.key, fault.value) == ("modalities.other.encoder", encoder)
    assert all(name in fault.mend for name in LAYERS)


def test_a_rank_beyond_the_maps_is_refused(plan: Plan) -> None:
    study = adapted(plan, text=PLANS["text"])
    wide = study.model_copy(update={"model": study.model.model_copy(update={"lora_rank": 17})})
    with pytest.raises(ConsiliumError, match=r"rank 17.*Lower model\.lora_rank") as refused:
        build_model(wide)
    assert refused.value.code == ExitCode.STUDY


def test_cached_vectors_need_no_adapter(plan: Plan) -> None:
    model: MultimodalModel = build_model(
        adapted(plan, text=PLANS["text"], ct={"kind": "embedding", "features": 8, "vectors": 3})
    )
    assert model.constant_encoders() == ("ct",)
    assert any(re.search(r"encoders\.text\..*\.lora_", name) for name in model.state_dict())
