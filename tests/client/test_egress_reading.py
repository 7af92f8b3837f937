"""Attention, the worth of groups of fields, paired subgroups and one hidden modality: what of them stays at a site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fl_client.egress import Egress, EgressRefusedError
from fl_shared.results import Attention, EvaluationRow, Findings, Importance
from fl_shared.study import Study, load_study
from fl_shared.wire import Code

ASKED = """
subsets = "every"
hidden = [0.5, 1.0]
hidden_of = ["ecg"]
subgroups = ["paired"]
[evaluation.feature_groups]
frame = ["sodium"]
[tasks.ef]
type = "regression"
[modalities.ecg]
kind = "waveform"
leads = ["I"]
rate = 50
seconds = 2
[modalities.icu]
kind = "events"
fields = ["sodium", "heart_rate"]
hours = 24.0
[modalities.note]
kind = "text"
leaky = true
"""
HERE = {"site": "drum_tower", "role": "train", "model": "federated"}
OF = HERE | {"task": "death", "label": "", "metric": "auroc"}
GIVEN = {"value": 0.7, "ci_low": 0.6, "ci_high": 0.8, "n": 100}
NOTHING = {"value": None, "ci_low": None, "ci_high": None, "note": "suppressed: fewer than 10 patients"}


@pytest.fixture
def gate(make_site: Any) -> Egress:
    site = make_site()
    site.state_dir.mkdir()
    return Egress(site)


@pytest.fixture
def study(write_study: Callable[..., Any]) -> Study:
    return load_study(write_study(mode="none", extra=ASKED))


def row(**changes: Any) -> EvaluationRow:
    return EvaluationRow.model_validate(OF | GIVEN | {"modalities": "headline", "events": 40} | changes)


def worth(**changes: Any) -> Importance:
    return Importance.model_validate(OF | GIVEN | {"group": "frame", "value": 0.05, "ci_low": -0.01} | changes)


def part(modality: str, value: float, /, **changes: Any) -> Attention:
    body = HERE | {"modality": modality, "value": value, "ci_low": value, "ci_high": value, "n": 100}
    return Attention.model_validate(body | changes)


ICU = part("icu", 0.1)
ALL = [part("ecg", 0.6), part("ehr", 0.3), ICU]


def leaves(gate: Egress, study: Study, **parts: Any) -> None:
    found = Findings.model_validate({name: tuple(each) for name, each in parts.items()})
    assert gate.release_findings(found, study=study, round=1, min_patients=10) == found


def stays(gate: Egress, study: Study, code: Code | None = None, **parts: Any) -> None:
    found = Findings.model_validate({name: tuple(each) for name, each in parts.items()})
    with pytest.raises(EgressRefusedError) as error:
        gate.release_findings(found, study=study, round=1, min_patients=10)
    assert code in (None, error.value.code)
    assert list(gate.log.rows()) == []


def test_what_a_study_asks_for_leaves(gate: Egress, study: Study) -> None:
    groups = [row(subgroup="paired=yes", n=70, events=25), row(subgroup="paired=no", n=30, events=15)]
    hidden = [row(subgroup="hidden=0.5", value=0.65), row(subgroup="hidden=1", value=0.61)]
    leaves(gate, study, evaluation=[row(), *groups, *hidden], importance=[worth()], attention=ALL)
    leaves(gate, study, evaluation=[row()], importance=[worth(**NOTHING)])
    leaves(gate, study, evaluation=[row()], attention=[part(m, 0.0, **NOTHING) for m in ("ecg", "ehr", "icu")])


def test_nothing_leaves_that_a_study_does_not_ask_for(gate: Egress, write_study: Callable[..., Any]) -> None:
    lines = ASKED[ASKED.index("[tasks.ef]") :]
    plain = load_study(write_study(mode="none", extra=lines))
    stays(gate, plain, evaluation=[row()], attention=ALL)
    stays(gate, plain, evaluation=[row()], importance=[worth()])
    stays(gate, plain, evaluation=[row(), row(subgroup="paired=yes", n=70, events=25)])
    stays(gate, plain, evaluation=[row(), row(subgroup="hidden=1")])


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ([row(subgroup="paired=partial", n=70, events=25)], Code.EGRESS),
        ([row(subgroup="paired=yes", n=95, events=30)], Code.TOO_FEW),  # 5 are left
        ([row(subgroup="paired=yes", n=70, events=9)], Code.TOO_FEW),
        ([row(subgroup="paired=yes", n=70, events=31)], Code.TOO_FEW),  # 9 events are left
        ([row(subgroup="paired=no", n=9, events=None)], Code.TOO_FEW),
        ([row(subgroup="hidden=0.75")], Code.EGRESS),
        ([row(subgroup="hidden=1", n=99)], Code.TOO_FEW),
    ],
)
def test_subgroups_that_stay(gate: Egress, study: Study, bad: list[EvaluationRow], code: Code) -> None:
    stays(gate, study, code, evaluation=[row(), *bad])


@pytest.mark.parametrize(
    "changes",
    [
        {"site": "other"}, {"role": "external"}, {"task": "los"}, {"label": "x"}, {"model": "Zhang"},
        {"group": "labs"}, {"metric": "brier"}, {"value": 0.05123}, {"value": 1.2}, {"n": 99}, {"n": None},
        {"note": "Zhang San"}, {"model": "personal"}, {"task": "ef", "metric": "mae"},  # their values were not told
    ],
)  # fmt: skip
def test_worths_that_stay(gate: Egress, study: Study, changes: dict[str, Any]) -> None:
    stays(gate, study, evaluation=[row(), row(modalities="all")], importance=[worth(**changes)])


def test_a_worth_stands_beside_the_headlines_inputs_and_once(gate: Egress, study: Study) -> None:
    stays(gate, study, evaluation=[row(modalities="all")], importance=[worth()])
    stays(gate, study, evaluation=[row()], importance=[worth(), worth(value=0.06)])


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ([part("ecg", 0.6), part("ehr", 0.3), part("note", 0.1)], Code.EGRESS),  # not among the headline's inputs
        ([part("ecg", 0.6), part("ehr", 0.3), part("mri", 0.1)], Code.EGRESS),
        ([part("ecg", 0.6), ICU], Code.TOO_FEW),  # tells the other's
        ([part("ecg", 0.6), part("ehr", 0.3, **NOTHING), ICU], Code.TOO_FEW),
        ([part("ecg", 0.6), part("ehr", 0.2), ICU], Code.EGRESS),
        ([part("ecg", 0.605), part("ehr", 0.295), ICU], Code.EGRESS),
        ([part("ecg", 1.1), part("ehr", -0.2), ICU], Code.EGRESS),
        ([part("ecg", 0.6, ci_low=None), part("ehr", 0.3), ICU], Code.EGRESS),
        ([*ALL, part("ehr", 0.31)], Code.EGRESS),
        ([part("ecg", 0.6, n=99), part("ehr", 0.3), ICU], Code.TOO_FEW),  # 1 sample without a known outcome
        ([part("ecg", 0.6, n=104), part("ehr", 0.3, n=104), part("icu", 0.1, n=104)], Code.TOO_FEW),
        ([part("ecg", 0.6, n=None), part("ehr", 0.3, n=None), part("icu", 0.1, n=None)], Code.TOO_FEW),
        ([part("ecg", 0.6, site="other"), part("ehr", 0.3), ICU], Code.EGRESS),
        ([part("ecg", 0.6, role="external"), part("ehr", 0.3), ICU], Code.EGRESS),
        ([part("ecg", 0.6, model="Zhang"), part("ehr", 0.3), ICU], Code.EGRESS),
        (
            [part(m, v, model="personal") for m, v in (("ecg", 0.6), ("ehr", 0.3), ("icu", 0.1))],
            Code.TOO_FEW,
        ),  # nothing told of it
        ([part("ecg", 0.6, note="Zhang San"), part("ehr", 0.3), ICU], Code.EGRESS),
        ([part("ecg", 0.6, **(NOTHING | {"note": ""})), part("ehr", 0.3, **NOTHING), ICU], Code.EGRESS),
    ],
)
def test_attention_that_stays(gate: Egress, study: Study, bad: list[Attention], code: Code) -> None:
    stays(gate, study, code, evaluation=[row()], attention=bad)


def test_neither_has_a_noised_form(gate: Egress, study: Study, write_study: Callable[..., Any]) -> None:
    for option in ('subsets = "every"', 'feature_groups = { frame = ["sodium"] }', 'subgroups = ["paired"]'):
        more = ASKED[ASKED.index("[tasks.ef]") :]
        with pytest.raises(Exception, match="no noised form"):
            load_study(write_study(mode="none", extra=f"epsilon = 2.0\n{option}\n{more}"))
    noised = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"epsilon": 2.0})})
    good = [row(note="noised: epsilon 2 of the judged patients")]
    stays(gate, noised, evaluation=good, importance=[worth()])
    stays(gate, noised, evaluation=good, attention=ALL)
    leaves(gate, noised, evaluation=good)
