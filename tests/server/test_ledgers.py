"""The coordinator's record of the sites' ledgers, and how a run uses it."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from fl_server.checkpoint import RunDirectory
from fl_server.ledgers import FILE, Ledgers
from fl_server.rounds import run_study
from fl_server.validation import Reason
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.wire import Mark, Reply


def mark(seq: int, letter: str = "a") -> Mark:
    return Mark(seq=seq, hash=letter * 64)


def reply(told: Mark | None, status: str = "ok") -> Reply:
    return Reply.model_validate({"status": status, "site": "basel", "approved": True, "ledger": told})


@pytest.fixture
def ledgers(tmp_path: Path) -> Ledgers:
    return Ledgers(tmp_path / FILE)


def test_a_mark_only_rises_and_survives(ledgers: Ledgers, tmp_path: Path) -> None:
    assert ledgers.marks() == {}
    for seq in (0, 2, 2, 5):
        assert ledgers.judge("basel", ledgers.marks().get("basel"), reply(mark(seq))) is None
    assert Ledgers(tmp_path / FILE).marks() == {"basel": mark(5)}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("told", "status", "reason"),
    [
        (mark(4), "ok", Reason.LEDGER_BEHIND),
        (mark(4), "failed", Reason.LEDGER_BEHIND),
        (mark(5, "b"), "ok", Reason.LEDGER_FORKED),
        (None, "ok", Reason.LEDGER_UNTOLD),
        (None, "refused", None),
        (mark(5), "ok", None),
    ],
)
def test_answers_of_another_ledger_are_rejected(
    ledgers: Ledgers, told: Mark | None, status: str, reason: Reason | None
) -> None:
    ledgers.judge("basel", None, reply(mark(5)))
    assert ledgers.judge("basel", mark(5), reply(told, status)) is reason
    assert ledgers.marks() == {"basel": mark(5)}


def test_answers_of_two_runs_may_cross(ledgers: Ledgers) -> None:
    """Both were asked at row 5; the later one's answer comes in first."""
    ledgers.judge("basel", None, reply(mark(5)))
    assert ledgers.judge("basel", mark(5), reply(mark(9, "c"))) is None
    assert ledgers.judge("basel", mark(5), reply(mark(7, "b"))) is None
    assert ledgers.judge("basel", mark(5), reply(mark(9, "d"))) is Reason.LEDGER_FORKED
    assert ledgers.marks() == {"basel": mark(9, "c")}


def test_an_unreadable_record_stops_the_run(ledgers: Ledgers, tmp_path: Path) -> None:
    for content in ("", "{", '{"basel": {"seq": -1, "hash": "x"}}'):
        (tmp_path / FILE).write_text(content)
        with pytest.raises(ConsiliumError, match="restore it from a backup") as caught:
            ledgers.marks()
        assert caught.value.code is ExitCode.CHECKPOINT


def _rise(path: Path, site: str) -> None:
    ledgers = Ledgers(path)
    for seq in range(40):
        assert ledgers.judge(site, ledgers.marks().get(site), reply(mark(seq))) is None


def test_runs_at_once_lose_no_mark(ledgers: Ledgers, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_rise, args=(tmp_path / FILE, name)) for name in ("aarau", "basel")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert ledgers.marks() == {"aarau": mark(39), "basel": mark(39)}


# --- a whole run

PRIVATE = {"privacy": {"mode": "patient", "epsilon": 8.0}}


class Marked:
    """The fake fleet, whose sites have ledgers: two rows an update, and a refusal as the real site's."""

    def __init__(self, fleet):
        self._fleet, self.rows, self.letter, self.sent = fleet, {}, {}, []

    def hello(self, requests, *, deadline, arrived):
        return self.ask({s: (r, {}) for s, r in requests.items()}, deadline=deadline, arrived=arrived)

    def ask(self, questions, *, deadline, arrived):
        return {site: self._answer(site, *question, arrived) for site, question in questions.items()}

    def _answer(self, site, request, arrays, arrived):
        self.sent.append((site, request.kind, request.ledger))
        (answer,) = self._fleet.ask({site: (request, arrays)}, deadline=1, arrived=arrived).values()
        if request.kind == "train":
            self.rows[site] = self.rows.get(site, 0) + 2
        told = mark(self.rows.get(site, 0), self.letter.get(site, "a"))
        return answer[0].model_copy(update={"ledger": told}), answer[1]


def live(study, fleet, path, initial, folder="toy"):
    return run_study(study=study, fleet=fleet, run=RunDirectory(path / folder), initial=initial, log=lambda _: None)


def test_a_run_sends_to_each_site_its_own_mark(make_study, make_fleet, initial, tmp_path):
    study = make_study(**PRIVATE)
    fleet = Marked(make_fleet(study))
    fleet.rows = {"aarau": 10}
    live(study, fleet, tmp_path, initial)
    told = [(sent.seq if sent else None) for site, _, sent in fleet.sent if site == "aarau"]
    assert told == [None, 10, 12, 14, 16, 16]  # hello, three rounds, encoders, evaluate
    assert json.loads((tmp_path / FILE).read_text())["basel"] == {"seq": 6, "hash": "a" * 64}
    again = Marked(make_fleet(other := make_study(name="second", **PRIVATE)))
    again.rows = dict(fleet.rows)
    live(other, again, tmp_path, initial, folder="second")  # the next study begins where the last one ended
    assert [sent.seq for site, kind, sent in again.sent if (site, kind) == ("aarau", "hello")] == [16]


def test_a_site_whose_ledger_went_back_is_left_out_of_the_round(make_study, make_fleet, initial, tmp_path):
    study = make_study(**PRIVATE)
    fleet = Marked(make_fleet(study))

    def back(reply_, arrays):
        fleet.rows["basel"] = -1  # row 1 with what this round adds
        return reply_, arrays

    fleet._fleet.faults["basel", "train", 2] = back
    results = live(study, fleet, tmp_path, initial)
    outcomes = {r.round: r.sites["basel"] for r in results.rounds if r.round}
    assert (outcomes[2].status, outcomes[2].reason) == ("rejected", "ledger-rolled-back")
    assert outcomes[3].status == "accepted"  # beyond row 2 again; whether it holds that row, the site says


def test_a_forked_ledger_does_not_begin_a_study(make_study, make_fleet, initial, tmp_path):
    study = make_study(**PRIVATE)
    fleet = Marked(make_fleet(study))
    live(study, fleet, tmp_path, initial)
    fork = Marked(make_fleet(other := make_study(name="second", **PRIVATE)))
    fork.rows, fork.letter = dict(fleet.rows), {"chur": "b"}
    with pytest.raises(ConsiliumError, match="ledger-forked") as caught:
        live(other, fork, tmp_path, initial, folder="second")
    assert caught.value.code is ExitCode.NOT_APPROVED


def test_without_privacy_nothing_is_asked_or_kept(make_study, make_fleet, initial, tmp_path):
    study = make_study()
    fleet = Marked(make_fleet(study))
    live(study, fleet, tmp_path, initial)
    assert {sent for _, _, sent in fleet.sent} == {None} and not (tmp_path / FILE).exists()
