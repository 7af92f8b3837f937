"""From phase to phase: nothing is left behind, nothing is disturbed, and what cannot work is told at the start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fl_client.training import loop
from fl_client.training.loop import Trainer
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model, select
from fl_shared.models.interface import take
from fl_shared.study import Study
from fl_shared.wire import Arrays, digest

Make = Callable[..., Trainer]
LONE, JOINT = ["encoders", "adapters", "heads"], ["encoders", "adapters", "fusion", "heads"]
LEMOF: dict[str, Any] = {"model": {"system": "lemof"}, "rounds": 5, "encoders": "shared"}


def phase(name: str, objective: str, *trains: str, rounds: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": name, "rounds": rounds, "objective": objective, "trains": list(trains), **more}


def alternating(rounds: int) -> list[dict[str, Any]]:
    kinds = (("unimodal", LONE), ("tasks", JOINT))
    return [phase(f"p{k}", kinds[k % 2][0], *kinds[k % 2][1]) for k in range(rounds)]


def initial(study: Study) -> Arrays:
    return select(build_model(study), study.is_shared)


def run(trainer: Trainer, study: Study, *numbers: int, base: Arrays | None = None, between: Any = None) -> Arrays:
    base = initial(study) if base is None else base
    sigma = 1.0 if study.privacy.mode == "patient" else None
    for number in numbers:
        base = {**base, **trainer.train(round=number, base=base, sigma=sigma)}
        if between is not None:
            between(base)
    return base


def hooks(trainer: Trainer) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in trainer._model.modules() for kind in kinds)


def test_hooks_of_the_clipping_go_with_their_phase(make_study: Any, make_trainer: Make) -> None:
    study = make_study(mode="patient", rounds=10, steps=1, phases=alternating(10))
    trainer = make_trainer(study)
    base, seen = initial(study), []
    for number in range(1, 11):
        base = {**base, **trainer.train(round=number, base=base, sigma=1.0)}
        seen.append(hooks(trainer))
    assert seen[0] > 0 and seen[1] > 0 and seen == seen[:2] * 5
    leftover = [n for n, p in trainer._model.named_parameters() if getattr(p, "_norm_sample", None) is not None]
    assert leftover == [] and all(not vars(m).get("activations") for m in trainer._model.modules())
    trainer._gradients.close()
    assert hooks(trainer) == 0


@pytest.mark.parametrize("more", [{}, {"local": ["heads", "norms"], "finetune": 2, "encoders": "shared"}])
def test_judging_between_rounds_changes_no_bit(make_study: Any, make_trainer: Make, more: Any) -> None:
    study = make_study(rounds=4, phases=alternating(4), **more)
    quiet, judged = make_trainer(study, state="quiet"), make_trainer(study, state="judged")
    expected = run(quiet, study, 1, 2, 3, 4)
    found = run(judged, study, 1, 2, 3, 4, between=lambda base: judged.evaluate(arrays=base))
    assert digest(found) == digest(expected)
    assert digest(judged.encoders()) == digest(quiet.encoders())


def test_judging_between_private_rounds_leaves_what_is_trained(make_study: Any, make_trainer: Make) -> None:
    """Noise hides the bits: but parameters of the phase, the sums and the mode of the encoders must be as before."""
    study = make_study(mode="patient", rounds=4, dropout=0.0, phases=alternating(4))
    trainer = make_trainer(study)
    base = run(trainer, study, 1)
    rows = trainer._enter(2).rows[:5]

    def state() -> Any:
        gradients, part = trainer._enter(2), take(trainer._batch, rows)
        names = [n for n, p in trainer._model.named_parameters() if p.requires_grad]
        return names, trainer._model.objective, gradients._clipper.clipped_sum(part, clip=1.0, micro_batch=4)

    before = state()
    arrays = select(trainer._model)
    trainer.evaluate(arrays=base)
    loop.load(trainer._model, arrays)
    after = state()
    assert before[:2] == after[:2]
    assert all(torch.equal(before[2][name], after[2][name]) for name in before[2])


def test_lemof_runs_through_and_a_restart_anywhere_is_the_same_run(make_study: Any, make_trainer: Make) -> None:
    study = make_study(**LEMOF)
    assert [p.name for p in study.training.phases] == ["levels", "meta", "choose", "cross", "final"]
    expected = run(make_trainer(study, state="through"), study, 1, 2, 3, 4, 5)
    base = initial(study)
    for number in range(1, 6):
        base = run(make_trainer(study), study, number, base=base)
    assert digest(base) == digest(expected)
    assert (expected["fusion.importance"] > 0).any()
    trainer = make_trainer(study)
    released = [{n.split(".")[1] for n in trainer.train(round=k, base=base, sigma=None)} for k in (2, 3)]
    assert released == [{"meta"}, {"importance"}]


def test_an_earlier_phase_asked_again_is_the_same_round(make_study: Any, make_trainer: Make) -> None:
    study = make_study(rounds=4, phases=alternating(4))
    trainer = make_trainer(study)
    one = run(trainer, study, 1)
    three = run(trainer, study, 2, 3, base=one)
    assert digest(run(trainer, study, 1)) == digest(one)  # local groups of later rounds are undone
    assert digest(run(trainer, study, 2, 3, base=one)) == digest(three)


# --- told at the start


def test_a_later_phase_without_patients_is_told_before_the_first_round(
    make_study: Any, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_client.training.rows.in_stack", lambda *_, **__: False)
    phases = [phase("one", "tasks", *JOINT), phase("two", "tasks", "heads", patients="stack")]
    with pytest.raises(ConsiliumError, match="no patient") as caught:
        make_trainer(make_study(rounds=2, phases=phases))
    assert caught.value.code == ExitCode.DATA


@pytest.mark.parametrize("mode", ["none", "patient"])
def test_a_later_phase_that_trains_nothing_is_told_before_the_first_round(
    make_study: Any, make_trainer: Make, mode: str
) -> None:
    """The meta-learners take the levels' predictions as they are: no gradient reaches the levels."""
    phases = [phase("one", "levels", "fusion.levels"), phase("two", "meta", "fusion.levels")]
    model = {"system": "lemof", "levels": {"ecg": 1, "ehr": 1}}
    with pytest.raises(ConsiliumError, match=r"two = fusion.levels: nothing that the objective 'meta'") as caught:
        make_trainer(make_study(mode=mode, rounds=2, phases=phases, model=model))
    assert caught.value.code == ExitCode.STUDY


def test_a_later_phase_without_exact_gradients_is_told_before_anything_is_paid(
    make_study: Any, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that is called twice only in the second phase: ghost norms of one call would overwrite the other's."""
    study = make_study(mode="patient", rounds=2, phases=[*alternating(2)])
    build = loop.build_model

    def spoilt(*args: Any, **more: Any) -> Any:
        model = build(*args, **more)
        fuse, head = model.fusion.forward, model.heads["death"]

        def twice(*given: Any) -> Any:
            out = fuse(*given)
            return replace(out, fused=out.fused + head(out).sum(1, keepdim=True)) if model.objective == "tasks" else out

        model.fusion.forward = twice
        return model

    monkeypatch.setattr(loop, "build_model", spoilt)
    with pytest.raises(ConsiliumError, match="per-patient gradient") as caught:
        make_trainer(study)
    assert caught.value.code == ExitCode.PRIVACY


def test_choosing_is_never_done_under_privacy(make_study: Any, make_trainer: Make) -> None:
    study = make_study(**LEMOF, batch=4)
    private = study.privacy.model_copy(update={"mode": "patient", "epsilon": 8.0})
    forged = study.model_copy(update={"privacy": private})  # no validated study is like this
    trainer = make_trainer(forged)
    with pytest.raises(ConsiliumError, match="no noise") as caught:
        trainer.train(round=3, base=initial(forged), sigma=1.0)
    assert caught.value.code == ExitCode.PRIVACY


@pytest.mark.parametrize(
    ("phases", "key", "problem"),
    [
        ([phase("one", "tasks", "adapters.ehr")], "training.phases.0.trains", "nothing that has parameters"),
        ([phase("one", "tasks", "fusion.layer")], "training.phases.0.trains", r"no such part. (Did|Known)"),
        ([phase("one", "tasks", "fusion", "heads.mace")], "tasks.death", "no phase trains its head"),
    ],
)
def test_what_only_the_model_knows_is_told_when_it_is_built(
    make_study: Any, phases: Any, key: str, problem: str
) -> None:
    study = make_study(rounds=1, phases=phases, encoders="frozen")  # an ehr needs no adapter
    with pytest.raises(ConsiliumError, match=problem) as caught:
        build_model(study)
    assert caught.value.code == ExitCode.STUDY
    assert key in {fault.key for fault in caught.value.faults}


def test_a_task_may_not_take_the_name_of_the_masked_heads(make_study: Any) -> None:
    body = make_study().model_dump(mode="json", by_alias=True)
    body["tasks"] = {"masked": {"type": "binary"}}
    with pytest.raises(ConsiliumError, match=r"tasks.masked: this name is reserved"):
        build_model(Study.model_validate(body))


# --- several processes of one hospital

WORKER = """
import sys
from datetime import timedelta
from pathlib import Path
import torch
from safetensors.numpy import save_file
from torch import distributed
sys.path.insert(0, sys.argv[1])
from conftest import cohort, site, study
from fl_client.training.loop import Trainer
from fl_shared.models.build import build_model, select
import json

folder, rank = Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
store = distributed.FileStore(str(folder / "store"), 2)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=120))
for name, made in json.loads(sys.argv[4]).items():
    plan = study(**made)
    known = cohort("a", drawn="cine" in plan.modalities)
    trainer = Trainer(study=plan, site=site(folder, "a", name), cohort=known, rank=rank, world=2)
    base = select(build_model(plan), plan.is_shared)
    for k in range(1, plan.training.rounds + 1):
        sigma = None if plan.privacy.mode == "none" else 1.0
        base = {**base, **trainer.train(round=k, base=base, sigma=sigma)}
    save_file({**base, **trainer.encoders()}, folder / f"{name}_{rank}.safetensors")
distributed.destroy_process_group()
"""
SGD: dict[str, Any] = {"dropout": 0.0, "optimizer": "sgd", "learning_rate": 0.02, "steps": 2}
DRAWN: dict[str, Any] = {**SGD, "drawn": True, "model": {"system": "m_prtm"}, "rounds": 2}


@pytest.mark.integration
def test_two_processes_agree_in_every_phase_and_equal_one(make_study: Any, make_trainer: Make, tmp_path: Path) -> None:
    phases = make_study(**LEMOF).training.phases  # with the choice of levels, which here would rest on one patient
    five = [plan.model_dump(mode="json") for plan in phases]
    made: dict[str, dict[str, Any]] = {
        "lemof": {**SGD, **LEMOF, "model": {"system": "lemof", "levels": {"ecg": 1, "ehr": 2}}, "phases": five},
        "norms": {**SGD, "rounds": 2, "encoders": "shared", "local": ["norms"], "phases": alternating(2)},
        "drawn": {**DRAWN, "encoders": "shared"},
        "private": {**DRAWN, "mode": "patient", "encoders": "local"},
    }
    folder = tmp_path / "two"
    folder.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", WORKER, str(Path(__file__).parent), str(folder)]
    workers = [subprocess.Popen([*command, str(rank), json.dumps(made)]) for rank in (0, 1)]
    assert [worker.wait(timeout=400) for worker in workers] == [0, 0]
    for name, plan in made.items():
        one, two = (load_file(folder / f"{name}_{rank}.safetensors") for rank in (0, 1))
        assert digest(one) == digest(two), name
        if name == "private":
            continue
        study = make_study(**plan)
        trainer = make_trainer(study, state=f"{name}_alone")
        for key, array in {**run(trainer, study, *range(1, study.training.rounds + 1)), **trainer.encoders()}.items():
            np.testing.assert_allclose(one[key], array, rtol=1e-3, atol=1e-5, err_msg=f"{name} {key}")
