"""A study's whole price at a site, and whose limit is the stricter one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_client.payment import Payments
from fl_client.privacy.chain import Purpose
from fl_shared.accounting import Event, epsilon
from fl_shared.budget import budget
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import Site
from fl_shared.study import Study, load_study
from fl_shared.wire import Request

PARTS = """recalibrate = true
recalibrate_epsilon = 0.5
epsilon = 2.0
[statistics]
tasks = ["death"]
epsilon = 0.7
"""
SCHEMA = {"fusion.w": ((3,), "float32")}


def base(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def pay(payments: Payments, study: Study, purpose: Purpose = "training", *, round: int = 0, start: int = 0) -> float:
    """One release, paid and committed; its sigma."""
    kind = {"training": "train", "statistics": "statistics", "recalibration": "recalibrate", "evaluation": "evaluate"}
    request = Request.model_validate(
        {"kind": kind[purpose], "study": study.identity, "round": round, "base": base(start)}
    )
    seq, sigma = payments.reserve(request, study, SCHEMA, purpose=purpose)
    payments.commit(seq)
    return sigma


def whole(payments: Payments, study: Study) -> None:
    """Everything that a study releases of training patients, in order."""
    if study.statistics is not None:
        pay(payments, study, "statistics")
    for number in range(1, study.training.rounds + 1):
        pay(payments, study, round=number, start=number)
    if study.evaluation.recalibrate:
        pay(payments, study, "recalibration", round=study.training.rounds, start=99)


@pytest.fixture
def study(write_study: Callable[..., Path]) -> Study:
    return load_study(write_study(extra=PARTS))


@pytest.fixture
def payments(make_site: Callable[..., Site]) -> Payments:
    return Payments(make_site(cap=20.0))


def test_a_whole_study_ends_just_below_its_budget(payments: Payments, study: Study) -> None:
    whole(payments, study)
    spent = payments.spent(study)
    assert 0.97 * 8.0 < spent <= 8.0
    parts = budget(study, "drum_tower", delta=1e-5)
    events = [event for event in (parts.statistics, parts.training, parts.recalibration) if event is not None]
    assert len(events) == 3 and spent == pytest.approx(epsilon(events, delta=1e-5), rel=1e-9)
    alone = [epsilon([event], delta=1e-5) for event in events]
    assert alone[0] == pytest.approx(0.7, abs=2e-3) and alone[2] == pytest.approx(0.5, abs=2e-3)
    for again, number in (("recalibration", 98), ("training", 97)):  # nothing more of the same patients
        with pytest.raises(ConsiliumError, match="study's budget is 8") as caught:
            pay(payments, study, again, round=2, start=number)  # type: ignore[arg-type]
        assert caught.value.code is ExitCode.PRIVACY
    assert payments.spent(study) == spent


def test_judged_patients_have_a_budget_of_their_own(payments: Payments, study: Study) -> None:
    whole(payments, study)
    sigmas = [pay(payments, study, "evaluation", round=2, start=number) for number in (1, 2)]  # raw, recalibrated
    event = Event(1.0, sigmas[0], 2)
    assert 0.97 * 2.0 < epsilon([event], delta=1e-5) <= 2.0
    with pytest.raises(ConsiliumError, match="study's budget is 2"):
        pay(payments, study, "evaluation", round=2, start=3)
    parts = budget(study, "drum_tower", delta=1e-5)
    every = [parts.training, parts.statistics, parts.recalibration, event]
    assert payments.spent() == pytest.approx(epsilon([e for e in every if e is not None], delta=1e-5), rel=1e-9)


@pytest.mark.parametrize("purpose", ["training", "statistics", "recalibration", "evaluation"])
def test_the_cap_counts_every_purpose_of_every_study(
    make_site: Callable[..., Site], study: Study, purpose: Purpose
) -> None:
    """The first study leaves the cohort less than the second one's smallest part costs."""
    payments = Payments(make_site(cap=8.001))
    whole(payments, study)
    other = Study.model_validate(study.model_dump(mode="json", by_alias=True) | {"name": "second"})
    with pytest.raises(ConsiliumError, match=r"site's cap is 8(\.001)?"):
        pay(payments, other, purpose, round=1)
    assert payments.spent(other) == 0 and payments.spent() <= 8.001


@pytest.mark.parametrize(("cap", "ended"), [(20.0, 0), (6.0, 1)])
def test_the_stricter_limit_wins(make_site: Callable[..., Site], study: Study, cap: float, ended: int) -> None:
    payments, refused = Payments(make_site(cap=cap)), []
    try:
        whole(payments, study)
    except ConsiliumError as error:
        refused.append(str(error))
    assert len(refused) == ended and payments.spent() <= min(cap, 8.0)
    assert all("site's cap is 6" in text for text in refused)


def test_the_stricter_delta_wins(make_site: Callable[..., Any], study: Study) -> None:
    site = make_site(cap=20.0)
    strict = site.model_copy(update={"privacy": site.privacy.model_copy(update={"delta": 1e-7})})
    payments = Payments(strict)
    whole(payments, study)
    assert 0.97 * 8.0 < payments.spent(study) <= 8.0  # at 1e-7: more noise than the study alone asks
    assert payments.delta(study) == 1e-7
    sigma = budget(study, "drum_tower", delta=1e-5).training
    planned = budget(study, "drum_tower", delta=1e-7).training
    assert sigma is not None and planned is not None and planned.sigma > sigma.sigma
