"""A site tells of a round once, of a round in which it took part, and never more than the light form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fl_client.egress_log import released, replay
from fl_client.jobs.judging import EXTRA
from fl_shared.results import EvaluationRow, Findings
from fl_shared.wire import Code

OPEN = {"mode": "none", "site": {"open": True}}
EVERY = "every = 1\n"


def row(**changes: Any) -> EvaluationRow:
    body = {
        "site": "drum_tower", "role": "train", "task": "death", "label": "", "modalities": "all", "model": "federated",
        "metric": "auroc", "value": 0.7, "ci_low": 0.6, "ci_high": 0.8, "n": 50, "events": 20,
    }  # fmt: skip
    return EvaluationRow.model_validate(body | changes)


@pytest.fixture
def make(make_house: Callable[..., Any]) -> Callable[..., Any]:
    """A house whose trainer tells ``rows`` and notes the rounds that it was asked of."""

    def house(*rows: EvaluationRow, extra: str = EVERY, **more: Any) -> Any:
        made = make_house(**(OPEN | more), extra=extra)
        made.asked = []

        def learned(study: Any, *, round: int, arrays: Any, deadline: float) -> Findings:
            made.asked.append((round, sorted(arrays)))
            return Findings(evaluation=rows or (row(),))

        made.pool.learned = learned
        return made

    return house


def test_a_round_in_which_the_site_took_part(make: Callable[..., Any]) -> None:
    house = make()
    reply, _ = house.ask("learning")
    assert (reply.status, reply.code, house.asked) == ("refused", Code.EGRESS, [])
    assert house.ask("train")[0].status == "ok"
    reply, out = house.ask("learning", arrays=house.base(1.0))
    assert (reply.status, reply.evaluation, out) == ("ok", (row(),), {})
    assert house.asked == [(1, ["fusion.proj.weight", "heads.death.bias"])]  # encoders are the site's own
    assert house.ask("learning", round=2)[0].code is Code.EGRESS  # not that far yet


def test_a_repeat_tells_the_same_and_another_model_nothing(make: Callable[..., Any]) -> None:
    house = make()
    house.ask("train")
    first, _ = house.ask("learning", arrays=house.base(1.0))
    house.restart()
    again, _ = house.ask("learning", arrays=house.base(1.0))
    assert first.evaluation == again.evaluation and len(house.asked) == 1
    other, _ = house.ask("learning", arrays=house.base(2.0))
    assert (other.code, other.evaluation, len(house.asked)) == (Code.EGRESS, (), 1)
    log = [(r.what, r.round, r.sha256) for r in released(house.site) if r.what == "learning"]
    assert len(log) == 2 and len(set(log)) == 1
    assert replay(house.site).matched == 3
    kept = next((house.site.state_dir / "outbox").glob("*/learning_1-*.json"))
    kept.write_text(kept.read_text().replace("0.7", "0.71"))
    with pytest.raises(Exception, match="does not hold"):
        replay(house.site)


def test_learning_leaves_room_for_the_evaluation_and_no_more_models_than_before(make: Callable[..., Any]) -> None:
    house = make()
    house.pool.rows = [row()]
    told = [house.ask("evaluate", arrays=house.base(float(value)), round=2)[0] for value in range(EXTRA + 1)]
    assert [reply.status for reply in told] == ["ok"] * EXTRA + ["refused"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"round": 3}, Code.BAD_REQUEST),
        ({"round": 0}, Code.BAD_REQUEST),
        ({"initial": "2" * 64}, Code.INITIAL_DIFFERS),
        ({"base": "2" * 64}, Code.BAD_REQUEST),
    ],
)
def test_what_is_no_such_request(make: Callable[..., Any], request_: dict[str, Any], code: Code) -> None:
    house = make()
    house.ask("train")
    reply, _ = house.ask("learning", **request_)
    assert (reply.code, house.asked) == (code, [])


def test_a_study_without_curves_is_not_asked(make: Callable[..., Any]) -> None:
    house = make(extra="")
    house.ask("train")
    assert house.ask("learning")[0].code is Code.BAD_REQUEST
    assert house.ask("learning", arrays=house.base(prefixes=("fusion.",)))[0].code is Code.BAD_REQUEST


def test_an_external_site_is_never_asked(make: Callable[..., Any]) -> None:
    house = make(role="external")
    reply, _ = house.ask("learning")
    assert (reply.code, house.asked) == (Code.WRONG_ROLE, [])


@pytest.mark.parametrize(
    "rows",
    [
        (row(), row(metric="brier")),
        (row(), row(subgroup="sex=female")),
        (row(), row(model="personal")),
        (row(modalities="ehr"),),
        (row(), row()),
        (row(site="other"),),
        (row(role="external"),),
        (row(value=0.70001),),
        (row(n=9, events=None),),
        (row(events=3),),
    ],
    ids=["metric", "subgroup", "model", "inputs", "twice", "site", "role", "digits", "cohort", "cell"],
)
def test_the_gate_lets_nothing_else_out(make: Callable[..., Any], rows: tuple[EvaluationRow, ...]) -> None:
    house = make(*rows)
    house.ask("train")
    reply, _ = house.ask("learning")
    assert reply.status != "ok" and reply.evaluation == ()
    assert [r.what for r in released(house.site)] == ["train"]


def test_under_privacy_held_out_patients_pay_nothing(make: Callable[..., Any]) -> None:
    house = make(mode="patient", site={})
    before = house.ask("train")[0].epsilon
    reply, _ = house.ask("learning")
    assert (reply.status, reply.epsilon) == ("ok", before)
    assert len(house.ledger()) == 2
