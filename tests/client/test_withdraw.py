"""Withdrawing from a study: what is refused from then on, what is written down, and who may undo it."""

from __future__ import annotations

import json
import shutil
import threading

import pytest

from fl_client import cli
from fl_client.approval import approve, approved, audit_log, list_approved
from fl_client.egress_log import released, totals
from fl_client.withdraw import withdraw
from fl_client.withdrawn import is_withdrawn, withdrawal
from fl_shared.commands import run
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.wire import Code, Reply, Request

EVERY_KIND = ("hello", "statistics", "keys", "shares", "train", "unmask", "encoders", "recalibrate", "evaluate")


def test_everything_of_the_study_is_refused_from_then_on(make_house) -> None:
    house = make_house()
    assert house.ask("train")[0].status == "ok"
    record = withdraw(house.site, house.study.identity, reason="patients asked")
    assert (record.study, record.role, record.rounds, record.evaluations) == ("door", "train", (1,), 0)
    assert record.bytes == sum(row.bytes for row in released(house.site)) and record.releases == 1
    for restarted in (False, True):
        if restarted:
            house.restart()
        for kind in EVERY_KIND:
            reply, out = house.ask(kind)
            assert (reply.status, reply.code, out, reply.evaluation) == ("refused", Code.WITHDRAWN, {}, ()), kind
    assert len(house.pool.trained) == 1 and len(house.ledger()) == 2
    assert list_approved(house.site) == () and approved(house.site, house.study.identity) is None
    path = house.site.state_dir / "withdrawn" / f"{house.study.identity}.json"
    assert path.stat().st_mode & 0o777 == 0o600 and "patients asked" in path.read_text()
    outcomes = [(row["action"], row.get("outcome")) for row in audit_log(house.site).rows()]
    assert ("withdraw", None) in outcomes and outcomes[-1] == ("evaluate", Code.WITHDRAWN)


def test_the_reason_stays(make_house) -> None:
    house = make_house()
    withdraw(house.site, house.study.identity, reason="patient Zhang San asked")
    text, _ = house.service.handle(Request(kind="hello", study=house.study.identity).model_dump_json(), {})
    assert "Zhang" not in text and Reply.model_validate_json(text).code is Code.WITHDRAWN
    assert "Zhang" not in (house.site.state_dir / "audit.jsonl").read_text()


def test_other_studies_go_on(make_house, tmp_path) -> None:
    house = make_house()
    house.study_path.write_text(house.study_path.read_text().replace('name = "door"', 'name = "window"'))
    other = approve(house.site, house.study_path)
    withdraw(house.site, house.study.identity)
    assert house.ask("train", study=other.identity)[0].status == "ok"


def test_an_update_being_computed_meanwhile_never_leaves(make_house) -> None:
    house, computing, go_on = make_house(), threading.Event(), threading.Event()

    def slow(base):
        computing.set()
        assert go_on.wait(20)
        return dict(base)

    house.pool.action = slow
    answers = []
    worker = threading.Thread(target=lambda: answers.append(house.ask("train")))
    worker.start()
    assert computing.wait(20)
    record = withdraw(house.site, house.study.identity)
    go_on.set()
    worker.join(20)
    ((reply, out),) = answers
    assert (reply.code, out, record.rounds) == (Code.WITHDRAWN, {}, ())
    assert released(house.site) == ()
    assert [row["state"] for row in house.ledger()] == ["RESERVED", "COMMITTED"]  # computed, so paid


def test_approving_anew_is_allowed_and_says_what_was_withdrawn(make_house) -> None:
    house = make_house()
    house.ask("train")
    withdraw(house.site, house.study.identity)
    record = approve(house.site, house.study_path)
    assert any("this site withdrew on" in note and "having joined rounds 1" in note for note in record.notes)
    assert house.ask("train", round=2)[0].status == "ok"
    assert not is_withdrawn(house.site, house.study.identity)
    again = withdraw(house.site, house.study.identity)
    assert again.rounds == (1, 2)
    approve(house.site, house.study_path)
    kept = sorted(p.name for p in (house.site.state_dir / "withdrawn").iterdir())
    assert kept == [f"{house.study.identity}.{n}.json" for n in (1, 2)]


def test_withdrawing_twice_gives_the_first_record(make_house) -> None:
    house = make_house()
    first = withdraw(house.site, house.study.identity, reason="first")
    assert (
        withdraw(house.site, house.study.identity, reason="second")
        == first
        == withdrawal(house.site, house.study.identity)
    )


def test_a_crash_between_record_and_revocation_still_refuses(make_house, monkeypatch) -> None:
    house = make_house()

    class CrashError(BaseException):
        """The process dies."""

    def crash(*args):
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr("fl_client.withdraw.revoke", crash)
        with pytest.raises(CrashError):
            withdraw(house.site, house.study.identity)
    assert approved(house.site, house.study.identity) is not None
    assert house.ask("train")[0].code is Code.WITHDRAWN
    withdraw(house.site, house.study.identity)
    assert approved(house.site, house.study.identity) is None


def test_a_damaged_record_still_refuses(make_house) -> None:
    house = make_house()
    withdraw(house.site, house.study.identity)
    (house.site.state_dir / "withdrawn" / f"{house.study.identity}.json").write_text("{")
    assert house.ask("train")[0].code is Code.WITHDRAWN
    with pytest.raises(ConsiliumError, match="Restore it from a backup"):
        approve(house.site, house.study_path)


def test_a_revoked_study_can_be_withdrawn_by_what_left(make_house) -> None:
    from fl_client.approval import revoke

    house = make_house()
    house.ask("train")
    revoke(house.site, house.study.identity)
    assert house.ask("train", round=2)[0].code is Code.NOT_APPROVED
    record = withdraw(house.site, house.study.identity)
    assert (record.study, record.role, record.rounds) == ("door", None, (1,))
    (total,) = totals(house.site, released(house.site))
    assert total.withdrawn


@pytest.mark.parametrize("identity", ["0" * 64, "../../x", ""])
def test_unknown_studies_are_refused(make_house, identity) -> None:
    house = make_house()
    with pytest.raises(ConsiliumError, match="approvals") as error:
        withdraw(house.site, identity)
    assert error.value.code is ExitCode.NOT_APPROVED
    assert not (house.site.state_dir / "withdrawn").exists()


def test_command(make_house, tmp_path, monkeypatch, capsys) -> None:
    house = make_house()
    house.ask("train")
    folder = tmp_path / "sites" / "drum_tower"
    shutil.copytree(house.site.folder, folder, ignore=shutil.ignore_patterns("sites"))

    def invoke(*arguments: str):
        words = ["fl-client", "--sites-dir", str(tmp_path / "sites"), "--site", "drum_tower", *arguments]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as done:
            run(cli.app)
        told = capsys.readouterr()
        return done.value.code, told.out + told.err

    code, text = invoke("withdraw", "0" * 64)
    assert code == ExitCode.NOT_APPROVED and "approvals" in text
    code, text = invoke("withdraw", house.study.identity, "--reason", "a patient asked", "--format", "json")
    body = json.loads(text)
    assert code == 0 and (body["rounds"], body["reason"], body["study"]) == ([1], "a patient asked", "door")
    code, text = invoke("withdraw", house.study.identity)
    assert code == 0 and "a patient asked" in text and str(folder / "state/withdrawn") in text.replace("\n", "")
    code, text = invoke("approvals", "--format", "json")
    assert json.loads(text) == {"approved": []}
    code, text = invoke("egress", "--format", "json")
    assert code == 0 and json.loads(text)["studies"][0]["withdrawn"] is True
