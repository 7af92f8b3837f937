"""The study in which a finished model is judged: it pins the model, keeps its form, and trains nothing."""

from __future__ import annotations

import numpy as np
import pytest

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.judged import Finished, apart, are_judged, judging_study, other_study, travelling
from fl_shared.study import Study, load_study
from fl_shared.wire import digest
from fl_shared.written import write_model

FIRST = {"fusion.weight": np.arange(6, dtype=np.float32)}
SECOND = {"fusion.weight": np.arange(6, dtype=np.float32) + 1, "heads.mace.bias": np.zeros(1, np.float32)}


def trained(**changes) -> Study:
    plan = {
        "schema": 1,
        "name": "toy",
        "seed": 7,
        "sites": {name: {"role": "train", "patients": 100} for name in ("aarau", "basel", "chur")}
        | {"davos": {"role": "external"}},
        "tasks": {"mace": {"type": "binary"}},
        "modalities": {"ecg": {"kind": "waveform", "leads": ["I"], "rate": 100, "seconds": 10}},
        "training": {"rounds": 3, "steps": 1, "batch": 10, "final_encoders": "initial"},
        "privacy": {"mode": "patient", "epsilon": 8.0, "aggregation": "secure"},
        "rounds": {"quorum": 3, "deadline": 77.0},
        "evaluation": {"salt": "saltsalt", "recalibrate": True, "recalibrate_epsilon": 0.5, "min_patients": 17},
        "statistics": {"tasks": ["mace"], "epsilon": 0.5},
        "promotion": {"discrimination": [{"task": "mace", "metric": "auroc", "at_least": 0.7}]},
    }
    return Study.model_validate({**plan, **changes})


def finished(study: Study, arrays=FIRST) -> Finished:
    return Finished(study=study, identity=study.identity, arrays=arrays)


def test_it_keeps_what_shapes_model_and_judgement_and_leaves_out_training(tmp_path):
    study = trained(model={"system": "medm2t"}, training={"rounds": 5, "steps": 1, "batch": 10, "encoders": "shared"})
    made = judging_study(finished(study), sites=["xian", "davos"])
    kept = ("seed", "tasks", "modalities", "model", "training", "synthetic")
    assert all(getattr(made, part) == getattr(study, part) for part in kept)
    assert made.train_sites == () and made.external_sites == ("davos", "xian")
    assert made.evaluation.min_patients == 17 and not made.evaluation.recalibrate
    assert made.statistics is None and made.promotion is None and made.privacy.aggregation == "plain"
    assert (made.rounds.quorum, made.rounds.deadline) == (1, 77.0) and made.warnings() == ()
    assert made.judged.arrays == digest(FIRST) and made.judged.study == study.identity
    write_model(tmp_path / "eval.toml", made, header="judged")  # what a site approves is what was written
    assert load_study(tmp_path / "eval.toml").identity == made.identity


def test_who_trained_a_model_does_not_judge_it():
    for sites, names in ((["aarau"], ["aarau"]), (["xian", "basel", "chur"], ["basel", "chur"])):
        with pytest.raises(ConsiliumError) as caught:
            judging_study(finished(trained()), sites=sites)
        assert caught.value.code is ExitCode.STUDY
        assert [fault.key for fault in caught.value.faults] == [f"sites.{name}" for name in names]
    sites = {name: {"role": "train", "patients": 50} for name in ("emden", "fulda", "goslar")}
    other = trained(seed=8, sites=sites, promotion=None)
    with pytest.raises(ConsiliumError, match=r"sites\.emden"):
        judging_study(finished(trained()), sites=["xian", "emden"], against=finished(other, SECOND))


def test_other_arrays_are_not_judged():
    alone = judging_study(finished(trained()), sites=["xian"])
    both = judging_study(finished(trained()), sites=["xian"], against=finished(trained(seed=8), SECOND))
    assert are_judged(alone, FIRST) and are_judged(both, travelling(FIRST, SECOND))
    assert apart(travelling(FIRST, SECOND)) == (FIRST, SECOND)
    nudged = {"fusion.weight": np.nextafter(FIRST["fusion.weight"], np.float32(9))}
    wrong = [nudged, {}, SECOND, travelling(FIRST, SECOND), FIRST | {"more": FIRST["fusion.weight"]}]
    assert not any(are_judged(alone, arrays) for arrays in wrong)
    assert not any(are_judged(both, arrays) for arrays in [FIRST, travelling(SECOND, FIRST), travelling(FIRST, FIRST)])
    assert not are_judged(trained(), FIRST)


def test_the_second_model_keeps_its_own_form():
    other = trained(
        seed=8, model={"system": "medfuse"}, training={"rounds": 6, "steps": 1, "batch": 10, "encoders": "shared"}
    )
    made = judging_study(finished(trained()), sites=["xian"], against=finished(other, SECOND))
    second = other_study(made)
    assert (second.seed, second.model, second.training) == (8, other.model, other.training)
    assert second.judged.arrays == digest(SECOND) and second.judged.against is None
    assert second.sites == made.sites and second.evaluation == made.evaluation
    with pytest.raises(ValueError, match="judges one model"):
        other_study(second)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"tasks": {"mace": {"type": "regression"}}, "promotion": None, "statistics": None}, "tasks.mace"),
        (
            {"modalities": {"ecg": {"kind": "table", "fields": ["age"]}}, "statistics": None},
            "judged.against.modalities.ecg",
        ),
        ({}, "judged.against"),
    ],
)
def test_models_that_cannot_be_compared(changes, key):
    changes = changes | ({"evaluation": {"salt": "saltsalt"}} if "tasks" in changes else {})
    same = not changes
    other = finished(trained(**changes), FIRST if same else SECOND)
    with pytest.raises(ConsiliumError) as caught:
        judging_study(finished(trained()), sites=["xian"], against=other)
    assert key in [fault.key for fault in caught.value.faults]


def test_noised_metrics_have_no_differences():
    study = trained(evaluation={"salt": "saltsalt", "epsilon": 4.0})
    judging_study(finished(study), sites=["xian"])
    with pytest.raises(ConsiliumError, match="no noised form"):
        judging_study(finished(study), sites=["xian"], against=finished(trained(seed=8), SECOND))


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"discrimination": [{"task": "mace", "metric": "auroc", "at_most": 0.7}]}, "needs 'at_least'"),
        ({"discrimination": [{"task": "mace", "metric": "brier", "at_least": 0.7}]}, "needs 'at_most'"),
        ({"discrimination": [{"task": "mace", "metric": "calibration_slope", "at_least": 1}]}, "of calibration"),
        ({"discrimination": [{"task": "mac", "metric": "auroc", "at_least": 0.7}]}, "Did you mean 'mace'"),
        ({"discrimination": [{"task": "mace", "metric": "mae", "at_most": 2}]}, "not of a binary task"),
        ({"discrimination": [{"task": "mace", "label": "x", "metric": "auroc", "at_least": 0.7}]}, "no label"),
        ({"discrimination": [{"task": "mace", "metric": "auroc", "at_least": 0.7, "at": "summary"}]}, "no summary"),
        ({"calibration": [{"task": "mace"}]}, "two rising numbers"),
        ({"calibration": [{"task": "mace", "slope": [1.2, 0.8]}]}, "two rising numbers"),
        ({"subgroups": [{"task": "mace", "metric": "auroc", "by": "sex", "at_most": 0.1}]}, "no subgroup"),
        ({}, "no threshold"),
    ],
)
def test_thresholds_that_could_never_be_judged_are_refused(tmp_path, limit, said):
    from pathlib import Path

    from fl_shared import toml

    body = trained().model_dump(mode="json", by_alias=True) | {"promotion": limit}
    with pytest.raises(ConsiliumError, match=said):
        toml.validated(body, Study, path=Path("study.toml"), code=ExitCode.STUDY)


def test_thresholds_are_part_of_what_is_approved():
    other = trained(promotion={"discrimination": [{"task": "mace", "metric": "auroc", "at_least": 0.6}]})
    assert other.identity != trained().identity
