"""What an officer reads: the log of releases, its replay against the outbox, and every way in which they can differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fl_client import cli, egress_log
from fl_shared.audit import AuditLog
from fl_shared.commands import run
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import EvaluationRow


@pytest.fixture
def house(make_house):
    """Two rounds, the first one twice, and the judgement of a model."""
    house = make_house()
    house.pool.rows = [
        EvaluationRow(site="drum_tower", role="train", task="death", label="", modalities="all", model="federated",
                      metric="auroc", value=0.7, ci_low=0.6, ci_high=0.8, n=50, events=20)
    ]  # fmt: skip
    for number in (1, 1, 2):
        assert house.ask("train", round=number)[0].status == "ok"
    assert house.ask("evaluate", round=2)[0].status == "ok"
    return house


@pytest.fixture
def command(house, monkeypatch, capsys):
    """``fl-client --site drum_tower …`` as a process would run it: exit code and output."""
    folder = house.site.folder
    shutil.copytree(folder, folder / "all" / "drum_tower", ignore=shutil.ignore_patterns("all"))

    def invoke(*arguments: str):
        words = ["fl-client", "--sites-dir", str(folder / "all"), "--site", "drum_tower", *arguments]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as done:
            run(cli.app)
        told = capsys.readouterr()
        return done.value.code, told.out + told.err

    return folder / "all" / "drum_tower" / "state", invoke


def faults(site) -> str:
    with pytest.raises(ConsiliumError) as error:
        egress_log.replay(site)
    assert error.value.code is ExitCode.PRIVACY
    assert all(fault.mend for fault in error.value.faults)
    return str(error.value)


def test_every_release_is_told_and_replayed(house) -> None:
    rows = egress_log.released(house.site)
    assert [(r.what, r.round) for r in rows] == [("train", 1), ("train", 1), ("train", 2), ("evaluate", 2)]
    assert rows[0].sha256 == rows[1].sha256 != rows[2].sha256
    (total,) = egress_log.totals(house.site, rows)
    assert (total.name, total.releases, total.rounds) == ("door", 4, (1, 2))
    assert total.bytes == sum(r.bytes for r in rows) and not total.withdrawn and not total.stayed
    found = egress_log.replay(house.site)
    assert (found.rows, found.matched, found.not_kept, found.never_left) == (4, 4, 0, ())


def test_the_bytes_of_the_log_are_those_that_left(make_house) -> None:
    house = make_house()
    _, out = house.ask("train")
    (row,) = egress_log.released(house.site)
    assert row.bytes == sum(map(len, out.values()))


def outbox(house, pattern: str) -> Path:
    (path,) = (house.site.state_dir / "outbox" / house.study.identity).glob(pattern)
    return path


def test_an_altered_update_is_found(house) -> None:
    path = outbox(house, "round_2-*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last byte of the last array
    path.write_bytes(data)
    text = faults(house.site)
    assert "row 3, train of round 2" in text and f"match no row: {path.name}" in text
    assert "row 1," not in text and "row 4," not in text


def test_a_missing_file_is_found_for_every_row_that_it_served(house) -> None:
    outbox(house, "round_1-*").unlink()
    text = faults(house.site)
    assert "row 1, train of round 1" in text and "row 2, train of round 1" in text and "row 3," not in text


def test_an_altered_evaluation_is_found(house) -> None:
    path = outbox(house, "evaluation-*")
    path.write_text(path.read_text().replace("0.7", "0.9"))
    assert "row 4, evaluate of round 2" in faults(house.site)
    path.write_text("{")
    assert "row 4, evaluate of round 2" in faults(house.site)


def test_an_edited_row_is_found(house) -> None:
    path = house.site.state_dir / "egress.jsonl"
    path.write_text(path.read_text().replace('"bytes":', '"bytes":1', 1))
    assert "row 1 does not fit the chain" in faults(house.site)


def test_rows_cut_off_the_end_are_found(house) -> None:
    path = house.site.state_dir / "egress.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))
    text = faults(house.site)
    assert AuditLog(path).verify() is None  # the chain alone does not show it
    assert "cut off its end" in text and "train of round 2" in text and "evaluate of round 2" in text
    path.unlink()
    assert "train of round 1" in faults(house.site)


def test_a_row_without_an_end_says_what_it_can_be(house) -> None:
    path = house.site.state_dir / "egress.jsonl"
    with path.open("a") as file:
        file.write('{"seq":5,"act')
    assert "row 5 has no end" in faults(house.site)
    house.ask("evaluate", round=2)  # the next release removes it
    assert egress_log.replay(house.site).rows == 5


def test_an_update_that_never_left_is_no_fault(house, monkeypatch) -> None:
    class CrashError(BaseException):
        """The process dies."""

    def crash(self, *args, **kwargs):
        raise CrashError

    house.pool.rows = [row.model_copy(update={"value": 0.75}) for row in house.pool.rows]
    with monkeypatch.context() as patch:
        patch.setattr("fl_client.egress.Egress._record", crash)
        with pytest.raises(CrashError):
            house.ask("evaluate", arrays=house.base(1.0), round=2)
    found = egress_log.replay(house.site)
    assert found.rows == 4 and len(found.never_left) == 1


def test_command_as_json_and_text(command) -> None:
    state, invoke = command
    code, text = invoke("egress", "--format", "json")
    body = json.loads(text)
    assert code == 0 and [row["row"] for row in body["rows"]] == [1, 2, 3, 4]
    assert {row["name"] for row in body["rows"]} == {"door"} and body["studies"][0]["releases"] == 4
    code, text = invoke("egress")
    assert code == 0 and "Totals" in text and "hash chain intact" in text
    code, text = invoke("egress", "replay", "--format", "json")
    assert code == 0 and json.loads(text)["replay"]["matched"] == 4
    next((state / "outbox").rglob("round_2-*")).unlink()
    code, text = invoke("egress", "replay", "--format", "json")
    body = json.loads(text)
    assert code == ExitCode.PRIVACY and body["faults"][0]["row"] == 3
    code, text = invoke("egress", "replay")
    assert code == ExitCode.PRIVACY and "row 3, train of round 2" in text


def test_pretraining_passes_the_gate_and_is_told_apart(house) -> None:
    log, audit = AuditLog(house.site.state_dir / "egress.jsonl"), AuditLog(house.site.state_dir / "audit.jsonl")
    audit.append("operator", "pretrain", study="a" * 64, rounds=1)
    log.append("egress", "release-train", study="a" * 64, round=1, bytes=7, sha256="0" * 64)
    first, second = egress_log.totals(house.site, egress_log.released(house.site))
    assert (first.stayed, second.stayed, second.name) == (False, True, "pretraining at this site")


def test_masked_updates_are_told_as_rounds_and_cannot_be_replayed(house) -> None:
    log, audit = AuditLog(house.site.state_dir / "egress.jsonl"), AuditLog(house.site.state_dir / "audit.jsonl")
    for what in ("keys", "shares", "masked", "unmask"):
        log.append("egress", f"release-{what}", study="b" * 64, round=3, bytes=7, sha256=f"{what:0<64}")
    audit.append("coordinator", "train", study="b" * 64, round=3, outcome="ok")
    found = egress_log.replay(house.site)
    assert (found.rows, found.matched, found.not_kept) == (8, 4, 4)
    assert egress_log.totals(house.site, egress_log.released(house.site))[1].rounds == (3,)
    audit.append("coordinator", "train", study="b" * 64, round=3, outcome="ok")  # answered twice, logged once
    assert "train of round 3" in faults(house.site)
