from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fl_shared.audit import AuditError, AuditLog


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(4):
        log.append("tester", "count", number=number, text="心脏")
    return log


def lines(log: AuditLog) -> list[str]:
    return log.path.read_text().splitlines(keepends=True)


def test_rows_are_numbered_chained_and_private(log) -> None:
    rows = list(log.rows())
    assert [(row["seq"], row["number"]) for row in rows] == [(1, 0), (2, 1), (3, 2), (4, 3)]
    assert [row["prev"] for row in rows[1:]] == [row["hash"] for row in rows[:-1]]
    assert log.verify() is None
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_no_log_is_no_fault(tmp_path) -> None:
    assert AuditLog(tmp_path / "none.jsonl").verify() is None


@pytest.mark.parametrize(
    ("tamper", "bad"),
    [
        (lambda rows: [rows[0], rows[1].replace('"number":1', '"number":7'), *rows[2:]], 2),
        (lambda rows: [rows[0], *rows[2:]], 2),
        (lambda rows: [rows[1], rows[0], *rows[2:]], 1),
        (lambda rows: [*rows, rows[3]], 5),
        (lambda rows: [rows[0], "not json\n", *rows[2:]], 2),
        (lambda rows: [rows[0], "{}\n", *rows[2:]], 2),
        (lambda rows: [rows[0], '{"seq":2,"x":NaN}\n', *rows[2:]], 2),
        (lambda rows: [*rows[:3], rows[3][:20]], 4),
    ],
)
def test_tampering_is_found(log, tamper, bad) -> None:
    log.path.write_text("".join(tamper(lines(log))))
    assert log.verify() == bad


def test_a_row_rewritten_with_its_own_hash_breaks_the_next(log) -> None:
    rows = lines(log)
    forged = AuditLog(log.path.with_name("forged.jsonl"))
    forged.append("tester", "count", number=99, text="心脏")
    log.path.write_text("".join([*lines(forged), *rows[1:]]))
    assert log.verify() == 2


def test_appending_to_a_changed_row_is_refused(log) -> None:
    log.path.write_text("".join([*lines(log)[:3], lines(log)[3].replace('"number":3', '"number":4')]))
    with pytest.raises(AuditError):
        log.append("tester", "count")


def test_a_torn_row_was_never_acknowledged(log) -> None:
    with log.path.open("a") as file:
        file.write('{"seq":5,"act')
    log.append("tester", "after")
    assert log.verify() is None
    assert [row["seq"] for row in log.rows()] == [1, 2, 3, 4, 5]


def test_a_full_disk_leaves_the_log_whole(log, monkeypatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
    with pytest.raises(OSError):
        log.append("tester", "lost")
    monkeypatch.undo()
    assert log.verify() is None and len(lines(log)) == 4


def test_threads_and_instances_do_not_fork_the_chain(log) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: AuditLog(log.path).append("tester", "many", number=number), range(40)))
    assert log.verify() is None and len(lines(log)) == 44


@pytest.mark.parametrize("fields", [{"seq": 1}, {"hash": "x"}, {"value": float("nan")}, {"text": "x" * 70_000}])
def test_rows_that_cannot_be_written(log, fields) -> None:
    with pytest.raises(AuditError):
        log.append("tester", "bad", **fields)
    assert log.verify() is None and json.loads(lines(log)[-1])["seq"] == 4
