from __future__ import annotations

import numpy as np
import pytest

from fl_server.validation import Reason, validate, validate_evaluation
from fl_shared.results import Attention, Contribution, Curve, Described, Difference, EvaluationRow, Flow, Importance
from fl_shared.study import TaskPlan
from fl_shared.wire import Reply

BASE = {"fusion.a": np.zeros((2, 2), np.float32), "heads.n": np.zeros(1, np.int64)}


def judge(study, update, **options):
    return validate(update, base=BASE, study=study, site=options.pop("site", "basel"), **options)


def test_unchanged_and_moderate_updates_pass(make_study):
    assert judge(make_study(), BASE) is None
    assert judge(make_study(), {**BASE, "fusion.a": np.full((2, 2), 49.9, np.float32)}) is None  # norm 99.8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fusion.a": None}, Reason.MISSING_ARRAYS),
        ({"fusion.extra": np.zeros(1, np.float32)}, Reason.UNKNOWN_ARRAYS),
        ({"fusion.a": np.zeros(4, np.float32)}, Reason.SHAPE),
        ({"fusion.a": np.zeros((2, 2), np.float64)}, Reason.DTYPE),
        ({"fusion.a": np.full((2, 2), np.nan, np.float32)}, Reason.NOT_FINITE),
        ({"fusion.a": np.full((2, 2), -np.inf, np.float32)}, Reason.NOT_FINITE),
        ({"fusion.a": np.full((2, 2), 50.1, np.float32)}, Reason.NORM),
        ({"fusion.a": np.full((2, 2), 3e38, np.float32)}, Reason.NORM),
        ({"heads.n": np.array([2**62])}, Reason.NORM),
    ],
)
def test_each_defect_has_its_reason(make_study, change, reason):
    update = {name: array for name, array in {**BASE, **change}.items() if array is not None}
    assert judge(make_study(), update) == reason


def test_norm_is_of_the_whole_update_and_grows_with_rounds(make_study):
    update = {"fusion.a": np.full((2, 2), 40, np.float32), "heads.n": np.array([80])}
    assert judge(make_study(), update) == Reason.NORM  # sqrt(80^2 + 80^2) = 113.1
    assert judge(make_study(), update, rounds=2) is None


def test_external_and_unknown_sites_may_not_train(make_study):
    assert judge(make_study(), BASE, site="davos") == Reason.ROLE
    assert judge(make_study(), BASE, site="elsewhere") == Reason.ROLE


def reply(make_fleet, study, **changes):
    row = make_fleet(study)._rows("basel")[0]
    return Reply(status="ok", site="basel", evaluation=(row.model_copy(update=changes),))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"value": None, "ci_low": None, "ci_high": None, "n": None, "note": "fewer than 10 patients"}, None),
        ({"site": "chur"}, Reason.OTHER_SITE),
        ({"role": "external"}, Reason.OTHER_SITE),
        ({"task": "death"}, Reason.UNKNOWN_ROWS),
        ({"label": "stroke"}, Reason.UNKNOWN_ROWS),
        ({"modalities": "ecg+mri"}, Reason.UNKNOWN_ROWS),
        ({"value": 1.5}, Reason.UNKNOWN_ROWS),
        ({"metric": "mae"}, Reason.UNKNOWN_ROWS),
        ({"label": "365d"}, Reason.UNKNOWN_ROWS),
        ({"note": "x" * 5000}, Reason.UNKNOWN_ROWS),
        ({"model": "a\nb"}, Reason.UNKNOWN_ROWS),
        ({"n": 9}, Reason.TOO_FEW),
        ({"n": None}, Reason.TOO_FEW),
    ],
)
def test_rows_speak_for_their_own_site_about_the_study(make_study, make_fleet, change, reason):
    study = make_study()
    assert validate_evaluation(reply(make_fleet, study, **change), {}, study=study, site="basel") == reason


def test_repeated_rows_foreign_curves_and_stray_arrays(make_study, make_fleet):
    study = make_study()
    good = reply(make_fleet, study)
    twice = good.model_copy(update={"evaluation": good.evaluation * 2})
    assert validate_evaluation(twice, {}, study=study, site="basel") == Reason.REPEATED_ROWS
    curve = Curve(site="chur", task="mace", label="", modalities="all", kind="roc", x=(0.0, 1.0), y=(0.0, 1.0))
    foreign = good.model_copy(update={"curves": (curve,)})
    assert validate_evaluation(foreign, {}, study=study, site="basel") == Reason.OTHER_SITE
    assert validate_evaluation(good, BASE, study=study, site="basel") == Reason.UNEXPECTED_ARRAYS


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"x": (0.2, 0.2, 0.2)}, None),
        ({"day": 30.0}, Reason.UNKNOWN_ROWS),
        ({"label": ""}, Reason.UNKNOWN_ROWS),
        ({"x": (0.1, 0.2), "y": (0.1, 0.2)}, Reason.UNKNOWN_ROWS),
        ({"y": (0.1, 0.2, 1.2)}, Reason.UNKNOWN_ROWS),
        ({"kind": "roc", "day": None}, Reason.UNKNOWN_ROWS),
    ],
)
def test_bands_of_the_studys_windows_only(make_study, make_fleet, change, reason):
    study = make_study()
    plan = TaskPlan(type="survival", windows=(90.0,))
    study = study.model_copy(update={"tasks": {**study.tasks, "mace": plan}})
    row = {"metric": "uno_auc", "label": "90d"}
    body = {"site": "basel", "task": "mace", "label": "90d", "modalities": "all", "kind": "bands", "day": 90.0,
            "x": (0.1, 0.2, 0.3), "y": (0.1, 0.2, 0.3)}  # fmt: skip
    said = reply(make_fleet, study, **row).model_copy(update={"curves": (Curve.model_validate(body | change),)})
    assert validate_evaluation(said, {}, study=study, site="basel") == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metric": "mae", "value": 7.5, "ci_low": 6.0, "ci_high": 9.5, "events": None}, None),
        ({"metric": "r2", "value": -0.5, "ci_low": -2.0, "ci_high": 0.1, "events": None}, None),
        ({"metric": "mae", "value": -7.5, "events": None}, Reason.UNKNOWN_ROWS),
        ({"metric": "auroc", "value": 0.7, "events": None}, Reason.UNKNOWN_ROWS),
    ],
)
def test_each_type_of_task_has_its_metrics_and_their_ranges(make_study, make_fleet, change, reason):
    study = make_study()
    study = study.model_copy(update={"tasks": {**study.tasks, "mace": TaskPlan(type="regression")}})
    assert validate_evaluation(reply(make_fleet, study, **change), {}, study=study, site="basel") == reason


ASKED = {"subsets": "every", "hidden": [0.5], "subgroups": ["sex", "ward"], "described": True,
         "feature_groups": {"drugs": ("betablocker",)}}  # fmt: skip
NUMBERS = {"value": 0.1, "ci_low": 0.0, "ci_high": 0.2, "n": 40}
COMPARED = {"site": "basel", "role": "train", "task": "mace", "label": "", "model": "federated", "metric": "auroc"}
PARTS = {
    "evaluation": EvaluationRow.model_validate(
        COMPARED | NUMBERS | {"modalities": "all", "subgroup": "sex=male", "events": 12}
    ),
    "differences": Difference.model_validate(COMPARED | NUMBERS | {"modalities": "all", "against": "personal"}),
    "contributions": Contribution.model_validate(COMPARED | NUMBERS | {"modality": "ecg"}),
    "importance": Importance.model_validate(COMPARED | NUMBERS | {"group": "drugs"}),
    "attention": Attention(site="basel", role="train", model="federated", modality="ecg", **NUMBERS),
    "described": Described(site="basel", variable="age", statistic="mean", value=63.0),
    "flow": Flow(site="basel", stage="judged", samples=40, patients=40),
}  # fmt: skip


def asking(study, **more):
    """The study, and what it asks of those who judge."""
    return study.model_copy(update={"evaluation": study.evaluation.model_copy(update=ASKED | more)})


def told_more(make_fleet, study, name, **changes):
    good = reply(make_fleet, study)
    part = PARTS[name].model_copy(update=changes)
    told = {name: (*getattr(good, name), part)}
    return validate_evaluation(good.model_copy(update=told), {}, study=study, site="basel")


@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_of_its_own_site_asked_for_and_told_once(make_study, make_fleet, name):
    study = asking(make_study())
    assert told_more(make_fleet, study, name) is None
    assert told_more(make_fleet, study, name, site="chur") == Reason.OTHER_SITE
    if name != "differences":  # a comparison of models is asked for by a request, not by the study
        assert told_more(make_fleet, make_study(), name) == Reason.UNKNOWN_ROWS
    good = reply(make_fleet, study)
    twice = good.model_copy(update={name: (PARTS[name],) * 2})
    assert validate_evaluation(twice, {}, study=study, site="basel") == Reason.REPEATED_ROWS
    noised = asking(make_study(), epsilon=2.0)
    if name != "evaluation":  # where noise is promised, none of these has a noised form
        assert told_more(make_fleet, noised, name) == Reason.UNKNOWN_ROWS


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("evaluation", {"subgroup": "sex=other"}, Reason.UNKNOWN_ROWS),
        ("evaluation", {"subgroup": "ward=icu"}, None),  # names of its own: the site's gate knows them
        ("evaluation", {"subgroup": "ward=Zhang San"}, Reason.UNKNOWN_ROWS),
        ("evaluation", {"subgroup": "hidden=0.25"}, Reason.UNKNOWN_ROWS),
        ("evaluation", {"n": 9}, Reason.TOO_FEW),
        ("differences", {"against": "elsewhere"}, Reason.UNKNOWN_ROWS),
        ("differences", {"task": "death"}, Reason.UNKNOWN_ROWS),
        ("differences", {"value": -1.5}, Reason.UNKNOWN_ROWS),
        ("differences", {"role": "external"}, Reason.OTHER_SITE),
        ("differences", {"n": None}, Reason.TOO_FEW),
        ("contributions", {"modality": "mri"}, Reason.UNKNOWN_ROWS),
        ("contributions", {"metric": "brier"}, Reason.UNKNOWN_ROWS),
        ("contributions", {"note": "a\nb"}, Reason.UNKNOWN_ROWS),
        ("importance", {"group": "labs"}, Reason.UNKNOWN_ROWS),
        ("importance", {"metric": "brier"}, Reason.UNKNOWN_ROWS),
        ("importance", {"value": 1.5}, Reason.UNKNOWN_ROWS),
        ("importance", {"n": 3}, Reason.TOO_FEW),
        ("importance", {"note": "a\nb"}, Reason.UNKNOWN_ROWS),
        ("attention", {"modality": "mri"}, Reason.UNKNOWN_ROWS),
        ("attention", {"value": 0.333}, Reason.UNKNOWN_ROWS),
        ("attention", {"value": -0.1}, Reason.UNKNOWN_ROWS),
        ("attention", {"ci_high": None}, Reason.UNKNOWN_ROWS),
        ("attention", {"n": None}, Reason.TOO_FEW),
        ("attention", {"note": "a\nb"}, Reason.UNKNOWN_ROWS),
        ("described", {"variable": "name"}, Reason.UNKNOWN_ROWS),
        ("described", {"value": 63.42}, Reason.UNKNOWN_ROWS),
        ("described", {"statistic": "count"}, Reason.UNKNOWN_ROWS),
        ("flow", {"stage": "Zhang San"}, Reason.UNKNOWN_ROWS),
        ("flow", {"patients": 9}, Reason.SMALL_CELLS),
    ],
)
def test_parts_outside_the_study_are_rejected(make_study, make_fleet, name, change, reason):
    assert told_more(make_fleet, asking(make_study()), name, **change) == reason


@pytest.mark.parametrize(("n", "reason"), [(50, None), (49, Reason.SMALL_CELLS), (41, Reason.SMALL_CELLS), (40, None)])
def test_numbers_of_two_sets_that_tell_who_lacks_a_modality_are_rejected(make_study, make_fleet, n, reason):
    study = make_study()
    plan = study.modalities["ecg"]
    study = study.model_copy(update={"modalities": {"ecg": plan, "cine": plan}})
    [first, *_] = make_fleet(study)._rows("basel")
    whole = first.model_copy(update={"modalities": "all", "n": 50, "events": 20})
    part = first.model_copy(update={"modalities": "ecg", "n": n, "events": None})
    told = Reply(status="ok", site="basel", evaluation=(whole, part))
    assert validate_evaluation(told, {}, study=study, site="basel") == reason
