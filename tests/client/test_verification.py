"""``ledger verify``: the books against themselves, and against what left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fl_client.cli import app
from fl_client.payment import site_ledger
from fl_client.verification import verify
from fl_shared.audit import AuditLog
from fl_shared.errors import ExitCode

PARTS = """recalibrate = false
epsilon = 2.0
[statistics]
tasks = ["death"]
epsilon = 0.7
"""


@pytest.fixture
def house(make_house: Callable[..., Any]) -> Any:
    """A site that gave statistics, two rounds (one of them asked for twice) and an evaluation."""
    made = make_house(site={"cap": 30.0}, extra=PARTS)
    assert made.ask("statistics", arrays={}, round=0)[0].status == "ok"
    for number in (1, 1, 2):
        assert made.ask("train", round=number)[0].status == "ok"
    assert made.ask("evaluate", round=2)[0].status == "ok"
    return made


def failed(house: Any) -> dict[str, tuple[str, ...]]:
    return {check.name: check.problems for check in verify(house.site) if not check.ok}


def state(house: Any) -> Path:
    return Path(house.site.state_dir)


def updates(house: Any) -> list[Path]:
    return sorted((state(house) / "outbox").rglob("round_*.safetensors"))


def test_sound_books(house: Any) -> None:
    checks = verify(house.site)
    assert [check.name for check in checks] == [
        "chain", "reservations", "epsilon", "provenance", "outbox", "egress", "replay", "audit",
    ]  # fmt: skip
    assert failed(house) == {}
    seen = {check.name: check.seen for check in checks}
    assert seen["chain"].startswith("8 rows") and seen["reservations"] == "4 reservations"
    assert seen["outbox"] == "4 files with their rows, 0 of studies without privacy"
    assert seen["egress"] == "5 releases"


def test_nothing_was_asked_yet(make_house: Callable[..., Any]) -> None:
    assert failed(make_house()) == {}


def test_studies_without_privacy_have_no_rows(make_house: Callable[..., Any]) -> None:
    house = make_house(mode="none", site={"open": True})
    house.ask("train")
    assert failed(house) == {}


def test_an_open_reservation_is_no_fault(house: Any) -> None:
    """A crash between outbox and commit."""
    book = site_ledger(house.site)
    book.reserve(
        study=house.study.identity, round=2, q=0.1, sigma=50.0, clip=1.0, steps=1, delta=1e-5, cap=50.0, budget=50.0,
        parameter_set_hash="p", provenance_hash=book.rows()[-1].provenance_hash, base_digest="c" * 64,
    )  # fmt: skip
    assert failed(house) == {}


def test_rows_of_two_fates(house: Any) -> None:
    """A chain that verifies, written by somebody else's hand."""
    book = site_ledger(house.site)
    last = book.rows()[-1]
    with book._chain.locked():
        rows = book._chain.read()
        again = last.model_copy(update={"seq": len(rows) + 1, "prev_hash": rows[-1].hash, "state": "VOID"})
        book._chain.append(again)
    assert "row 9 is VOID, but 7 is no open reservation" in failed(house)["reservations"]


def test_epsilon_that_was_written_too_low(house: Any) -> None:
    book = site_ledger(house.site)
    last = [row for row in book.rows() if row.state == "RESERVED"][-1]
    with book._chain.locked():
        rows = book._chain.read()
        low = {"seq": 9, "reservation": 9, "prev_hash": rows[-1].hash, "eps_after": 0.1, "base_digest": "d" * 64}
        book._chain.append(last.model_copy(update=low))
    assert failed(house)["epsilon"][0].startswith("row 9 says 0.1, not ")


def test_an_update_whose_row_is_gone(house: Any) -> None:
    """Both files put back: nothing but the outbox and the log of what left show it."""
    lines = (state(house) / "ledger.jsonl").read_text().splitlines(keepends=True)
    (state(house) / "ledger.jsonl").write_text("".join(lines[:2]))
    (state(house) / "ledger.head").write_text(json.dumps({"seq": 2, "hash": json.loads(lines[1])["hash"]}))
    found = failed(house)
    assert set(found) == {"outbox", "egress"}
    assert len(found["outbox"]) == 3 and all("was computed without a row" in text for text in found["outbox"])
    assert len(found["egress"]) == 4 and all("without a committed row" in text for text in found["egress"])


def test_a_ledger_cut_to_nothing(house: Any) -> None:
    (state(house) / "ledger.jsonl").write_bytes(b"")
    found = failed(house)
    assert set(found) == {"chain"} and "cut or rolled back" in found["chain"][0]


def test_bytes_that_were_paid_for_are_gone(house: Any) -> None:
    updates(house)[0].unlink()
    found = failed(house)
    assert set(found) == {"outbox", "replay"} and "whose bytes are gone" in found["outbox"][0]


def test_bytes_that_were_altered(house: Any) -> None:
    one, other = updates(house)
    one.write_bytes(other.read_bytes())
    assert set(failed(house)) == {"replay"}


def test_a_release_without_a_row(house: Any) -> None:
    log = AuditLog(state(house) / "egress.jsonl")
    log.append("egress", "release-train", study=house.study.identity, round=7, bytes=1, sha256="0" * 64)
    found = failed(house)
    assert "row 6: train of round 7" in found["egress"][0] and "without a committed row" in found["egress"][0]


@pytest.mark.parametrize(("name", "check"), [("egress", "egress"), ("audit", "audit")])
def test_an_altered_log(house: Any, name: str, check: str) -> None:
    path = state(house) / f"{name}.jsonl"
    path.write_text(path.read_text().replace('"round":1', '"round":2', 1))
    assert "does not fit the chain" in failed(house)[check][0]


def test_a_table_that_is_gone_or_altered(house: Any) -> None:
    (table,) = (state(house) / "provenance").iterdir()
    table.write_text(table.read_text().replace("public", "local", 1))
    assert "no table" in failed(house)["provenance"][0]


def test_the_command(house: Any, tmp_path: Path) -> None:
    sites = tmp_path.parent / f"{tmp_path.name}_sites"
    sites.mkdir()
    (sites / "drum_tower").symlink_to(tmp_path)

    def run(*options: str) -> Any:
        return CliRunner().invoke(app, ["--sites-dir", str(sites), "--site", "drum_tower", "ledger", *options])

    sound = run("verify")
    assert sound.exit_code == 0 and sound.stdout.count("ok  ") == 8 and "FAIL" not in sound.stdout
    told = json.loads(run("verify", "--format", "json").stdout)
    assert told["ok"] is True and [check["ok"] for check in told["checks"]] == [True] * 8
    shown = json.loads(run("--format", "json").stdout)
    assert len(shown["rows"]) == 8 and 0 < shown["epsilon"] <= shown["cap"] == 30.0
    assert "hash chain intact" in run().stdout and "COMMITTED" in run("show").stdout
    updates(house)[0].unlink()
    broken = run("verify")
    assert broken.exit_code == ExitCode.PRIVACY and "FAIL  outbox" in broken.stdout
    path = state(house) / "ledger.jsonl"
    path.write_text(path.read_text().replace('"sigma":', '"sigma":1', 1))
    broken = run("verify", "--format", "json")
    assert broken.exit_code == ExitCode.PRIVACY
    (check,) = json.loads(broken.stdout)["checks"]
    assert check["name"] == "chain" and not check["ok"] and "edited" in check["problems"][0]
