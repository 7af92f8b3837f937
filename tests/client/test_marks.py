"""The monotone counter between site and coordinator: a ledger that was put back, copied, cut or edited is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_client.privacy.ledger import Ledger
from fl_client.service import SiteService
from fl_server.ledgers import Ledgers
from fl_server.validation import Reason
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.wire import Code, Mark, Reply

FILES = ("ledger.jsonl", "ledger.head")


class Coordinator:
    """Asks a site as the coordinator does: with the last mark, keeping the new one."""

    def __init__(self, path: Path) -> None:
        self.ledgers = Ledgers(path / "ledgers.json")

    def ask(self, house: Any, kind: str = "train", **more: Any) -> tuple[Reply, dict[str, bytes], Reason | None]:
        mark = self.ledgers.marks().get("drum_tower")
        reply, out = house.ask(kind, ledger=mark and mark.model_dump(), **more)
        return reply, out, self.ledgers.judge("drum_tower", mark, reply)


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    (tmp_path / "runs").mkdir()
    return Coordinator(tmp_path / "runs")


def kept(house: Any) -> dict[str, bytes]:
    return {name: (house.site.state_dir / name).read_bytes() for name in FILES}


def put(house: Any, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (house.site.state_dir / name).write_bytes(content)


def test_every_answer_about_a_study_with_privacy_tells_the_last_row(make_house: Callable[..., Any]) -> None:
    house = make_house()
    genesis = house.ask("hello", arrays={})[0].ledger
    assert genesis is not None and genesis.seq == 0
    told = [house.ask("train")[0].ledger, house.ask("hello", arrays={})[0].ledger, house.ask("evaluate")[0].ledger]
    last = house.ledger()[-1]
    assert told == [Mark(seq=2, hash=last["hash"])] * 3

    def fail(base: Any) -> Any:
        raise RuntimeError("no")

    house.pool.action = fail
    reply, _ = house.ask("train", round=2)
    assert (reply.status, reply.ledger and reply.ledger.seq) == ("failed", 4)  # reserved and void: paid all the same


def test_a_study_without_privacy_tells_none(make_house: Callable[..., Any]) -> None:
    house = make_house(mode="none", site={"open": True})
    assert [house.ask(kind)[0].ledger for kind in ("train", "hello")] == [None, None]


def test_both_files_put_back_release_nothing(make_house: Callable[..., Any], coordinator: Coordinator) -> None:
    house = make_house()
    before = kept(house)
    assert coordinator.ask(house)[2] is None
    put(house, before)
    house.restart()  # the chain and the head verify: nothing at the site shows it
    Ledger(house.site.state_dir, cohort="drum_tower").verify()
    for kind in ("hello", "train", "evaluate"):
        arrays = {"arrays": {}} if kind == "hello" else {"round": 2, "arrays": house.base(1.0)}
        reply, out, _ = coordinator.ask(house, kind, **arrays)
        assert (reply.status, reply.code, out) == ("refused", Code.LEDGER, {})
    log = (house.site.state_dir / "log.jsonl").read_text()
    assert "0 rows, but row 2 was told to the coordinator: rolled back" in log
    assert len(house.pool.trained) == 1


def test_putting_back_after_a_failure_refunds_nothing(make_house: Callable[..., Any], coordinator: Coordinator) -> None:
    house = make_house()
    before = kept(house)

    def fail(base: Any) -> Any:
        raise RuntimeError("no")

    house.pool.action = fail
    coordinator.ask(house)
    put(house, before)
    house.pool.action = None
    reply, out, _ = coordinator.ask(house)
    assert (reply.code, out) == (Code.LEDGER, {})


def test_an_old_copy_and_a_forked_copy_are_found(
    make_house: Callable[..., Any], coordinator: Coordinator, tmp_path: Path
) -> None:
    house = make_house()
    coordinator.ask(house)
    shutil.copytree(house.site.state_dir, tmp_path / "copy")
    site = house.site.model_copy(update={"state": tmp_path / "copy"})
    coordinator.ask(house, round=2)
    twin = type(house)(site=site, study=house.study, study_path=house.study_path)
    reply, out, _ = coordinator.ask(twin, round=2, arrays=house.base(1.0))
    assert (reply.code, out) == (Code.LEDGER, {})
    twin.ask("train", round=2, arrays=house.base(1.0))  # by itself it goes on: another row 4
    reply, out, _ = coordinator.ask(twin)
    assert (reply.code, out) == (Code.LEDGER, {})
    assert "copied or forked" in (tmp_path / "copy" / "log.jsonl").read_text()
    assert coordinator.ask(house)[0].status == "ok"


def test_the_ledger_of_another_cohort_is_none(make_house: Callable[..., Any], tmp_path: Path) -> None:
    house = make_house()
    house.ask("train")
    other = house.site.model_copy(update={"name": "other"})
    with pytest.raises(ConsiliumError, match="does not fit the chain") as caught:
        SiteService(other, house.pool)
    assert caught.value.code is ExitCode.PRIVACY


def cut(house: Any) -> None:
    path = house.site.state_dir / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def edit(house: Any) -> None:
    path = house.site.state_dir / "ledger.jsonl"
    path.write_text(path.read_text().replace('"sigma":', '"sigma":9', 1))


@pytest.mark.parametrize("spoil", [cut, edit])
def test_a_cut_or_edited_ledger_answers_nothing(
    make_house: Callable[..., Any], coordinator: Coordinator, spoil: Callable[[Any], None]
) -> None:
    house = make_house()
    coordinator.ask(house)
    spoil(house)
    for kind in ("hello", "train"):
        reply, out = house.ask(kind, arrays={} if kind == "hello" else None)  # also when no mark is sent
        assert (reply.status, reply.code, reply.ledger, out) == ("refused", Code.LEDGER, None, {})
    assert len(house.pool.trained) == 1
