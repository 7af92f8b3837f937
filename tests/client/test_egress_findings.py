"""Every part of findings that a site could be made to tell: what a study did not ask for, or tells a few, stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fl_client.egress import Egress, EgressRefusedError
from fl_shared.asked import tells_flow
from fl_shared.results import Contribution, Curve, Described, Difference, EvaluationRow, Findings, Flow
from fl_shared.study import Study, load_study
from fl_shared.wire import Code

ASKED = """
subsets = "every"
hidden = [0.5]
subgroups = ["age", "sex", "ward"]
age_edges = [65, 80]
described = true
[tasks.kind]
type = "multiclass"
labels = ["dcm", "hcm", "none"]
[tasks.mace]
type = "survival"
horizon = 100.0
bins = 4
windows = [30.0, 90.0]
[tasks.ef]
type = "regression"
[modalities.ecg]
kind = "waveform"
leads = ["I"]
rate = 50
seconds = 2
[modalities.echo]
kind = "embedding"
features = 4
[modalities.note]
kind = "text"
leaky = true
"""
WARD = '\n[subgroups.ward]\ncolumn = "ward"\ncodes = { A = "icu", B = "ward" }\n'
HERE = {"site": "drum_tower", "role": "train", "task": "death", "label": "", "model": "federated"}
GIVEN = {"metric": "auroc", "value": 0.7, "ci_low": 0.6, "ci_high": 0.8, "n": 100}


@pytest.fixture
def gate(make_site: Any) -> Egress:
    site = make_site()
    path = site.folder / "site.toml"
    path.write_text(path.read_text() + WARD)
    from fl_shared.site import load_site

    site = load_site(path)
    site.state_dir.mkdir()
    return Egress(site)


@pytest.fixture
def study(write_study: Callable[..., Any]) -> Study:
    return load_study(write_study(mode="none", extra=ASKED))


def row(**changes: Any) -> EvaluationRow:
    return EvaluationRow.model_validate(HERE | GIVEN | {"modalities": "headline", "events": 40} | changes)


def whole(**changes: Any) -> EvaluationRow:
    return row(modalities="all", **changes)


def group(name: str, **changes: Any) -> EvaluationRow:
    return row(subgroup=name, **changes)


def difference(**changes: Any) -> Difference:
    body = HERE | GIVEN | {"modalities": "all", "against": "personal", "value": -0.02, "ci_low": -0.05, "ci_high": 0.01}
    return Difference.model_validate(body | {"p": 0.21, "test": "DeLong"} | changes)


def contribution(**changes: Any) -> Contribution:
    return Contribution.model_validate(HERE | GIVEN | {"modality": "ehr", "value": 0.05, "ci_low": -0.01} | changes)


def told(**changes: Any) -> Described:
    body = {"site": "drum_tower", "variable": "age", "statistic": "mean", "value": 63.4}
    return Described.model_validate(body | changes)


def share(variable: str, category: str, value: float | None, **changes: Any) -> Described:
    note = "" if value is not None else "suppressed: fewer than 10 patients"
    body = {"variable": variable, "category": category, "statistic": "share", "value": value, "note": note}
    return told(**(body | changes))


def flow(stage: str, samples: int | None, patients: int | None = None, site: str = "drum_tower") -> Flow:
    return Flow(site=site, stage=stage, samples=samples, patients=patients)


def curve(**changes: Any) -> Curve:
    body = {k: HERE[k] for k in ("site", "task", "label", "model")} | {"modalities": "all", "kind": "roc"}
    return Curve.model_validate(body | {"x": (0.0, 1.0), "y": (0.0, 1.0)} | changes)


def test_under_privacy_no_flow_tells_of_training_patients(
    gate: Egress, study: Study, write_study: Callable[..., Any]
) -> None:
    private = load_study(write_study(extra=ASKED))
    assert private.privacy.mode == "patient" and private.sites["drum_tower"].role == "train"
    for stage in FLOW:
        stays(gate, private, evaluation=[row(), whole()], flow=[stage])
    assert tells_flow(study, "drum_tower") and not tells_flow(private, "drum_tower")
    assert tells_flow(load_study(write_study(role="external", extra=ASKED)), "drum_tower")


def leaves(gate: Egress, study: Study, **parts: Any) -> None:
    found = Findings.model_validate({name: tuple(part) for name, part in parts.items()})
    assert gate.release_findings(found, study=study, round=1, min_patients=10) == found


def stays(gate: Egress, study: Study, code: Code | None = None, **parts: Any) -> None:
    found = Findings.model_validate({name: tuple(part) for name, part in parts.items()})
    with pytest.raises(EgressRefusedError) as error:
        gate.release_findings(found, study=study, round=1, min_patients=10)
    assert code in (None, error.value.code)
    assert list(gate.log.rows()) == []


SEXES = [group("sex=male", n=60, events=25), group("sex=female", n=40, events=15)]
AGES = [group("age=0-64", n=50, events=20), group("age=65-79", n=30, events=10)]  # and 20 with 10 beside them
FLOW = [flow("rows", 400), flow("usable", 380, 300), flow("judged", 100, 90), flow("set aside: no-modality", 20)]
TABLE = [
    told(), told(statistic="sd", value=11.2), told(statistic="missing", value=0.04), told(variable="age",
    statistic="median", value=64.0), share("sex", "male", 0.6), share("sex", "female", 0.4), share("ward", "icu", 0.2),
    share("has ecg", "", 0.91), share("outcome death", "", 0.4), share("outcome kind", "dcm", None),
    share("outcome kind", "hcm", None), share("outcome kind", "none", 0.8), told(variable="outcome ef", value=55.0),
]  # fmt: skip


def test_what_a_study_asks_for_leaves(gate: Egress, study: Study) -> None:
    rows = [row(), whole(), *SEXES, *AGES, group("hidden=0.5", events=40, value=0.61), row(modalities="ehr+note")]
    few = "suppressed: fewer than 10 patients in a group, with, or without, the event"
    none = {"n": None, "events": None, "value": None, "ci_low": None, "ci_high": None}
    rows += [group("ward=icu", n=20, events=10), group("ward=ward", **none, note=few)]
    leaves(
        gate, study, evaluation=rows, differences=[difference()], contributions=[contribution()], described=TABLE,
        flow=FLOW,
    )  # fmt: skip


def test_nothing_leaves_that_a_study_does_not_ask_for(gate: Egress, write_study: Callable[..., Any]) -> None:
    options = ('subsets = "every"', "hidden = [0.5]", 'subgroups = ["age", "sex", "ward"]', "described = true")
    lines = [line for line in ASKED.splitlines() if line not in options]
    plain = load_study(write_study(extra="\n".join(lines)))
    leaves(gate, plain, evaluation=[row(), whole()])
    gate.log.path.unlink()
    for part in (*SEXES, group("hidden=0.5"), row(modalities="ehr+note")):
        stays(gate, plain, evaluation=[row(), whole(), part])
    stays(gate, plain, evaluation=[row(), whole()], contributions=[contribution()])
    for part in TABLE:
        stays(gate, plain, described=[part])
    for stage in FLOW:
        stays(gate, plain, flow=[stage])


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ([group("age=65+")], Code.EGRESS),  # no group of these edges
        ([group("sex=other")], Code.EGRESS),
        ([group("ward=icu2")], Code.EGRESS),  # the site file names no such group
        ([group("ward=Zhang San")], Code.EGRESS),
        ([group("bmi=high")], Code.EGRESS),
        ([group("hidden=0.25", events=40)], Code.EGRESS),
        ([group("sex")], Code.EGRESS),
        ([whole(), whole(subgroup="sex=male", n=60, events=25)], Code.EGRESS),  # told of the headline inputs only
        ([SEXES[0], SEXES[0]], Code.EGRESS),
        ([SEXES[0].model_copy(update={"site": "other"})], Code.EGRESS),
        ([SEXES[0].model_copy(update={"value": 0.71234})], Code.EGRESS),
        ([SEXES[0].model_copy(update={"role": "external"})], Code.EGRESS),
        ([SEXES[0].model_copy(update={"task": "kind", "label": "dcm"})], Code.EGRESS),  # its whole is not told
        ([group("sex=male", n=9, events=None)], Code.TOO_FEW),
        ([group("sex=male", n=60, events=9)], Code.TOO_FEW),
        ([group("sex=male", n=60, events=51)], Code.TOO_FEW),
        ([group("sex=male", n=60, events=None)], Code.TOO_FEW),  # a value of fewer than 10 events
        ([group("sex=male", n=95, events=35)], Code.TOO_FEW),  # 5 are left
        ([group("sex=male", n=60, events=31)], Code.TOO_FEW),  # 9 events are left
        ([group("sex=male", n=60, events=12)], Code.EGRESS),  # fits
        ([group("sex=male", n=80, events=25)], Code.TOO_FEW),  # 15 events and 5 others are left
        ([group("sex=male", n=60, events=25), group("sex=female", n=39, events=15)], Code.TOO_FEW),
        ([group("sex=male", n=60, events=25), group("sex=female", n=50, events=15)], Code.TOO_FEW),  # more than all
        ([*AGES, group("age=80+", n=12, events=None, value=None, ci_low=None, ci_high=None)], Code.TOO_FEW),
        ([group("hidden=0.5", n=99)], Code.TOO_FEW),
        ([group("hidden=0.5", events=41)], Code.TOO_FEW),
    ],
)  # fmt: skip
def test_subgroups_that_stay(gate: Egress, study: Study, bad: list[EvaluationRow], code: Code) -> None:
    if bad == [group("sex=male", n=60, events=12)]:
        leaves(gate, study, evaluation=[row(), *bad])
    else:
        stays(gate, study, code, evaluation=[row(), *bad])


def test_groups_tell_no_few_between_two_days(gate: Egress, study: Study) -> None:
    """30 patients are in no told group: 12 of them with the event by day 30, 15 by day 90."""

    def by(day: str, events: int, **more: Any) -> EvaluationRow:
        return row(task="mace", label=day, metric="uno_auc", events=events, **more)

    wholes = [by("30d", 32), by("90d", 45)]
    stays(
        gate, study, Code.TOO_FEW,
        evaluation=[*wholes, by("30d", 20, n=70, subgroup="sex=male"), by("90d", 30, n=70, subgroup="sex=male")],
    )  # fmt: skip
    wholes = [by("30d", 32), by("90d", 55)]
    leaves(
        gate, study,
        evaluation=[*wholes, by("30d", 20, n=65, subgroup="sex=male"), by("90d", 30, n=65, subgroup="sex=male")],
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "other"}, {"role": "external"}, {"task": "los"}, {"label": "x"}, {"modalities": "ehr+mri"},
        {"model": "Zhang"}, {"against": "run 7"}, {"against": "federated"}, {"metric": "mae"}, {"value": -0.02345},
        {"value": -1.2}, {"p": 1.2}, {"p": 0.123456}, {"test": "Zhang"}, {"n": 99}, {"n": None}, {"n": 9},
        {"note": "Zhang San"}, {"value": None, "ci_low": None, "ci_high": None},
        {"metric": "brier"},  # its value was not told
    ],
)  # fmt: skip
def test_differences_that_stay(gate: Egress, study: Study, changes: dict[str, Any]) -> None:
    stays(gate, study, evaluation=[whole()], differences=[difference(**changes)])


def test_a_difference_leaves_once(gate: Egress, study: Study) -> None:
    back = difference(model="personal", against="federated", value=0.02, ci_low=-0.01, ci_high=0.05)
    leaves(gate, study, evaluation=[whole()], differences=[difference()])
    with pytest.raises(EgressRefusedError, match="twice"):
        leaves(gate, study, evaluation=[whole()], differences=[difference(), back])


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "other"}, {"role": "external"}, {"task": "los"}, {"label": "x"}, {"model": "Zhang"},
        {"modality": "mri"}, {"modality": "ehr+note"}, {"metric": "brier"}, {"value": 0.05123}, {"value": 1.2},
        {"n": 99}, {"n": None}, {"note": "Zhang San"}, {"model": "personal"},  # its value was not told
    ],
)  # fmt: skip
def test_contributions_that_stay(gate: Egress, study: Study, changes: dict[str, Any]) -> None:
    stays(gate, study, evaluation=[whole(), row()], contributions=[contribution(**changes)])


def test_a_contribution_leaves_once(gate: Egress, study: Study) -> None:
    stays(gate, study, evaluation=[whole()], contributions=[contribution(), contribution(value=0.06)])


@pytest.mark.parametrize(
    "bad",
    [
        [told(site="other")],
        [told(variable="name")],
        [told(variable="bmi")],  # no field of a table of the study
        [told(category="male")],
        [told(statistic="count", value=80.0)],
        [told(statistic="share", value=0.5)],
        [told(value=63.42)],  # four digits
        [told(note="Zhang San")],
        [told(value=None)],  # without saying why
        [told(), told(value=63.5)],
        [told(statistic="missing", value=0.041)],
        [share("sex", "Zhang San", 0.6)],
        [share("sex", "male", 0.601)],
        [share("sex", "male", 1.01)],
        [share("sex", "male", 0.9), share("sex", "female", None)],  # by subtraction
        [share("ward", "icu2", 0.5)],
        [share("has mri", "", 0.5)],
        [share("outcome los", "", 0.5)],
        [share("outcome death", "yes", 0.5)],
        [share("death", "", 0.5)],
        [told(variable="outcome death", statistic="mean", value=0.4)],
    ],
)
def test_numbers_of_table_1_that_stay(gate: Egress, study: Study, bad: list[Described]) -> None:
    stays(gate, study, described=bad)


@pytest.mark.parametrize(
    "bad",
    [
        [flow("judged", 100, 90, site="other")],
        [flow("Zhang San", 100)],
        [flow("set aside: Zhang San", 20)],
        [flow("set aside: mri: undecodable", 20)],
        [flow("rows", 9)],
        [flow("usable", 100, 9)],
        [flow("usable", 100, 101)],
        [flow("set aside: no-modality", 3)],
        [flow("rows", 400), flow("usable", 395)],
        [flow("rows", 400), flow("index_time_ok", None), flow("usable", 395)],
        [flow("usable", 380, 300), flow("judged", 110, 295)],
        [flow("rows", 400), flow("usable", 420)],
        [flow("judged", 103)],  # 3 without a known outcome
        [flow("judged", 100), flow("judged", 110)],
    ],
)
def test_stages_that_stay(gate: Egress, study: Study, bad: list[Flow]) -> None:
    stays(gate, study, evaluation=[whole()], flow=bad)


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": (50, 50)},  # of a kind that tells none
        {"group": "low"},
        {"kind": "risks", "counts": (50, 9)},
        {"kind": "risks", "counts": (50,)},
        {"kind": "risks", "x": (0.1, 0.2, 0.3), "y": (0.1, 0.2, 0.3), "counts": (50, 45, None)},  # 5 are left
        {"kind": "risks", "counts": (50, 60)},
        {"kind": "incidence", "counts": (50, 20)},  # of a task without times
        {"kind": "decision", "y": (0.1, -1.2)},
    ],
)
def test_curves_that_stay(gate: Egress, study: Study, changes: dict[str, Any]) -> None:
    stays(gate, study, evaluation=[whole()], curves=[curve(**changes)])


def test_only_noised_metrics_leave_where_noise_is_promised(gate: Egress, write_study: Callable[..., Any]) -> None:
    """A study cannot even ask for the rest; were it asked for, it would stay."""
    with pytest.raises(Exception, match="no noised form"):
        load_study(write_study(extra="epsilon = 2.0\n" + ASKED))
    study = load_study(write_study(extra=ASKED))
    noised = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"epsilon": 2.0})})
    note = {"note": "noised: epsilon 2 of the judged patients"}
    good = [whole(**note), row(**note)]
    leaves(gate, noised, evaluation=good)
    gate.log.path.unlink()
    stays(gate, noised, evaluation=[whole(), row(**note)])
    stays(gate, noised, evaluation=[*good, group("sex=male", n=60, events=25, **note)])
    stays(gate, noised, evaluation=good, differences=[difference()])
    stays(gate, noised, evaluation=good, contributions=[contribution()])
    stays(gate, noised, evaluation=good, curves=[curve()])
    stays(gate, noised, evaluation=good, described=[told()])
    stays(gate, noised, evaluation=good, flow=[flow("judged", 100)])
