"""What a missing modality costs is read from the results, and not guessed."""

from __future__ import annotations

import pytest

from fl_client.bedside.costs import costs_of, members
from fl_client.bedside.targets import Target
from fl_shared.results import Contribution, EvaluationRow

DEATH = Target(task="death", label="", kind="risk")


@pytest.fixture
def results(drawn):
    return drawn.opened().bundle.results


def test_the_external_hospital_with_and_without(results, study):
    found = costs_of(results, study, DEATH, missing=("cine", "text"), model="federated")
    (cost,) = found.costs
    assert (found.title, cost.site, cost.external, cost.missing) == ("AUROC", "south", True, ("cine", "text"))
    assert (cost.whole.value, cost.without.value, cost.without.low) == (0.81, 0.74, pytest.approx(0.64))


@pytest.mark.parametrize("missing", [("ecg",), ()])
def test_what_was_not_judged_is_not_told(results, study, missing):
    assert costs_of(results, study, DEATH, missing=missing, model="federated").costs == ()
    assert costs_of(results, study, DEATH, missing=("cine", "text"), model="recalibrated").costs == ()


def test_a_metric_without_its_interval_is_not_told(results, study):
    bare = [row.model_copy(update={"ci_low": None}) for row in results.evaluation]
    given = results.model_copy(update={"evaluation": tuple(bare)})
    found = costs_of(given, study, DEATH, missing=("cine", "text"), model="federated")
    assert found.costs == ()


def test_of_a_time_to_an_event_the_rank_of_all_times_counts(results, study):
    def row(name: str, value: float) -> EvaluationRow:
        return results.evaluation[0].model_copy(
            update={"task": "survival", "metric": "harrell_c", "modalities": name, "value": value}
        )

    given = results.model_copy(update={"evaluation": (row("all", 0.7), row("cine+ecg+ehr", 0.6))})
    target = Target(task="survival", label="", kind="risk", day=365.0)
    (cost,) = costs_of(given, study, target, missing=("text",), model="federated").costs
    assert (cost.whole.value, cost.without.value) == (0.7, 0.6)


def test_contributions_of_the_missing_are_told(results, study):
    body = {"site": "south", "role": "external", "task": "death", "label": "", "model": "federated", "metric": "auroc"}
    cine, ecg = (
        Contribution(**body, modality=name, value=0.04, ci_low=0.01, ci_high=0.07, n=60) for name in ("cine", "ecg")
    )
    given = results.model_copy(update={"contributions": (cine, ecg)})
    assert costs_of(given, study, DEATH, missing=("cine",), model="federated").shares == (cine,)


def test_names_of_sets(study):
    assert members(study, "all") == {"cine", "ecg", "ehr", "text"} == members(study, "headline")
    assert members(study, "ecg+ehr") == {"ecg", "ehr"} and members(study, "ecg") == {"ecg"}
