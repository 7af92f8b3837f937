"""The baselines that give logits themselves, against loops over rows; their phases; every type of task."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch
from acceptance import Case, of, phases, task_of
from random_rows import random_rows
from torch import Tensor, nn

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model
from fl_shared.models.fusion.own_heads import OwnHeads
from fl_shared.models.interface import AuxLogits, EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS, HEADS
from fl_shared.models.systems import SYSTEMS
from fl_shared.study import ModelPlan

MODALITIES, WIDTH = ("cxr", "ecg", "ehr"), 6
TASKS = {"death": 1, "pheno": 3}
SETS = torch.tensor([p for p in product([False, True], repeat=3) if any(p)])  # all 7
OWN = ("late_average", "unified", "lstm_ensemble")


def spec_of(names: tuple[str, ...]) -> FusionSpec:
    widths = dict.fromkeys(names, WIDTH)
    return FusionSpec(modalities=names, widths=widths, levels={}, tasks=TASKS, model=ModelPlan(width=8, heads=2))


def made(name: str) -> Fusion:
    spec = spec_of(MODALITIES)
    widths = dict.fromkeys(MODALITIES, 8 if name == "lstm_ensemble" else WIDTH)
    spec = FusionSpec(
        modalities=MODALITIES, widths=widths, levels={}, tasks=TASKS, model=spec.model, starts={"death": torch.ones(1)}
    )
    torch.manual_seed(0)
    return FUSIONS.get(name, key="").build(spec).double()


def given(width: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    return {m: torch.randn(len(SETS), width, generator=g, dtype=torch.float64) for m in MODALITIES}


def run(fusion: Fusion, x: Mapping[str, Tensor]) -> FusionOutput:
    """What an absent modality holds is garbage: the model's zeros are not counted on."""
    outputs = {}
    for n, (m, v) in enumerate(x.items()):
        v = v.masked_fill(~SETS[:, n, None], 9.0)
        outputs[m] = EncoderOutput(pooled=v, tokens=v[:, None], token_mask=torch.ones(len(v), 1, dtype=torch.bool))
    found: FusionOutput = fusion(outputs, dict(zip(MODALITIES, SETS.unbind(1), strict=True)))
    assert not any(z.requires_grad for z in found.logits.values())  # the prediction itself trains nothing
    return found


def linear(x: Tensor, head: nn.Module, start: float) -> list[float]:
    rows = zip(head.linear.weight.detach(), head.linear.bias.detach(), strict=True)
    return [float(w @ x.detach()) + float(b) + start for w, b in rows]


def of_task(found: FusionOutput, task: str) -> list[AuxLogits]:
    return [aux for aux in found.auxiliary["tasks"] if aux.task == task]


@pytest.mark.parametrize(("task", "start"), [("death", 1.0), ("pheno", 0.0)])
def test_late_average_is_the_mean_of_lone_predictions(task: str, start: float) -> None:
    fusion, x = made("late_average"), given(WIDTH)
    found = run(fusion, x)
    for row, there in enumerate(SETS):
        own = [m for m in MODALITIES if there[MODALITIES.index(m)]]
        each = [linear(x[m][row], fusion.heads[m][task], start) for m in own]
        mean = [sum(z) / len(own) for z in zip(*each, strict=True)]
        assert found.logits[task][row].tolist() == pytest.approx(mean, abs=1e-12)
    for n, aux in enumerate(of_task(found, task)):
        assert torch.equal(aux.rows, SETS[:, n])
        for row in aux.rows.nonzero()[:, 0].tolist():
            m = MODALITIES[n]
            expected = linear(x[m][row], fusion.heads[m][task], start)
            assert aux.logits[row].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("task", "start"), [("death", 1.0), ("pheno", 0.0)])
def test_unified_predicts_by_the_head_of_what_a_row_has_and_trains_every_part_of_it(task: str, start: float) -> None:
    fusion, x = made("unified"), given(WIDTH)
    found = run(fusion, x)
    names = [tuple(m for m, there in zip(MODALITIES, row, strict=True) if there) for row in SETS.tolist()]
    assert sorted(fusion.heads) == sorted("@".join(s) for s in names)
    for row, own in enumerate(names):
        both = torch.cat([x[m][row] for m in own])
        expected = linear(both, fusion.heads["@".join(own)][task], start)
        assert found.logits[task][row].tolist() == pytest.approx(expected, abs=1e-12)
    trained = dict(zip(fusion.heads, of_task(found, task), strict=True))
    for key, aux in trained.items():
        chosen = key.split("@")
        assert aux.rows.tolist() == [set(chosen) <= set(own) for own in names]
        for row in aux.rows.nonzero()[:, 0].tolist():
            expected = linear(torch.cat([x[m][row] for m in chosen]), fusion.heads[key][task], start)
            assert aux.logits[row].tolist() == pytest.approx(expected, abs=1e-12)


def test_unified_of_more_than_31_heads_is_refused() -> None:
    build = FUSIONS.get("unified", key="").build
    five = tuple(f"m{k}" for k in range(5))
    assert len(build(spec_of(five)).heads) == 31
    with pytest.raises(ConsiliumError, match=r"model\.fusion = unified: 6 modalities have 63 sets") as caught:
        build(spec_of((*five, "m5")))
    assert caught.value.code == ExitCode.STUDY


def test_the_ensemble_is_the_mean_of_two_whole_fusions() -> None:
    """Each against torch's own LSTM on the modalities that are there."""
    fusion, x = made("lstm_ensemble"), given(8)
    found = run(fusion, x)
    assert not torch.equal(*(member.lstm.input.weight for member in fusion.members))
    oracles = []
    for member in fusion.members:
        parts = {"ih": member.lstm.input, "hh": member.lstm.recurrent}
        oracle = nn.LSTM(8, 16, batch_first=True).double()
        state = {f"{leaf}_{k}_l0": getattr(part, leaf) for k, part in parts.items() for leaf in ("weight", "bias")}
        oracle.load_state_dict(state)
        oracles.append(oracle)
    for (task, start), (row, there) in product([("death", 1.0), ("pheno", 0.0)], enumerate(SETS)):
        steps = torch.stack([x[m][row] for m in MODALITIES])[there][None]
        states = [oracle(steps)[1][0][0, 0] for oracle in oracles]
        each = [linear(h, heads[task], start) for h, heads in zip(states, fusion.heads, strict=True)]
        for aux, z in zip(of_task(found, task), each, strict=True):
            assert bool(aux.rows.all())
            assert aux.logits[row].tolist() == pytest.approx(z, abs=1e-12)
        mean = [sum(z) / 2 for z in zip(*each, strict=True)]
        assert found.logits[task][row].tolist() == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("name", OWN)
def test_a_prediction_can_be_traced_to_the_vectors(name: str) -> None:
    """Outside training: in training each of its parts has its own loss and nothing else (`run`)."""
    fusion = made(name).eval().requires_grad_(False)
    x = {m: v.requires_grad_() for m, v in given(8 if name == "lstm_ensemble" else WIDTH).items()}
    outputs = {
        m: EncoderOutput(pooled=v, tokens=v[:, None], token_mask=torch.ones(len(v), 1, dtype=torch.bool))
        for m, v in x.items()
    }
    found = fusion(outputs, dict(zip(MODALITIES, SETS.unbind(1), strict=True)))
    slopes = torch.autograd.grad(found.logits["death"].sum(), list(x.values()))
    assert torch.equal(torch.stack([s.abs().sum(1) > 0 for s in slopes], dim=1), SETS)


@pytest.mark.parametrize("fusion", [*OWN, "drfuse"])
@pytest.mark.parametrize("head", [entry.name for entry in HEADS])
def test_every_type_of_task_is_predicted_and_trained(fusion: str, head: str) -> None:
    """A row is judged as in the joint baseline, and each prediction has a loss."""
    modalities = {kind: of(kind) for kind in ("waveform", "table")}
    case = Case(
        name=head,
        modalities=modalities,
        tasks={"outcome": task_of(head), "death": {"type": "binary"}},
        model={"system": "baselines", "fusion": fusion},
    )
    study, model = case.quiet()
    joint = build_model(case.plan(fusion="joint"))
    batch = random_rows(study, 12)
    *_, (last, _) = phases(study)
    model.enter(last)
    model = model.float().eval()
    found, expected = model(batch), joint.eval()(batch)
    told = model.predict(found.logits)["outcome"]
    assert told.shape == joint.predict(expected.logits)["outcome"].shape
    assert bool(told.isfinite().all())
    assert len(found.auxiliary) == 2 * {"late_average": 2, "unified": 3, "lstm_ensemble": 2, "drfuse": 3}[fusion]
    losses = model.losses(found, batch)
    assert bool(losses.isfinite().all())
    losses.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.fusion.parameters())


@pytest.mark.parametrize("head", ["survival_hazard", "competing"])
def test_own_heads_start_where_the_task_s_head_would(head: str) -> None:
    tasks = {"outcome": task_of(head)}
    starts = {}
    for fusion in ("joint", "late_average"):
        case = Case(name=head, modalities={"ehr": of("table")}, tasks=tasks, model={"system": "baselines"})
        model = build_model(case.plan(fusion=fusion))
        part = model.heads["outcome"] if fusion == "joint" else model.fusion.heads["ehr"]["outcome"]
        starts[fusion] = part.start
        assert not any("start" in name for name in model.state_dict())
    assert torch.equal(starts["joint"], starts["late_average"])
    assert bool(starts["joint"].any())


def plan_of(fusion: str, **model: Any) -> Case:
    modalities = {kind: of(kind) for kind in ("waveform", "table")}
    return Case(name=fusion, modalities=modalities, model={"system": "baselines", "fusion": fusion, **model})


def test_early_fusion_trains_nothing_of_encoders_that_were_trained_alone() -> None:
    study = plan_of("early").study
    (first, alone), (second, fused) = phases(study)
    assert (alone.objective, fused.objective) == ("unimodal", "tasks")
    model = build_model(study)
    trained = {}
    for round in (first, second):
        model.enter(round)
        trained[round] = {name for name, p in model.named_parameters() if p.requires_grad}
    encoders = {name for name, _ in model.named_parameters() if name.startswith("encoders.")}
    assert encoders <= trained[first]
    assert not encoders & trained[second]
    assert model.constant_encoders() == ("table", "waveform")  # so their features are computed once
    assert {name.split(".")[1] for name in trained[first] if name.startswith("heads.")} == {
        "death@table",
        "death@waveform",
    }
    assert {name.split(".")[1] for name in trained[second] if name.startswith("heads.")} == {"death"}


def test_an_ensemble_of_medfuse_is_trained_as_medfuse() -> None:
    study = plan_of("lstm_ensemble").study
    (_, alone), (second, fused) = phases(study)
    assert (alone.objective, fused.objective) == ("unimodal", "tasks")
    model = build_model(study)
    model.enter(second)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"encoders", "adapters", "fusion"}  # its heads are the fusion's


@pytest.mark.parametrize("fusion", sorted(set(SYSTEMS["baselines"].fusions) - {"early", "lstm_ensemble"}))
def test_all_others_learn_end_to_end(fusion: str) -> None:
    study = plan_of(fusion).study
    (phase,) = study.training.phases
    assert phase.objective == "tasks"
    assert set(phase.trains) == {"encoders", "adapters", "fusion", "heads"}


def test_early_and_joint_fusion_are_one_network() -> None:
    """What differs is how it is trained: the same arrays, but for the heads of the first phase."""
    shapes = {}
    for fusion in ("early", "joint"):
        state = build_model(plan_of(fusion).study).state_dict()
        shapes[fusion] = {name: value for name, value in state.items() if "@" not in name}
    assert shapes["early"].keys() == shapes["joint"].keys()
    assert all(torch.equal(value, shapes["joint"][name]) for name, value in shapes["early"].items())


def test_own_heads_have_no_array_but_their_linear_maps() -> None:
    heads = OwnHeads(WIDTH, spec_of(MODALITIES))
    assert sorted(heads.state_dict()) == [f"{t}.linear.{leaf}" for t in TASKS for leaf in ("bias", "weight")]
