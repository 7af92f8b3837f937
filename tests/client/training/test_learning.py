"""The light form equals the same rows of the whole evaluation, phase by phase, and runs no constant encoder again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fl_client.training.loop import Trainer
from fl_shared.learning import is_light
from fl_shared.models.build import build_model, select
from fl_shared.results import Findings
from fl_shared.study import Study

Make = Callable[..., Trainer]
HEADLINE = {"death": "auroc", "mace": "auroc", "scar": "dice"}


def curves(study: Study, every: int = 1) -> Study:
    body = study.model_dump(by_alias=True)
    return Study.model_validate({**body, "evaluation": {**body["evaluation"], "every": every}})


def trained(trainer: Trainer, study: Study, rounds: int) -> Any:
    base = select(build_model(study), study.is_shared)
    for number in range(1, rounds + 1):
        base = {**base, **trainer.train(round=number, base=base, sigma=None)}
    return base


def told(found: Findings, tasks: set[str], shown: str) -> dict[Any, Any]:
    return {
        (row.task, row.label): row
        for row in found.evaluation
        if row.metric == HEADLINE[row.task]
        and row.task in tasks
        and row.modalities == ("all" if row.task == "scar" else shown)
        and row.model == "federated"
    }


@pytest.mark.parametrize("encoders", ["shared", "local", "frozen", "adapters"])
@pytest.mark.parametrize("leaky", [False, True])
def test_rows_are_those_of_the_evaluation(make_study: Any, make_trainer: Make, encoders: str, leaky: bool) -> None:
    study = curves(make_study(encoders=encoders, leaky=leaky, rounds=2))
    trainer = make_trainer(study)
    base = trained(trainer, study, 2)
    found = trainer.learned(round=2, arrays=base)
    assert is_light(found, study, round=2)
    expected = told(trainer.evaluate(arrays=base), {"death", "mace"}, "headline" if leaky else "all")
    assert {(row.task, row.label): row for row in found.evaluation} == expected
    assert set(expected) == {("death", ""), ("mace", "mi"), ("mace", "hf"), ("mace", "macro")}


def test_each_phase_tells_of_its_own_tasks(make_study: Any, make_trainer: Make) -> None:
    phases = [
        {"name": "masks", "rounds": 1, "objective": "segmentation", "trains": ["encoders.cine", "heads.scar"]},
        {"name": "alone", "rounds": 1, "objective": "unimodal", "trains": ["encoders", "adapters", "heads"]},
        {"name": "whole", "rounds": 1, "trains": ["adapters", "fusion", "heads.death", "heads.mace"]},
    ]
    study = curves(make_study(drawn=True, encoders="shared", rounds=3, phases=phases))
    trainer = make_trainer(study)
    for number, tasks in ((1, {"scar"}), (2, set()), (3, {"death", "mace"})):
        base = trained(trainer, study, number)
        found = trainer.learned(round=number, arrays=base)
        assert {row.task for row in found.evaluation} == tasks
        expected = told(trainer.evaluate(arrays=base), tasks, "all")
        assert {(row.task, row.label): row for row in found.evaluation} == expected


def test_its_own_groups_are_those_of_that_round(make_study: Any, make_trainer: Make) -> None:
    """A site that has gone on to another round meanwhile still judges what it ended the asked one with."""
    study = curves(make_study(encoders="local", rounds=2))
    trainer = make_trainer(study)
    base = trained(trainer, study, 1)
    before = trainer.learned(round=1, arrays=base)
    trainer.train(round=2, base=base, sigma=None)
    assert trainer.learned(round=1, arrays=base) == before
    assert make_trainer(study).learned(round=1, arrays=base) == before  # another process


def test_constant_encoders_are_not_run_again(make_study: Any, make_trainer: Make, monkeypatch: Any) -> None:
    study = curves(make_study(encoders="frozen", rounds=2))
    trainer = make_trainer(study)
    base = trained(trainer, study, 1)
    for encoder in trainer._model.encoders.values():
        monkeypatch.setattr(encoder, "forward", lambda *_: pytest.fail("an encoder was run"))
    assert trainer.learned(round=1, arrays=base).evaluation
