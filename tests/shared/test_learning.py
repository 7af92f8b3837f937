"""Which rounds are judged, of which tasks, and what their light form may hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fl_shared.counts import leaving
from fl_shared.judged import Finished, judging_study
from fl_shared.learning import due, is_due, is_light, learned
from fl_shared.results import Contribution, Curve, EvaluationRow, Findings
from fl_shared.study import Study


def study(*, every: int = 1, leaky: bool = False, rounds: int = 4, evaluation: Any = None, **changes: Any) -> Study:
    body = {
        "schema": 1,
        "name": "curves",
        "seed": 1,
        "sites": {"a": {"role": "train", "patients": 100}, "z": {"role": "external"}},
        "tasks": {
            "death": {"type": "binary"},
            "events": {"type": "multilabel", "labels": ["mi", "hf"]},
            "late": {"type": "survival", "windows": [90.0]},
            "scar": {"type": "segmentation", "labels": ["scar"], "modality": "cine"},
        },
        "modalities": {
            "cine": {"kind": "cine"},
            "ehr": {"kind": "table", "fields": ["age"]},
            "note": {"kind": "text", "leaky": leaky},
        },
        "training": {"rounds": rounds, "steps": 2, "batch": 10, "encoders": "shared"},
        "privacy": {"mode": "none"},
        "rounds": {"quorum": 1},
        "evaluation": {"salt": "saltsalt", "every": every} | (evaluation or {}),
    }
    for key, values in changes.items():
        body[key] = {**body[key], **values} if key in body else values
    return Study.model_validate(body)


def row(**changes: Any) -> EvaluationRow:
    body = {
        "site": "a", "role": "train", "task": "death", "label": "", "modalities": "all", "model": "federated",
        "metric": "auroc", "value": 0.7, "ci_low": 0.6, "ci_high": 0.8, "n": 50, "events": 20,
    }  # fmt: skip
    return EvaluationRow.model_validate(body | changes)


def light(*rows: EvaluationRow, round: int = 1, of: Study | None = None) -> bool:
    return is_light(Findings(evaluation=rows), of or study(), round=round)


@pytest.mark.parametrize(
    ("every", "rounds", "expected"),
    [(0, 4, []), (1, 4, [1, 2, 3, 4]), (2, 4, [2, 4]), (3, 4, [3, 4]), (4, 4, [4]), (2, 5, [2, 4, 5])],
)
def test_every_so_many_rounds_and_the_last(every: int, rounds: int, expected: list[int]) -> None:
    plan = study(every=every, rounds=rounds)
    assert [number for number in range(-1, rounds + 3) if is_due(plan, number)] == expected
    assert due(plan) == len(expected)


def test_a_phase_gives_points_of_what_it_trains() -> None:
    """M-PRTM: two rounds of segmentation, then three of prognosis over its frozen encoder."""
    plan = study(rounds=5, model={"system": "m_prtm"})
    assert [phase.rounds for phase in plan.training.phases] == [2, 3]
    assert [sorted(learned(plan, number)) for number in range(1, 6)] == [["scar"]] * 2 + [
        ["death", "events", "late"]
    ] * 3
    assert sorted(learned(study(), 1)) == ["death", "events", "late", "scar"]


def test_a_phase_of_lone_modalities_gives_none() -> None:
    tasks = {name: plan.model_dump() for name, plan in study().tasks.items() if name != "scar"}
    plan = Study.model_validate(
        {**study(rounds=5, model={"system": "attention"}).model_dump(by_alias=True), "tasks": tasks}
        | {
            "training": {
                **study(rounds=5).training.model_dump(exclude={"phases"}),
                "phases": [
                    {
                        "name": "alone",
                        "rounds": 2,
                        "objective": "unimodal",
                        "trains": ["encoders", "adapters", "heads"],
                    },
                    {"name": "whole", "rounds": 3},
                ],
            }
        }
    )
    assert [number for number in range(1, 6) if is_due(plan, number)] == [3, 4, 5]
    assert not light(row(), round=2, of=plan) and light(row(), round=3, of=plan)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"evaluation": {"epsilon": 5.0}}, "every cannot be told: no noised form"),
        ({"every": 5}, "the study has 4 rounds"),
        ({"every": -1}, "greater than or equal to 0"),
    ],
)
def test_plans_that_do_not_fit(changes: dict[str, Any], told: str) -> None:
    with pytest.raises((ValidationError, ValueError), match=told):
        study(**changes)


def test_what_leaves_is_said_to_training_sites_only() -> None:
    plan = study(every=2)
    assert any("every 2 rounds" in text for text in leaving(plan, "train"))
    assert not any("round" in text for text in leaving(plan, "external"))


def test_the_light_form() -> None:
    assert light() and light(row())
    assert light(*(row(task="events", label=label) for label in ("mi", "hf", "macro")))
    assert light(row(task="late", metric="harrell_c"), row(task="scar", label="scar", metric="dice"))
    assert light(row(modalities="headline"), of=study(leaky=True))


@pytest.mark.parametrize(
    "more",
    [
        {"metric": "brier"},
        {"task": "late", "label": "90d", "metric": "uno_auc"},
        {"task": "scar", "label": "scar", "metric": "hd95"},
        {"subgroup": "sex=female"},
        {"modalities": "ehr"},
        {"modalities": "headline"},
        {"model": "personal"},
        {"role": "external"},
        {"task": "unknown"},
    ],
    ids=lambda more: ",".join(more.values()),
)
def test_no_row_more(more: dict[str, str]) -> None:
    assert not light(row(), row(**more))


def test_all_inputs_are_no_headline_where_one_states_the_diagnosis() -> None:
    assert not light(row(), of=study(leaky=True))


def test_nothing_but_rows_and_of_no_other_round() -> None:
    place = {"site": "a", "task": "death", "label": ""}
    curve = Curve(**place, modalities="all", kind="roc", x=(0.0, 1.0), y=(0.0, 1.0))
    more = Contribution(
        **place, role="train", model="federated", metric="auroc", modality="ehr", value=0.1, ci_low=0, ci_high=0.2, n=50
    )
    for found in (Findings(curves=(curve,)), Findings(contributions=(more,))):
        assert not is_light(found, study(), round=1)
    assert light(row(), round=2, of=study(every=2)) and not light(row(), round=1, of=study(every=2))
    assert not light(row(), round=5)


def test_a_finished_model_has_no_curve() -> None:
    body = study(every=2).model_dump(by_alias=True)
    finished = {"arrays": "1" * 64, "study": "2" * 64, "trained_by": ["b"]}
    judged = {**body, "sites": {"z": {"role": "external"}}, "judged": finished}
    with pytest.raises(ValueError, match=r"evaluation\.every.*belongs to the study that trains"):
        Study.model_validate(judged)
    model = Finished(
        study=study(every=2), identity="2" * 64, arrays={"fusion.a": np.zeros(1, np.float32)}, model="federated"
    )
    assert judging_study(model, sites=["y"]).evaluation.every == 0
