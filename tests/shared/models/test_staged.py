"""Fusions inside encoders, within the model: absence, masks, encoders alone, phases, segmentation, and the judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from acceptance import Case, encoder_cases, of
from one_patient import driven, encoders_of, inside
from random_rows import random_rows
from torch import Tensor

from fl_client.training import judge
from fl_shared.models.encoders.embedding import Embedding
from fl_shared.models.fusion.staged import StagedFusion, feature_map
from fl_shared.models.interface import Batch, FusionSpec, State, take
from fl_shared.models.registry import FUSIONS
from fl_shared.study import ModelPlan

NAMES = ("cine", "ecg", "ehr", "text")
every_fusion = pytest.mark.parametrize("fusion", ["mmtm", "daft", "hyperfusion"])
TWO = {"death": {"type": "binary"}, "masks": {"type": "segmentation", "labels": ["l0"], "modality": "cine"}}


def same(found: Tensor, expected: Tensor) -> None:
    """Bit for bit, and no NaN."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@every_fusion
def test_what_an_absent_row_holds_reaches_no_other_modality(fusion: str) -> None:
    """Handed over as it is, not zeroed by the model."""
    study, model = inside(fusion, NAMES)
    batch = random_rows(study, 16, dtype=torch.float64)
    other = random_rows(study, 16, seed=1, only=NAMES, dtype=torch.float64).inputs
    mixed = {
        m: {
            k: torch.where(
                batch.present[m].view(-1, *[1] * (x.dim() - 1)),
                x,
                9 * other[m][k].to(x.dtype) if x.is_floating_point() else other[m][k],
            )
            for k, x in named.items()
        }
        for m, named in batch.inputs.items()
    }
    found, before = driven(model, replace(batch, inputs=mixed)), driven(model, batch)
    for m, there in batch.present.items():
        same(found[m].pooled[there], before[m].pooled[there])
        assert not torch.equal(found[m].pooled, before[m].pooled)


@every_fusion
@pytest.mark.parametrize("name", NAMES)
def test_a_modality_alone_is_as_its_encoder_reads_it(fusion: str, name: str) -> None:
    study, model = inside(fusion, NAMES)
    batch = random_rows(study, 3, only=(name,), dtype=torch.float64)
    with torch.no_grad():
        alone = encoders_of(model)[name](batch.inputs[name])
    found = driven(model, batch)[name]
    same(found.pooled, alone.pooled)
    same(found.tokens, alone.tokens)


@every_fusion
@pytest.mark.parametrize("host", NAMES)
def test_every_modality_hears_or_is_heard(fusion: str, host: str) -> None:
    """Whoever is the host: what the others hold changes what is made of it."""
    study, model = inside(fusion, NAMES, guide=host)
    batch = random_rows(study, 3, only=NAMES, dtype=torch.float64)
    other = random_rows(study, 3, seed=1, only=NAMES, dtype=torch.float64)
    before = driven(model, batch)[host].pooled
    for name in NAMES:
        changed = driven(model, replace(batch, inputs={**batch.inputs, name: other.inputs[name]}))[host].pooled
        assert float((changed - before).abs().amax(1).min()) > 1e-9, name


@every_fusion
def test_one_modality_has_nothing_to_exchange(fusion: str) -> None:
    study, model = inside(fusion, ("ecg",))
    batch = random_rows(study, 3, only=("ecg",), dtype=torch.float64)
    with torch.no_grad():
        same(driven(model, batch)["ecg"].pooled, model.encoders["ecg"](batch.inputs["ecg"]).pooled)
    assert not list(model.fusion.fusion.parameters())


class Careless(Embedding):
    """Leaves what it was given in masked places."""

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        return State(map=inputs["vectors"].transpose(1, 2), mask=inputs["mask"])


@every_fusion
@torch.no_grad()
def test_masked_places_are_not_squeezed(fusion: str) -> None:
    torch.manual_seed(0)
    names, width = ("a", "b"), 6
    spec = FusionSpec(
        modalities=names,
        widths=dict.fromkeys(names, width),
        levels=dict.fromkeys(names, (width,) * 3),
        tasks={},
        model=ModelPlan(width=8, guide="a"),
        kinds=dict.fromkeys(names, "embedding"),
        own=dict.fromkeys(names, width),
    )
    part = FUSIONS.get(fusion, key="").build(spec)
    assert isinstance(part, StagedFusion)
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    encoders = {m: Careless(features=width) for m in names}
    mask = torch.tensor([[True, False, True], [True, True, False]])
    inputs = {m: {"vectors": torch.randn(2, 3, width), "mask": mask} for m in names}
    there = {m: torch.ones(2, dtype=torch.bool) for m in names}
    before = part.encode(encoders, inputs, there)
    inputs["a"]["vectors"] = inputs["a"]["vectors"].masked_fill(~mask[:, :, None], 1e6)
    found = part.encode(encoders, inputs, there)
    for m in names:
        same(found[m].pooled, before[m].pooled)
    assert float(found["a"].tokens.detach()[~mask].min()) == 1e6  # masked places stay as they are
    assert not torch.equal(found["a"].pooled, encoders["a"](inputs["a"]).pooled)


@pytest.mark.parametrize("case", encoder_cases(), ids=lambda case: case.name)
@torch.no_grad()
def test_an_encoder_reads_the_map_that_it_is_given(case: Case) -> None:
    """Before its last two stages and after the last one: else a fusion inside it would have no effect."""
    study, model = case.quiet()
    encoder = encoders_of(model.eval())["x"]
    inputs = random_rows(study, 4, dtype=torch.float64, only=("x",)).inputs["x"]
    before = encoder(inputs).pooled
    stages = len(encoder.stage_channels)
    for changed in range(stages - 1, stages + 1):
        state = encoder.stem(inputs)
        for index in range(stages):
            state = encoder.run_stage(index, state)
            if index + 1 == changed:
                level = feature_map(encoder, state)
                assert level.mask is None or level.mask.shape == (4, *level.map.shape[2:])
                gate = torch.linspace(0.5, 1.5, level.map.shape[1]).double()
                state = encoder.set_map(state, level.map * gate.view(-1, *[1] * (level.map.dim() - 2)))
        assert float((encoder.finish(state).pooled - before).abs().amax(1).min()) > 1e-9, changed


@every_fusion
def test_encoders_that_nothing_changes_are_not_kept_while_a_fusion_acts_inside_them(fusion: str) -> None:
    case = Case(
        name=fusion,
        modalities={"ecg": of("waveform"), "ehr": of("table")},
        model={"system": "baselines", "fusion": fusion},
        phases=(
            {"name": "alone", "rounds": 1, "objective": "unimodal", "trains": ["adapters", "heads.death@ecg"]},
            {"name": "together", "rounds": 1, "trains": ["fusion", "heads.death"]},
        ),
    )
    study, model = case.quiet()
    batch = random_rows(study, 8, dtype=torch.float64)
    model.enter(1)
    assert model.constant_encoders() == ("ecg", "ehr")
    kept = replace(batch, features={name: model.features(name, batch) for name in model.constant_encoders()})
    for one, other in zip(model(kept).auxiliary, model(batch).auxiliary, strict=True):
        same(one.logits, other.logits)
    model.enter(2)
    assert model.constant_encoders() == ()
    assert model.with_features(batch) is batch
    model.train()
    assert not model.encoders["ecg"].training
    same(model(kept).logits["death"], model(batch).logits["death"])
    model.losses(model(batch), batch).sum().backward()
    assert not any(p.grad is not None for p in model.encoders.parameters())
    assert any(float(p.grad.abs().max()) > 0 for p in model.fusion.fusion.parameters())


@every_fusion
@torch.no_grad()
def test_a_decoder_is_judged_on_what_it_learnt_from(fusion: str) -> None:
    study, model = inside(fusion, ("cine", "ecg", "ehr"), tasks=TWO)
    batch = random_rows(study, 6, dtype=torch.float64)
    model.train()
    there = batch.present["cine"]
    same(model.segment(batch)["masks"][there], model(batch).logits["masks"][there])
    model.objective = "segmentation"
    alone = model.heads["masks"](encoders_of(model)["cine"](batch.inputs["cine"]).levels)
    same(model(batch).logits["masks"][there], alone[there])


@every_fusion
def test_the_judge_says_what_the_model_says_of_each_set_of_modalities(fusion: str) -> None:
    study, model = inside(fusion, ("cine", "ecg", "ehr"), tasks=TWO)
    batch = random_rows(study, 12, dtype=torch.float64)
    subsets = {"cine": ("cine",), "ecg+ehr": ("ecg", "ehr"), "all": ("cine", "ecg", "ehr")}
    fused = {"death": study.tasks["death"]}
    rows = np.arange(1, 12)
    with torch.no_grad():
        told = judge.predict(model, batch, rows=rows, tasks=fused, subsets=subsets)
        for name, members in subsets.items():
            shown = {m: batch.present[m] & (m in members) for m in batch.present}
            kept = torch.stack([*shown.values()]).any(0) & (torch.arange(12) > 0)
            assert told[name].rows.tolist() == kept.nonzero()[:, 0].tolist()
            for row, found in zip(told[name].rows, told[name].predictions["death"], strict=True):
                one = take(replace(batch, present=shown), torch.tensor([row]))
                expected = model.predict(model(one).logits)["death"][0].numpy()
                np.testing.assert_allclose(found, expected, rtol=1e-6)
        masks = judge.segment(model, batch, rows=rows, tasks={"masks": study.tasks["masks"]})
        assert len(masks.rows) > 0
        labels = model.predict(model.segment(take(batch, masks.rows)))["masks"]
        drawn = batch.target_mask["masks"][torch.from_numpy(masks.rows)]
        counts = judge.voxels(labels, batch.targets["masks"][torch.from_numpy(masks.rows)], drawn, structures=1)
        np.testing.assert_array_equal(masks.predictions["masks"][..., :2], counts[..., :2].numpy())


def test_rows_of_all_sorts_are_there() -> None:
    """What the tests above stand on: rows that lack a modality, and rows that have one alone."""
    study, _ = inside("mmtm", NAMES)
    batch: Batch = random_rows(study, 16, dtype=torch.float64)
    counts = torch.stack([*batch.present.values()]).sum(0)
    assert {1, len(NAMES) - 1} <= set(counts.tolist())
