"""Acceptance of everything that is registered: a new entry is tested by being registered, nothing else.

Privacy and parameter counts have files of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from acceptance import Case, cases, decoder_cases, encoder_cases, fusion_cases, phases
from random_rows import random_rows, spoiled, with_other_masked_parts
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fl_shared.models.build import build_model
from fl_shared.models.catalogue import example_study
from fl_shared.models.compose import compose
from fl_shared.models.fusion.missing import MissingAdapter
from fl_shared.models.interface import Batch, StagedEncoder, take
from fl_shared.models.model import CHOOSE, MultimodalModel
from fl_shared.models.registry import DECODERS, ENCODERS, FUSIONS, HEADS
from fl_shared.models.systems import SYSTEMS, USUAL_ENCODERS, System
from fl_shared.study import NORM, Study
from fl_shared.wire import WIRE_DTYPES

ROWS = 12
DEAD = 1e-10  # float64: what should be 0 is below, whatever the rounding
NEVER = (
    (".*", r"attention\.self\.key\.bias$", "softmax does not see what all keys share"),
    ("(?!fusion mmtm).*/(?!levels).*", r"\.across\.bias$", "a LayerNorm does not see what all channels share"),
    (".*/levels", r"^encoders\.\w+\.norm\.", "stands behind the last level, and LeMoF reads levels only"),
    ("system m_prtm/.*", r"^encoders\.cine\.pool\.", "the encoder is frozen as soon as it can segment"),
    ("head survival_cox/.*", r"^fusion\.norm\.bias$", "the partial likelihood does not see what all patients share"),
    ("fusion daft .*", r"^fusion\.fusion\.(absent|transform\.bottleneck)\.", "what follows is 0 before the first step"),
)
LATER = (
    (".*/segmentation", r"^encoders\.\w+\.(norm|pool)\.", "stands behind the maps, and decoders read maps only"),
    ("system medm2t/unimodal", r"\.1\.back\.recurrent\.weight$", "read at its first step only, but for tokens"),
)
"""Case and objective, parameter, and why no gradient gets there: in no phase, or not in this one."""

every_case = pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)


@torch.no_grad()
def told(model: MultimodalModel, study: Study, batch: Batch) -> Tensor:
    """All that the trained model would predict, a line a row (B, N)."""
    model.enter(study.training.rounds)
    model.eval()
    logits = {**model(batch).logits, **model.segment(batch)}
    assert logits.keys() == study.tasks.keys()
    return torch.cat([z.flatten(1) for z in logits.values()], dim=1)


def losses(model: MultimodalModel, batch: Batch) -> Tensor:
    return model.losses(model(batch), batch)


def same(found: Tensor, expected: Tensor) -> None:
    """Bit for bit, and no NaN."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@every_case
def test_a_row_depends_on_no_other(case: Case) -> None:
    study, model = case.quiet()
    batch = random_rows(study, ROWS, dtype=torch.float64)
    whole = told(model, study, batch)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    groups = [order, order[:5], *torch.arange(ROWS).split(1)[:4]]
    for rows in groups:
        torch.testing.assert_close(told(model, study, take(batch, rows)), whole[rows], atol=1e-9, rtol=0)
    assert float((whole[1:] - whole[:-1]).abs().amax(1).min()) > 1e-6  # so there was something to depend on
    if case.dp:
        for round, phase in phases(study):
            if phase.objective != CHOOSE:
                model.enter(round)
                model.eval()
                among = losses(model, batch).detach()
                for rows in groups[1:]:
                    torch.testing.assert_close(losses(model, take(batch, rows)).detach(), among[rows])


@every_case
def test_what_an_absent_modality_or_an_unknown_target_holds_does_not_matter(case: Case) -> None:
    study, model = case.quiet()
    batch = random_rows(study, ROWS, dtype=torch.float64)
    garbage = spoiled(batch)
    same(told(model, study, garbage), told(model, study, batch))
    for round, phase in phases(study):
        if phase.objective == CHOOSE:
            continue
        model.enter(round)
        model.eval()
        same(losses(model, garbage), losses(model, batch))


@pytest.mark.parametrize("case", encoder_cases(), ids=lambda case: case.name)
def test_what_is_masked_within_a_modality_does_not_matter(case: Case) -> None:
    study, model = case.quiet()
    batch = random_rows(study, ROWS, dtype=torch.float64)
    same(told(model, study, with_other_masked_parts(batch)), told(model, study, batch))


@pytest.mark.parametrize("case", [*encoder_cases(), *fusion_cases()], ids=lambda case: case.name)
def test_every_modality_matters(case: Case) -> None:
    study, model = case.quiet()
    batch, other = (random_rows(study, ROWS, seed=seed, dtype=torch.float64) for seed in (0, 1))
    before = told(model, study, batch)
    for name in study.modalities:
        there = batch.present[name] & other.present[name]
        mixed = replace(batch, inputs={**batch.inputs, name: other.inputs[name]})
        rows = there.nonzero()[:, 0]
        changed = (told(model, study, take(mixed, rows)) - before[rows]).abs().amax(1)
        assert float(changed.min()) > 1e-6, name


@every_case
def test_each_phase_reaches_every_tensor_that_it_names_and_no_other(case: Case) -> None:
    study, model = case.quiet()
    batch = spoiled(random_rows(study, 16, dtype=torch.float64))
    names, reached = {name for name, _ in model.named_parameters()}, set[str]()
    for round, phase in phases(study):
        model.enter(round)
        where = f"{case.name}/{phase.objective}"
        features = {name: model.features(name, batch) for name in model.constant_encoders()}
        if phase.objective == CHOOSE:
            assert _filled_by_choosing(model, batch) == {n for n in model.state_dict() if study.trains(n, round)}
            continue
        model.train()
        model.zero_grad(set_to_none=True)
        losses(model, replace(batch, features=features)).sum().backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert [name for name, gradient in found.items() if not gradient.isfinite().all()] == []
        alive = {name for name, gradient in found.items() if float(gradient.abs().max()) > DEAD}
        named = {name for name in names if study.trains(name, round)}
        assert found.keys() <= named, where
        assert sorted(named - alive) == sorted(n for n in named if _excused(n, where, (*NEVER, *LATER))), where
        reached |= alive
    excused = {n for n in names for _, p in phases(study) if _excused(n, f"{case.name}/{p.objective}", NEVER)}
    assert sorted(names - reached - excused) == []


def _excused(name: str, where: str, reasons: Sequence[tuple[str, str, str]]) -> bool:
    return any(re.fullmatch(place, where) and re.search(pattern, name) for place, pattern, _ in reasons)


def _filled_by_choosing(model: MultimodalModel, batch: Batch) -> set[str]:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    model.choose(batch)
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@every_case
def test_names_and_kinds_of_arrays(case: Case) -> None:
    _check_names(build_model(case.study))


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda system: system.name)
def test_names_and_kinds_of_arrays_of_published_sizes(system: System) -> None:
    with torch.device("meta"):
        _check_names(compose(example_study(system, "paper"), {}))


def _check_names(model: MultimodalModel) -> None:
    """A study finds normalisation layers by name (FedBN); only float32 and int64 arrays can leave a site."""
    assert {str(v.dtype).removeprefix("torch.") for v in model.state_dict().values()} <= WIRE_DTYPES
    norms = {
        f"{path}.{leaf}"
        for path, module in model.named_modules()
        if isinstance(module, nn.GroupNorm | nn.LayerNorm)
        for leaf, _ in module.named_parameters(recurse=False)
    }
    assert norms == {name for name in model.state_dict() if NORM.search(name)}
    assert not any(isinstance(module, _NormBase | nn.RMSNorm | nn.LocalResponseNorm) for module in model.modules())


@pytest.mark.parametrize("case", encoder_cases(), ids=lambda case: case.name)
def test_an_encoder_keeps_the_interface(case: Case) -> None:
    study, model = case.quiet()
    encoder, inputs = model.eval().encoders["x"], random_rows(study, 5, dtype=torch.float64).inputs["x"]
    assert isinstance(encoder, StagedEncoder)
    out = encoder(inputs)
    assert out.pooled.shape == (5, encoder.width)
    assert out.tokens.shape == (5, out.tokens.shape[1], encoder.width)
    assert out.token_mask.shape == out.tokens.shape[:2]
    assert out.token_mask.dtype == torch.bool
    assert len(out.levels) == 3
    for level, channels in zip(out.levels, encoder.stage_channels[-3:], strict=True):
        assert level.map.shape[:2] == level.vec.shape == (5, channels)
        assert level.mask is None or level.mask.shape == (5, *level.map.shape[2:])
    state = encoder.stem(inputs)
    for stage in range(len(encoder.stage_channels)):
        features, _ = encoder.get_map(state)
        assert stage == 0 or features.shape[1] == encoder.stage_channels[stage - 1]
        state = encoder.run_stage(stage, encoder.set_map(state, features.clone()))
    torch.testing.assert_close(encoder.finish(state).pooled, out.pooled)


@pytest.mark.parametrize("case", fusion_cases(), ids=lambda case: case.name)
def test_what_handles_absence_itself_gets_no_wrapper(case: Case) -> None:
    fusion = build_model(case.study).fusion
    native = FUSIONS.get(case.study.model.fusion, key="").native_missing
    assert isinstance(fusion, MissingAdapter) == (not native)
    assert native == (fusion.native_missing and not isinstance(fusion, MissingAdapter))


def test_every_entry_can_be_named_by_a_study() -> None:
    assert {e.name for e in FUSIONS} == {name for system in SYSTEMS.values() for name in system.fusions}
    assert {e.name for e in ENCODERS} >= {*USUAL_ENCODERS.values()}.union(
        *(s.encoders.values() for s in SYSTEMS.values())
    )
    assert {e.name for e in DECODERS} == {build_model(case.study).encoders["x"].decoder for case in decoder_cases()}
    assert all(e.source for registry in (ENCODERS, FUSIONS, HEADS, DECODERS) for e in registry)
