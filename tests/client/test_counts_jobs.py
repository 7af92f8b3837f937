"""Statistics, recalibration and noised judging at the door: paid once, the same bytes again, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_client.egress import EgressRefusedError
from fl_client.outbox import Outbox
from fl_client.payment import Payments
from fl_client.privacy.ledger import Ledger
from fl_shared.budget import budget
from fl_shared.counts import recalibration_schema, risk_sensitivity, statistics_schema
from fl_shared.metrics.noised import noised_note
from fl_shared.results import Curve, EvaluationRow, Findings
from fl_shared.wire import Code, from_npy

COUNTED = '[statistics]\nmodalities = ["ehr"]\ntasks = ["death"]\n'
BIAS = "heads.death.linear.bias"


@pytest.fixture
def counting(make_house: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A house whose study counts, recalibrates, and (``epsilon``) judges with noise; its model has an intercept."""

    def make(*, mode: str = "patient", epsilon: float | None = None, **site: Any) -> Any:
        private = mode == "patient"
        evaluation = "recalibrate = true\n" + ("recalibrate_epsilon = 1.0\n" if private else "")
        evaluation += f"epsilon = {epsilon}\n" if epsilon else ""
        statistics = COUNTED + ("epsilon = 1.0\n" if private else "")
        house = make_house(mode=mode, extra=evaluation + statistics, site={"open": not private, **site})
        schema = {BIAS if n == "heads.death.bias" else n: spec for n, spec in schemas(house).SCHEMA.items()}
        monkeypatch.setattr(schemas(house), "SCHEMA", schema)
        return house

    return make


def schemas(house: Any) -> Any:
    """The module that holds the stub's schema."""
    return sys.modules[type(house.pool).__module__]


def ask(house: Any, kind: str, **changes: Any) -> Any:
    if kind == "statistics":
        return house.ask(kind, arrays={}, round=0, **changes)
    return house.ask(kind, **({"round": 2} | changes))


@pytest.mark.parametrize("kind", ["statistics", "recalibrate"])
def test_counts_leave_noised_paid_for_and_once(kind: str, counting: Any) -> None:
    house = counting()
    reply, first = ask(house, kind)
    assert reply.status == "ok"
    schema = statistics_schema(house.study) if kind == "statistics" else recalibration_schema(house.study, ["death"])
    assert {n: (from_npy(b).shape, str(from_npy(b).dtype)) for n, b in first.items()} == schema
    purpose = {"statistics": "statistics", "recalibrate": "recalibration"}[kind]
    rows = house.ledger()
    assert [(r["purpose"], r["state"], r["q"], r["steps"]) for r in rows] == [
        (purpose, "RESERVED", 1.0, 1), (purpose, "COMMITTED", 1.0, 1)
    ]  # fmt: skip
    plan = getattr(budget(house.study, "drum_tower", delta=1e-5), purpose)
    assert rows[0]["sigma"] == plan.sigma and house.pool.counted == [(kind, plan.sigma)]
    assert rows[0]["clip"] == pytest.approx(2**0.5)  # age and death; the logits of death and its events
    assert reply.epsilon == pytest.approx(rows[0]["eps_after"]) and 0.8 < reply.epsilon <= 1.0

    house.restart()
    again, second = ask(house, kind)
    assert (second, again.epsilon, len(house.ledger()), len(house.pool.counted)) == (first, reply.epsilon, 2, 1)
    log = [row["action"] for row in house.service._desk.egress.log.rows()]
    assert log == [f"release-{kind}"] * 2


def test_another_model_is_another_release_and_ends_at_the_budget(counting: Any) -> None:
    house = counting(cap=100.0)
    assert [ask(house, "train", round=r)[0].status for r in (1, 2)] == ["ok", "ok"]
    answers = [ask(house, "recalibrate", arrays=house.base(k))[0] for k in range(4)]
    codes = [a.code for a in answers]
    assert codes[0] is None and codes[-1] is Code.BUDGET
    assert max(a.epsilon for a in answers if a.epsilon is not None) <= 8.0


@pytest.mark.parametrize("kind", ["statistics", "recalibrate"])
@pytest.mark.parametrize("where", ["reserve", "count", "outbox", "commit", "release"])
def test_a_kill_anywhere_spends_what_left_or_may_have_left(
    kind: str, where: str, counting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> Any:
        raise Killed

    house = counting()
    with monkeypatch.context() as patch:
        if where == "reserve":
            patch.setattr(Payments, "reserve", killed)
        elif where == "count":
            patch.setattr(type(house.pool), "statistics" if kind == "statistics" else "recalibration", killed)
            patch.setattr(Ledger, "void", killed)  # a process that dies voids nothing
        elif where == "outbox":
            patch.setattr(Outbox, "put_counts", killed)
            patch.setattr(Ledger, "void", killed)
        elif where == "commit":
            patch.setattr(Ledger, "commit", killed)
        else:
            patch.setattr(type(house.service._desk.egress), "release_arrays", killed)
        with pytest.raises(Killed):
            ask(house, kind)
    made = len(house.pool.counted)
    house.restart()
    reply, out = ask(house, kind)
    assert reply.status == "ok"
    reservations = [row for row in house.ledger() if row["state"] == "RESERVED"]
    # what stands in the outbox is served; what does not is paid anew, and the first payment stays
    assert len(reservations) == (2 if where in ("count", "outbox") else 1)
    assert len(house.pool.counted) == (made if where in ("commit", "release") else made + 1)
    assert reply.epsilon >= 0.8
    assert ask(house, kind)[1] == out


def test_what_was_not_asked_for_by_the_study_is_refused(counting: Any, make_house: Any) -> None:
    plain = make_house()
    assert ask(plain, "statistics")[0].code is Code.BAD_REQUEST
    assert ask(plain, "recalibrate")[0].code is Code.BAD_REQUEST
    house = counting()
    assert house.ask("statistics", arrays={}, round=1)[0].code is Code.BAD_REQUEST
    assert house.ask("statistics", arrays=house.base(), round=0)[0].code is Code.WRONG_SCHEMA
    assert ask(house, "recalibrate", round=3)[0].code is Code.BAD_REQUEST
    assert ask(house, "recalibrate", initial="2" * 64)[0].code is Code.INITIAL_DIFFERS
    assert ask(house, "recalibrate", arrays={})[0].code is Code.WRONG_SCHEMA
    assert house.ledger() == [] and house.pool.counted == []
    outside = counting(mode="none")
    external = make_house(role="external", mode="none", extra="recalibrate = true\n" + COUNTED, site={"open": True})
    assert {ask(external, kind)[0].code for kind in ("statistics", "recalibrate")} == {Code.WRONG_ROLE}
    assert ask(outside, "statistics")[0].status == "ok"


def test_a_model_without_an_intercept_of_its_own_is_not_counted(counting: Any, monkeypatch: Any) -> None:
    house = counting()
    module = schemas(house)
    monkeypatch.setattr(module, "SCHEMA", {n: s for n, s in module.SCHEMA.items() if n != BIAS})
    assert ask(house, "recalibrate", arrays=house.base(prefixes=("fusion.",)))[0].code is Code.EGRESS
    assert house.ledger() == []


@pytest.mark.parametrize("kind", ["statistics", "recalibrate"])
def test_exact_counts_pass_the_gate_without_small_cells_only(kind: str, counting: Any) -> None:
    house = counting(mode="none")
    house.pool.count = lambda schema: {n: np.full(s, 10, d) for n, (s, d) in schema.items()}
    reply, out = ask(house, kind)
    assert (reply.status, reply.epsilon, house.ledger()) == ("ok", None, []) and house.pool.counted == [(kind, None)]
    assert ask(house, kind)[1] == out and len(house.pool.counted) == 1

    for value, code in ((9, Code.TOO_FEW), (-1, Code.TOO_FEW), (0, Code.TOO_FEW)):
        other = counting(mode="none")
        for kept in (other.site.state_dir / "outbox").rglob("*.safetensors"):
            kept.unlink()
        other.pool.count = lambda schema, v=value: {n: np.full(s, v, d) for n, (s, d) in schema.items()}
        reply, out = ask(other, kind)
        assert (reply.code, out) == (code, {})


def test_exact_logits_are_told_of_two_models_only(counting: Any) -> None:
    house = counting(mode="none")
    codes = [ask(house, "recalibrate", arrays=house.base(k))[0].code for k in (0, 1, 2, 0)]
    assert codes == [None, None, Code.EGRESS, None]


@pytest.mark.parametrize("wrong", ["shape", "dtype", "name"])
def test_counts_that_do_not_fit_the_study_stay(wrong: str, counting: Any) -> None:
    house = counting()

    def spoiled(schema: Any) -> Any:
        made = {n: np.full(s, 20, d) for n, (s, d) in schema.items()}
        name = next(iter(made))
        if wrong == "name":
            return made | {"patients": np.zeros(3, np.int64)}
        return made | {name: made[name][:-1] if wrong == "shape" else made[name].astype(np.float64)}

    house.pool.count = spoiled
    reply, out = ask(house, "statistics")
    assert (reply.code, out) == (Code.EGRESS, {})
    assert [row["state"] for row in house.ledger()] == ["RESERVED", "VOID"]  # it stays paid
    house.pool.count = None
    assert ask(house, "statistics")[0].status == "ok"


def row(metric: str = "auroc", **more: Any) -> EvaluationRow:
    body = {
        "site": "drum_tower", "role": "train", "task": "death", "label": "", "modalities": "all", "model": "federated",
        "metric": metric, "value": 0.7, "ci_low": 0.6, "ci_high": 0.8, "n": 50, "events": 20, "note": noised_note(3.0),
    }  # fmt: skip
    return EvaluationRow.model_validate(body | more)


def test_judging_with_noise_is_paid_from_the_judged_patients_epsilon(counting: Any) -> None:
    house = counting(epsilon=3.0)
    house.pool.rows = [row()]
    reply, _ = house.ask("evaluate", round=2)
    assert reply.evaluation == tuple(house.pool.rows)
    (reserved, committed) = house.ledger()
    assert (reserved["purpose"], committed["state"]) == ("evaluation", "COMMITTED")
    plan = budget(house.study, "drum_tower", delta=1e-5).evaluation
    assert house.pool.judged == [("federated", plan.sigma)] and reserved["clip"] == risk_sensitivity(house.study)
    assert reply.epsilon == 0.0  # training patients paid nothing
    assert house.ask("evaluate", round=2)[0].evaluation == reply.evaluation and len(house.ledger()) == 2

    house.pool.rows = [row(model="recalibrated")]
    second, _ = house.ask("evaluate", round=2, arrays=house.base(1.0), model="recalibrated")
    assert second.evaluation[0].model == "recalibrated" and house.pool.judged[-1] == ("recalibrated", plan.sigma)
    third, _ = house.ask("evaluate", round=2, arrays=house.base(2.0))
    assert third.code is Code.BUDGET and len(house.pool.judged) == 2
    assert house.ask("evaluate", round=1)[0].code is Code.LEDGER  # the same model under another round's name


@pytest.mark.parametrize(
    "told",
    [
        {"note": ""},
        {"note": noised_note(2.0)},
        {"metric": "auprc"},
        {"metric": "calibration_slope"},
    ],
)
def test_an_exact_result_cannot_leave_where_noise_was_promised(told: dict[str, Any], counting: Any) -> None:
    house = counting(epsilon=3.0)
    house.pool.rows = [row(**told)]
    assert house.ask("evaluate", round=2)[0].code is Code.EGRESS
    house.pool.rows = [row()]
    house.pool.curves = [
        Curve(site="drum_tower", task="death", label="", modalities="all", kind="roc", x=(0.0, 1.0), y=(0.0, 1.0))
    ]
    assert house.ask("evaluate", round=2)[0].code is Code.EGRESS


def test_calibration_that_tells_withheld_events_stays(make_house: Any) -> None:
    house = make_house(mode="none", site={"open": True})
    gate = house.service._desk.egress
    hidden = row("expected_observed", value=1.1, ci_low=0.9, ci_high=1.3, events=None, note="")
    with pytest.raises(EgressRefusedError, match="withheld number of events"):
        gate.check_findings(told([hidden], []), study=house.study, min_patients=10)
    gate.check_findings(told([hidden.model_copy(update={"events": 20})], []), study=house.study, min_patients=10)
    auroc = {"metric": "auroc", "value": 0.7, "ci_low": 0.6, "ci_high": 0.8}
    gate.check_findings(told([hidden.model_copy(update=auroc)], []), study=house.study, min_patients=10)


def test_curves_of_two_models_stand_beside_each_other(make_house: Any) -> None:
    house = make_house(mode="none", site={"open": True})
    models = ("federated", "recalibrated")
    rows = [row(model=m, note="") for m in models]
    place = {"site": "drum_tower", "task": "death", "label": "", "modalities": "all", "kind": "calibration"}
    curves = [Curve(**place, model=m, x=(0.1, 0.5), y=(0.2, 0.4)) for m in models]
    gate = house.service._desk.egress
    gate.check_findings(told(rows, curves), study=house.study, min_patients=10)
    with pytest.raises(EgressRefusedError, match="twice"):
        gate.check_findings(told(rows, [*curves, curves[0]]), study=house.study, min_patients=10)
    with pytest.raises(EgressRefusedError, match="without a released value"):
        gate.check_findings(told(rows[:1], curves), study=house.study, min_patients=10)


def test_the_outbox_is_replayed_for_an_officer(counting: Any, tmp_path: Path) -> None:
    from fl_client.egress_log import replay

    house = counting()
    for kind in ("statistics", "recalibrate"):
        ask(house, kind)
    found = replay(house.site)
    assert (found.rows, found.matched, found.never_left) == (2, 2, ())


def told(rows, curves) -> Findings:
    return Findings(evaluation=tuple(rows), curves=tuple(curves))
