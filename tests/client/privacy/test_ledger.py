"""The ledger: it pays before, counts everything, and shows whatever was done to its files."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest

from fl_client.privacy import chain
from fl_client.privacy.ledger import Ledger
from fl_shared.accounting import Event, epsilon
from fl_shared.errors import ConsiliumError, ExitCode

DELTA = 1e-5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Ledger(tmp_path / "ledger", cohort="drum_tower").create()
    return tmp_path / "ledger"


def open_ledger(folder: Path) -> Ledger:
    return Ledger(folder, cohort="drum_tower")


def request(**changes: Any) -> dict[str, Any]:
    base = {
        "study": "a" * 64,
        "round": 1,
        "q": 0.1,
        "sigma": 1.2,
        "clip": 1.0,
        "steps": 10,
        "delta": DELTA,
        "cap": 10.0,
        "budget": 8.0,
        "parameter_set_hash": "p",
        "provenance_hash": "v",
        "base_digest": "b",
    }
    return base | changes


def test_spent_equals_the_accountant_over_all_events(folder: Path):
    ledger = open_ledger(folder)
    for number in (1, 2, 3):
        ledger.commit(ledger.reserve(**request(round=number)))
    other = ledger.reserve(**request(study="c" * 64, sigma=2.0))
    mine = Event(0.1, 1.2, 30)
    assert ledger.spent(DELTA, "a" * 64) == epsilon([mine], delta=DELTA)
    assert ledger.spent(DELTA) == epsilon([mine, Event(0.1, 2.0, 10)], delta=DELTA)
    assert ledger.spent(DELTA) == ledger.rows()[other - 1].eps_after
    assert ledger.spent(DELTA, "unknown") == 0


def test_reserved_and_void_count_as_much_as_committed(folder: Path):
    ledger = open_ledger(folder)
    ledger.reserve(**request(round=1))  # the process dies here
    ledger = open_ledger(folder)
    ledger.void(ledger.reserve(**request(round=2)))
    ledger.commit(ledger.reserve(**request(round=3)))
    assert ledger.spent(DELTA) == epsilon([Event(0.1, 1.2, 30)], delta=DELTA)
    assert [row.state for row in ledger.rows()] == ["RESERVED", "RESERVED", "VOID", "RESERVED", "COMMITTED"]


@pytest.mark.parametrize(("limit", "name"), [("cap", "site's cap"), ("budget", "study's budget")])
def test_refuses_before_the_limit_is_exceeded(folder: Path, limit: str, name: str):
    ledger = open_ledger(folder)
    limits = {"cap": 50.0, "budget": 50.0, limit: epsilon([Event(0.1, 1.2, 20)], delta=DELTA)}
    for number in (1, 2):  # exactly the limit is allowed
        ledger.reserve(**request(round=number, **limits))
    with pytest.raises(ConsiliumError, match=name) as caught:
        ledger.reserve(**request(round=3, **limits))
    assert caught.value.code == ExitCode.PRIVACY
    assert len(ledger.rows()) == 2


def test_budget_is_the_studys_own_but_the_cap_is_everybodys(folder: Path):
    ledger = open_ledger(folder)
    one = epsilon([Event(0.1, 1.2, 10)], delta=DELTA)
    ledger.reserve(**request(budget=one))
    ledger.reserve(**request(study="c" * 64, budget=one))
    with pytest.raises(ConsiliumError, match="site's cap"):
        ledger.reserve(**request(study="d" * 64, budget=one, cap=ledger.spent(DELTA)))


def test_same_request_is_never_paid_or_computed_twice(folder: Path):
    ledger = open_ledger(folder)
    seq = ledger.reserve(**request())
    found = ledger.find("a" * 64, 1, "b")
    assert found is not None
    assert (found.state, found.reservation, found.sigma) == ("RESERVED", seq, 1.2)
    with pytest.raises(ConsiliumError, match="RESERVED already"):
        ledger.reserve(**request())
    ledger.commit(seq)
    found = ledger.find("a" * 64, 1, "b")
    assert found is not None
    assert (found.state, found.reservation) == ("COMMITTED", seq)
    with pytest.raises(ConsiliumError, match="COMMITTED already"):
        ledger.reserve(**request())
    assert ledger.find("a" * 64, 1, "another base") is None
    ledger.reserve(**request(base_digest="another base"))
    assert ledger.spent(DELTA) == epsilon([Event(0.1, 1.2, 20)], delta=DELTA)


def test_void_frees_the_request_but_not_the_budget(folder: Path):
    ledger = open_ledger(folder)
    ledger.void(ledger.reserve(**request()))
    assert ledger.find("a" * 64, 1, "b") is None
    ledger.reserve(**request())
    assert ledger.spent(DELTA) == epsilon([Event(0.1, 1.2, 20)], delta=DELTA)


def test_a_reservation_has_one_fate(folder: Path):
    ledger = open_ledger(folder)
    seq = ledger.reserve(**request())
    ledger.void(seq)
    for wrong in (seq, seq + 1, 99):
        with pytest.raises(ConsiliumError, match="cannot become COMMITTED"):
            ledger.commit(wrong)
    with pytest.raises(ConsiliumError, match="cannot become VOID"):
        ledger.void(seq)


def test_no_noise_no_reservation(folder: Path):
    for sigma in (0.0, -1.0, float("nan")):
        with pytest.raises(ConsiliumError):
            open_ledger(folder).reserve(**request(sigma=sigma))
    assert open_ledger(folder).rows() == ()


def fill(folder: Path) -> list[str]:
    ledger = open_ledger(folder)
    for number in (1, 2, 3):
        ledger.commit(ledger.reserve(**request(round=number, cap=50.0, budget=50.0)))
    return (folder / "ledger.jsonl").read_text().splitlines(keepends=True)


def edit(lines: list[str]) -> list[str]:
    row = json.loads(lines[2])
    row["sigma"] = 100.0
    return [*lines[:2], json.dumps(row) + "\n", *lines[3:]]


@pytest.mark.parametrize(
    "change",
    [
        edit,
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines[:2], *lines[3:]],
        lambda lines: lines[:-1],
        lambda lines: lines[:-3],
        lambda lines: [],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines[:-1], lines[-1].rstrip("\n")],
        lambda lines: ["{}\n"],
        lambda lines: [line.replace("drum_tower", "elsewhere") for line in lines],
    ],
    ids=["edit", "reorder", "remove", "cut", "cut3", "empty", "repeat", "no newline", "not a row", "other cohort"],
)
def test_tampering_is_found_and_nothing_is_released(folder: Path, change: Any):
    (folder / "ledger.jsonl").write_text("".join(change(fill(folder))))
    ledger = open_ledger(folder)
    for action in (
        ledger.verify,
        ledger.create,
        lambda: ledger.spent(DELTA),
        lambda: ledger.reserve(**request(round=9)),
    ):
        with pytest.raises(ConsiliumError) as caught:
            action()
        assert caught.value.code == ExitCode.PRIVACY


def test_bytes_that_were_checked_before_are_not_believed_again(folder: Path):
    """One process that goes on while its file is changed under it, in an early row or a late one."""
    ledger = open_ledger(folder)
    for number in (1, 2, 3):
        ledger.reserve(**request(round=number, cap=50.0, budget=50.0))
    path, good = folder / "ledger.jsonl", (folder / "ledger.jsonl").read_text()
    lines = good.splitlines(keepends=True)
    for number in range(3):
        spoilt = [line.replace('"sigma":1.2', '"sigma":9.2') if n == number else line for n, line in enumerate(lines)]
        path.write_text("".join(spoilt))
        with pytest.raises(ConsiliumError, match="edited"):
            ledger.verify()
        path.write_text(good)
        assert len(ledger.rows()) == 3
    assert ledger.spent(DELTA) == epsilon([Event(0.1, 1.2, 30)], delta=DELTA)


def test_rollback_and_fork_are_found(folder: Path, tmp_path: Path):
    ledger = open_ledger(folder)
    ledger.reserve(**request(round=1))
    old = (folder / "ledger.jsonl").read_bytes()
    shutil.copytree(folder, tmp_path / "fork")
    for number in (2, 3):
        ledger.reserve(**request(round=number))
    current = (folder / "ledger.jsonl").read_bytes()

    (folder / "ledger.jsonl").write_bytes(old)
    with pytest.raises(ConsiliumError, match="rolled back"):
        ledger.verify()

    fork = open_ledger(tmp_path / "fork")
    for number in (2, 3):
        fork.reserve(**request(round=number, sigma=5.0))
    shutil.copy(tmp_path / "fork" / "ledger.jsonl", folder / "ledger.jsonl")
    with pytest.raises(ConsiliumError, match="forked"):
        ledger.verify()

    (folder / "ledger.jsonl").write_bytes(current)
    ledger.verify()


@pytest.mark.parametrize("name", ["ledger.jsonl", "ledger.head"])
def test_a_missing_file_is_refused_and_not_made_anew(folder: Path, name: str):
    fill(folder)
    (folder / name).unlink()
    for action in (open_ledger(folder).verify, open_ledger(folder).create):
        with pytest.raises(ConsiliumError, match="missing"):
            action()


def test_a_ledger_that_was_never_created_is_missing(tmp_path: Path):
    with pytest.raises(ConsiliumError, match="missing"):
        open_ledger(tmp_path / "nowhere").verify()


def test_crash_between_row_and_head_counts_the_row(folder: Path, monkeypatch: pytest.MonkeyPatch):
    ledger = open_ledger(folder)
    ledger.reserve(**request(round=1))
    with monkeypatch.context() as patch:
        patch.setattr(chain, "write_private", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            ledger.reserve(**request(round=2))
    assert ledger.spent(DELTA) == epsilon([Event(0.1, 1.2, 20)], delta=DELTA)
    ledger.reserve(**request(round=3))
    ledger.verify()


def test_a_torn_line_was_never_acknowledged(folder: Path):
    ledger = open_ledger(folder)
    ledger.reserve(**request(round=1))
    with (folder / "ledger.jsonl").open("ab") as file:
        file.write(b'{"seq":2,"prev')
    assert len(ledger.rows()) == 1
    ledger.reserve(**request(round=2))
    assert [row.seq for row in ledger.rows()] == [1, 2]


def test_create_keeps_what_is_there(folder: Path):
    open_ledger(folder).reserve(**request())
    open_ledger(folder).create()
    assert len(open_ledger(folder).rows()) == 1
    with pytest.raises(ConsiliumError):
        Ledger(folder, cohort="another").verify()
    assert (folder / "ledger.jsonl").stat().st_mode & 0o077 == 0


def reserve_many(folder: Path, study: str, limit: float) -> None:
    ledger = open_ledger(folder)
    for number in range(1, 11):
        with contextlib.suppress(ConsiliumError):
            ledger.reserve(**request(study=study, round=number, cap=limit))


def test_two_processes_never_exceed_the_cap_together(folder: Path):
    limit = epsilon([Event(0.1, 1.2, 70)], delta=DELTA)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=reserve_many, args=(folder, name * 64, limit)) for name in "cd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(open_ledger(folder).rows()) == 7
    assert open_ledger(folder).spent(DELTA) == limit
