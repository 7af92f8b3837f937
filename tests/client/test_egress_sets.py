"""Arithmetic over told numbers of samples of several sets of modalities."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from fl_client.egress import Egress, EgressRefusedError
from fl_shared.between import small, tells_small
from fl_shared.results import EvaluationRow, Findings
from fl_shared.site import Site
from fl_shared.study import Study, load_study
from fl_shared.wire import Code

MODALITIES = """
subsets = "every"
subgroups = ["paired"]
[modalities.ecg]
kind = "embedding"
features = 4
[modalities.note]
kind = "text"
leaky = true
"""


@pytest.fixture
def study(write_study: Any) -> Study:
    """Of ehr, ecg and a leaky note: the headline is ehr and ecg."""
    return load_study(write_study(mode="none", extra=MODALITIES))


def row(modalities: str, n: int | None, events: int | None = None, **changes: Any) -> EvaluationRow:
    body = {
        "site": "drum_tower", "role": "train", "task": "death", "label": "", "model": "federated", "metric": "auroc",
        "value": 0.7, "ci_low": 0.6, "ci_high": 0.8, "modalities": modalities, "n": n, "events": events,
    }  # fmt: skip
    return EvaluationRow.model_validate(body | changes)


@pytest.mark.parametrize(
    ("told", "tells"),
    [
        ({"all": (100, 40), "ecg": (100, 40)}, False),
        ({"all": (100, 40), "ecg": (91, None)}, True),
        ({"all": (100, 40), "ecg": (90, None)}, False),
        ({"all": (100, 40), "ecg": (101, None)}, True),  # more than the whole
        ({"all": (100, 40), "ecg": (100, 39)}, True),
        ({"all": (100, 40), "ecg": (70, 31)}, True),  # 9 of 30 with the event
        ({"all": (100, 40), "ecg": (70, 30)}, False),
        ({"all": (100, 40), "ecg": (70, 20)}, False),
        ({"all": (100, 40), "ecg": (70, 19)}, True),  # 9 of 30 without
        ({"all": (100, 40), "headline": (95, None)}, True),
        ({"headline": (100, None), "ecg": (95, None)}, True),
        ({"ecg": (100, None), "ehr": (95, None)}, False),  # neither is within the other
        ({"headline": (100, None), "ecg": (60, None), "ehr": (49, None)}, True),  # 9 have both
        ({"headline": (100, None), "ecg": (60, None), "ehr": (50, None)}, False),
        ({"headline": (100, None), "ecg": (60, None), "ehr": (40, None)}, False),  # nobody has
        ({"headline": (100, None), "ecg": (60, None), "ehr": (39, None)}, True),
        ({"headline": (100, 50), "ecg": (60, 20), "ehr": (60, 39)}, True),  # both: 20, 9 with the event
        ({"all": (100, None), "ecg": (60, None), "ehr": (45, None)}, False),  # not of these two alone
        ({"all": (100, None), "headline": (60, None), "note": (45, None)}, True),
        ({"ecg": (60, None), "paired=yes": (55, None)}, True),
        ({"ecg": (60, None), "paired=yes": (50, None)}, False),
        ({"ecg": (60, None), "headline": (100, None), "paired=no": (45, None)}, True),  # yes: 55
        ({"note": (60, None), "paired=yes": (55, None)}, False),  # of other samples
    ],
)
def test_what_follows_from_numbers_of_sets(study: Study, told: dict[str, Any], tells: bool) -> None:
    assert small(told, study, least=10) == tells
    names = {"paired=yes": "headline", "paired=no": "headline"}
    rows = [row(names.get(k, k), *told[k], subgroup=k if k in names else "") for k in told]
    assert tells_small(rows, study, least=10) == tells


def test_numbers_are_of_one_task_and_label_and_of_all_models(study: Study) -> None:
    near = [row("all", 100), row("ecg", 95, model="personal")]
    assert not tells_small(near, study, least=10)  # sets that are not told of one model
    assert tells_small([*near, row("ecg", 100)], study, least=10)  # 100 and 95 of the same samples
    assert not tells_small([row("all", 100), row("ecg", 85)], study, least=15)
    assert tells_small([row("all", 100), row("ecg", 86)], study, least=15)
    assert not tells_small([row("all", 100), row("ecg", None)], study, least=10)


def test_sets_between_one_and_all_are_of_the_samples_of_all(study: Study) -> None:
    assert tells_small([row("all", 100), row("ehr+note", 95)], study, least=10)
    assert not tells_small([row("all", 100), row("ehr+note", 100)], study, least=10)


@pytest.mark.parametrize(("n", "stays"), [(100, False), (99, True), (91, True), (90, False)])
def test_the_gate_keeps_numbers_that_tell_who_lacks_a_modality(
    study: Study, make_site: Callable[..., Site], n: int, stays: bool
) -> None:
    site = make_site()
    site.state_dir.mkdir(exist_ok=True)
    near = "n as told of other inputs: fewer than 10 patients apart" if n == 100 else ""
    found = Findings(evaluation=(row("headline", 100, 40), row("all", 100, 40), row("ecg", n, note=near)))
    check = partial(Egress(site).check_findings, found, study=study, min_patients=10)
    if stays:
        with pytest.raises(EgressRefusedError) as error:
            check()
        assert error.value.code is Code.TOO_FEW
    else:
        check()
