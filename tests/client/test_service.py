from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fl_client.approval import approve
from fl_shared.accounting import Event, epsilon, plan_sigma
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import EvaluationRow
from fl_shared.study import PARTS, load_study
from fl_shared.wire import Code, digest, from_npy, to_npy

PATIENT = "Zhang-San-19570312"


def states(house) -> list[str]:
    return [row["state"] for row in house.ledger()]


def row(**changes) -> EvaluationRow:
    body = {
        "site": "drum_tower", "role": "train", "task": "death", "label": "", "modalities": "all", "model": "federated",
        "metric": "auroc", "value": 0.7, "ci_low": 0.6, "ci_high": 0.8, "n": 50, "events": 20,
    }  # fmt: skip
    return EvaluationRow.model_validate(body | changes)


def test_hello_needs_no_approval(make_house) -> None:
    house = make_house(accept=False)
    reply, out = house.ask("hello", arrays={})
    assert (reply.status, reply.site, reply.approved, reply.role, out) == ("ok", "drum_tower", False, None, {})
    approve(house.site, house.study_path)
    reply, _ = house.ask("hello", arrays={})
    assert (reply.approved, reply.role, reply.epsilon) == (True, "train", 0.0)


def test_train_pays_the_planned_price(make_house) -> None:
    house = make_house()
    reply, out = house.ask("train")
    assert reply.status == "ok"
    assert {n: from_npy(b).shape for n, b in out.items()} == {"fusion.proj.weight": (3, 4), "heads.death.bias": (1,)}
    sigma = plan_sigma(q=0.1, steps=6, epsilon=8.0, delta=1e-5)
    assert house.pool.trained == [(1, sigma)]
    assert reply.epsilon == pytest.approx(epsilon([Event(0.1, sigma, 3)], delta=1e-5))
    assert states(house) == ["RESERVED", "COMMITTED"]


def test_same_request_same_bytes_one_reservation(make_house) -> None:
    house = make_house()
    _, first = house.ask("train")
    house.restart()
    _, second = house.ask("train")
    assert first == second
    assert len(house.pool.trained) == 1
    _, other = house.ask("train", arrays=house.base(1.0))
    assert other != first
    assert states(house) == ["RESERVED", "COMMITTED"] * 2


def test_without_privacy_repeats_are_also_the_same_bytes(make_house) -> None:
    house = make_house(mode="none", site={"open": True})
    first, second = house.ask("train"), house.ask("train")
    assert first == second
    assert first[0].epsilon is None
    assert house.pool.trained == [(1, None)]
    assert house.ledger() == []


def test_concurrent_repeats_queue_and_get_one_update(make_house) -> None:
    house = make_house()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(house.ask("train"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.status for reply, _ in answers] == ["ok"] * 4
    assert all(out == answers[0][1] for _, out in answers)
    assert len(house.pool.trained) == 1


class _Crash(BaseException):
    """The process dies: nothing may tidy up."""


def test_crash_while_computing_is_paid_again(make_house, monkeypatch) -> None:
    house = make_house()

    def crash(base):
        raise _Crash

    house.pool.action = crash
    with monkeypatch.context() as patch:
        patch.setattr("fl_client.payment.Payments.void", lambda self, seq: None)
        with pytest.raises(_Crash):
            house.ask("train")
    assert states(house) == ["RESERVED"]
    house.pool.action = None
    house.restart()
    reply, out = house.ask("train")
    assert reply.status == "ok" and out
    assert states(house) == ["RESERVED", "VOID", "RESERVED", "COMMITTED"]
    sigma = house.pool.trained[0][1]
    assert reply.epsilon == pytest.approx(epsilon([Event(0.1, sigma, 6)], delta=1e-5))


def test_crash_between_outbox_and_commit_sends_the_same_bytes(make_house, monkeypatch) -> None:
    house = make_house()

    def crash(self, seq):
        raise _Crash

    with monkeypatch.context() as patch:
        patch.setattr("fl_client.payment.Payments.commit", crash)
        with pytest.raises(_Crash):
            house.ask("train")
    assert states(house) == ["RESERVED"]
    house.restart()
    reply, _ = house.ask("train")
    assert reply.status == "ok"
    assert len(house.pool.trained) == 1
    assert states(house) == ["RESERVED", "COMMITTED"]


def test_rolled_back_ledger_releases_nothing(make_house) -> None:
    house = make_house()
    ledger, head = (house.site.state_dir / name for name in ("ledger.jsonl", "ledger.head"))
    before = ledger.read_bytes(), head.read_bytes()
    house.ask("train")
    ledger.write_bytes(before[0])
    head.write_bytes(before[1])
    reply, out = house.ask("train")
    assert (reply.code, out) == (Code.LEDGER, {})
    ledger.unlink()
    assert house.ask("train", round=2)[0].code is Code.LEDGER
    with pytest.raises(ConsiliumError) as error:
        house.restart()  # a lost ledger never starts anew
    assert error.value.code is ExitCode.PRIVACY


def test_budget_ends_before_the_exceeding_round(make_house) -> None:
    house = make_house()
    assert [house.ask("train", arrays=house.base(v))[0].code for v in (0.0, 1.0, 2.0)] == [None, None, Code.BUDGET]
    assert len(house.pool.trained) == 2


def test_failure_text_never_leaves_and_still_counts(make_house) -> None:
    house = make_house()

    def fail(base):
        raise RuntimeError(f"bad row of patient {PATIENT}")

    house.pool.action = fail
    reply, out = house.ask("train")
    assert (reply.status, reply.code, out) == ("failed", Code.TRAINER, {})
    assert PATIENT not in reply.model_dump_json()
    assert states(house) == ["RESERVED", "VOID"]
    log = house.site.state_dir / "log.jsonl"
    assert PATIENT in log.read_text() and log.stat().st_mode & 0o077 == 0
    assert house.service.metrics.registry.get_sample_value("fl_client_failures_total", {"kind": Code.TRAINER}) == 1


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (TimeoutError("slow"), "failed", Code.DEADLINE),
        (FloatingPointError("nan"), "failed", Code.NOT_FINITE),
        (ConsiliumError("bad rows", code=ExitCode.DATA), "failed", Code.DATA),
        (MemoryError(), "failed", Code.TRAINER),
    ],
)
def test_errors_become_codes(make_house, error, status, code) -> None:
    house = make_house()

    def fail(base):
        raise error

    house.pool.action = fail
    reply, _ = house.ask("train")
    assert (reply.status, reply.code) == (status, code)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda a: a | {"encoders.ehr.weight": np.zeros((2, 2), np.float32)}, Code.EGRESS),
        (lambda a: {"fusion.proj.weight": a["fusion.proj.weight"]}, Code.EGRESS),
        (lambda a: a | {"heads.death.bias": np.array([np.nan], np.float32)}, Code.NOT_FINITE),
        (lambda a: a | {"heads.death.bias": np.zeros(2, np.float32)}, Code.EGRESS),
        (lambda a: a | {"heads.death.bias": np.zeros(1, np.float64)}, Code.EGRESS),
    ],
)
def test_updates_outside_the_schema_stay(make_house, spoil, code) -> None:
    house = make_house()
    house.pool.action = lambda base: spoil(dict(base))
    reply, out = house.ask("train")
    assert (reply.code, out) == (code, {})
    assert states(house) == ["RESERVED", "VOID"]
    assert not list((house.site.state_dir / "outbox").rglob("*.safetensors"))


def test_roles_hold_whatever_the_server_asks(make_house) -> None:
    house = make_house(role="external")
    assert [house.ask(kind)[0].code for kind in ("train", "encoders")] == [Code.WRONG_ROLE] * 2
    assert house.pool.trained == []


def test_site_that_gave_up_training_refuses(make_house, make_site) -> None:
    house = make_house()
    house.site = make_site(roles='["external"]')  # changed after the approval
    house.restart()
    assert [house.ask(kind)[0].code for kind in ("train", "evaluate")] == [Code.WRONG_ROLE] * 2


def test_site_that_wants_privacy_again_refuses(make_house, make_site) -> None:
    house = make_house(mode="none", site={"open": True})
    house.site = make_site(open=False)
    house.restart()
    assert house.ask("train")[0].code is Code.NO_PRIVACY_FORBIDDEN


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"study": "0" * 64}, Code.NOT_APPROVED),
        ({"study": "../../etc/passwd"}, Code.NOT_APPROVED),
        ({"round": 0}, Code.BAD_REQUEST),
        ({"round": 3}, Code.BAD_REQUEST),
        ({"base": "0" * 64}, Code.BAD_REQUEST),
        ({"initial": "2" * 64}, Code.INITIAL_DIFFERS),
        ({"initial": ""}, Code.INITIAL_DIFFERS),
    ],
)
def test_wrong_requests_are_refused_before_any_work(make_house, changes, code) -> None:
    house = make_house()
    reply, out = house.ask("train", **changes)
    assert (reply.status, reply.code, out) == ("refused", code, {})
    assert house.pool.trained == [] and house.ledger() == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{" * 5000,
        '{"kind":"train"}',
        '{"kind":"shell","study":"x"}',
        '{"kind":"hello","study":"\\ud800"}',
        '{"kind":"train","study":"x","round":"1"}',
        '{"kind":"hello","study":"x","extra":1}',
        '{"kind":"hello","study":1}',
    ],
)
def test_malformed_requests_never_raise(make_house, text) -> None:
    reply = json.loads(make_house().service.handle(text, {})[0])
    assert reply["status"] in {"refused", "ok"}
    assert reply["code"] == Code.BAD_REQUEST or not reply["approved"]


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _lying_header() -> bytes:
    honest = to_npy(np.zeros(1, np.float32))
    return honest.replace(b"(1,), }" + b" " * 11, b"(99999999999,), }" + b" ")


def _zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, np.zeros(1, np.float32))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [_pickled(), _lying_header(), _zipped(), b"", b"\x93NUMPY", to_npy(np.zeros(1)), to_npy(np.zeros(2, np.float32)),
     to_npy(np.zeros(1, ">f4")), to_npy(np.zeros(1, np.float32)) + b"\0", to_npy(np.array([np.inf], np.float32))],
)  # fmt: skip
def test_hostile_arrays_are_refused(make_house, data) -> None:
    house = make_house()
    good = {name: to_npy(array) for name, array in house.base().items()}
    request = {
        "kind": "train",
        "study": house.study.identity,
        "round": 1,
        "base": digest(house.base()),
        "initial": "1" * 64,
    }
    for arrays in (good | {"heads.death.bias": data}, good | {"heads.death.other": data}, {}):
        reply = json.loads(house.service.handle(json.dumps(request), arrays)[0])
        assert reply["code"] == Code.WRONG_SCHEMA
    assert house.ledger() == []


def test_encoders_leave_once_after_the_last_round(make_house) -> None:
    house = make_house()
    assert house.ask("encoders", arrays={}, round=2)[0].code is Code.EGRESS  # no part in the last round yet
    house.ask("train", round=2)
    assert house.ask("encoders", arrays={}, round=1)[0].code is Code.EGRESS
    reply, out = house.ask("encoders", arrays={}, round=2)
    assert reply.status == "ok" and sorted(out) == ["adapters.ehr.weight", "encoders.ehr.weight"]
    house.pool.encoders = None  # the same bytes again, not asked again
    assert house.ask("encoders", arrays={}, round=2)[1] == out


@pytest.mark.parametrize("plan", [{"encoders": "frozen"}, {"encoders": "shared"}])
def test_encoders_stay_when_the_study_does_not_plan_it(make_house, plan) -> None:
    house = make_house(**plan)
    parts = [part for part in PARTS if house.study.is_shared(f"{part}.")]
    base = house.base(prefixes=tuple(f"{part}." for part in parts))
    assert house.ask("train", arrays=base, round=2)[0].status == "ok"
    assert house.ask("encoders", arrays={}, round=2)[0].code is Code.EGRESS


def test_evaluation_leaves_once_a_model_and_is_bounded(make_house) -> None:
    house = make_house(role="external")
    house.pool.rows = [row(role="external")]
    reply, out = house.ask("evaluate")
    assert (reply.status, reply.evaluation, out) == ("ok", (row(role="external"),), {})
    house.restart()
    assert house.ask("evaluate")[0].evaluation == reply.evaluation
    assert house.pool.evaluated == 1
    every = ("fusion.", "heads.", "encoders.", "adapters.")
    assert house.ask("evaluate", arrays=house.base(prefixes=every))[0].status == "ok"
    codes = [house.ask("evaluate", arrays=house.base(float(v)))[0].code for v in range(1, 4)]
    assert codes == [None, None, Code.EGRESS]  # rounds + 2 models


def test_small_cohorts_stay(make_house) -> None:
    house = make_house()
    house.pool.rows = [row(n=9, events=None)]
    reply, _ = house.ask("evaluate")
    assert (reply.status, reply.code, reply.evaluation) == ("refused", Code.TOO_FEW, ())


def test_everything_is_audited(make_house) -> None:
    house = make_house()
    house.ask("train")
    house.ask("train")
    house.ask("evaluate")
    audit = house.service._audit
    assert [entry["action"] for entry in audit.rows()] == ["approve", "train", "train", "evaluate"]
    releases = list(house.service._desk.egress.log.rows())
    assert [(r["action"], r["round"]) for r in releases] == [
        ("release-train", 1), ("release-train", 1), ("release-evaluate", 1),
    ]  # fmt: skip
    assert releases[0]["sha256"] == releases[1]["sha256"]
    assert audit.verify() is None and house.service._desk.egress.log.verify() is None
    lines = house.site.state_dir / "egress.jsonl"
    lines.write_text(lines.read_text().replace('"round":1', '"round":2', 1))
    assert house.service._desk.egress.log.verify() == 1


def test_state_is_private(make_house) -> None:
    house = make_house()
    house.ask("train")
    for path in house.site.state_dir.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_stored_study_must_hash_to_its_name(make_house) -> None:
    house = make_house()
    stored = next((house.site.state_dir / "approved").glob("*.json"))
    stored.write_text(stored.read_text().replace('\\"rounds\\":2', '\\"rounds\\":3'))
    assert house.ask("train")[0].code is Code.NOT_APPROVED


def test_a_full_disk_is_seen_before_anything_is_paid(make_house, monkeypatch) -> None:
    house = make_house()
    with monkeypatch.context() as patch:
        patch.setattr("fl_client.jobs.desk.shutil.disk_usage", lambda path: SimpleNamespace(free=100))
        codes = [house.ask("train")[0].code for _ in range(3)]
    assert codes == [Code.TRAINER] * 3
    assert house.ledger() == [] and house.pool.trained == []
    assert "no room for the update" in (house.site.state_dir / "log.jsonl").read_text()
    assert house.ask("train")[0].status == "ok"


def test_full_disk_releases_nothing(make_house, monkeypatch) -> None:
    house = make_house()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fl_client.outbox.write_private", full)
        reply, out = house.ask("train")
    assert (reply.code, out) == (Code.TRAINER, {})
    assert states(house) == ["RESERVED", "VOID"]
    assert load_study(house.study_path).identity == house.study.identity
    assert house.ask("train")[0].status == "ok"
