"""A site dies at every operation that matters of a private study; the coordinator's own rounds bring it to its end.

The truth is kept outside the site: every draw of noise, and every answer that came, wholly or in part. Against it
stand the ledger (never below what left or may have left), the outbox (a repeated request gets the same bytes) and the
log of releases.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from killed_site import INITIAL, SITE, STUDY, receive, send

from fl_client import channel
from fl_client.approval import approve, approve_study
from fl_client.egress_log import released, replay
from fl_client.payment import site_ledger
from fl_server.checkpoint import RunDirectory
from fl_server.fleet import Missing
from fl_server.rounds import run_study
from fl_shared.accounting import Event, epsilon
from fl_shared.budget import budget
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model, select
from fl_shared.models.systems import opened
from fl_shared.site import load_site
from fl_shared.study import Study, load_study
from fl_shared.wire import Code, Reply, from_npy, to_npy
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.plans import QUICK

pytestmark = pytest.mark.integration
RUNNER = Path(__file__).with_name("killed_site.py")
NAME = "drum_tower"
SECONDS = 180.0


class Lives:
    """The lives of one site, one after another, as a fleet of one; counts what left."""

    def __init__(self, zygote: subprocess.Popen[str], folder: Path, *, at: int | None, torn: bool = False) -> None:
        self._zygote, self.folder = zygote, folder
        self._plans: list[dict[str, Any]] = [{"at": at, "torn": torn}]
        self._link: socket.socket | None = None
        self.deaths = 0
        self.answers: dict[tuple[str, int, str], set[tuple[str, tuple[tuple[str, bytes], ...]]]] = defaultdict(set)
        self.requests: dict[tuple[str, int, str], tuple[str, dict[str, bytes]]] = {}
        self.cut_off: list[tuple[str, int, str]] = []
        self.spent: list[float] = []

    def hello(self, requests, *, deadline, arrived):
        """See `Fleet`."""
        return self.ask({site: (request, {}) for site, request in requests.items()}, deadline=deadline, arrived=arrived)

    def ask(self, questions, *, deadline, arrived):
        """See `Fleet`."""
        ((site, (request, arrays)),) = questions.items()
        sent = {name: to_npy(array) for name, array in arrays.items()}
        key = (request.kind, request.round, request.base)
        answer = self.exchange(request.model_dump_json(), sent)
        self.requests[key] = request.model_dump_json(), sent
        if answer is None:
            self.cut_off.append(key)
            return {site: Missing(reason="clientapp-killed")}
        text, out = answer
        reply = Reply.model_validate_json(text)
        if reply.status == "ok" and request.kind != "hello":
            rows = "".join(row.model_dump_json() for row in reply.evaluation)
            self.answers[key].add((rows, tuple(sorted(out.items()))))
        arrived(site)
        return {site: (reply, {name: from_npy(data) for name, data in out.items()})}

    def exchange(self, text: str, arrays: dict[str, bytes]) -> tuple[str, dict[str, bytes]] | None:
        """Ask the present life, or a new one; None when it dies over the question."""
        link = self._link or self._born()
        try:
            send(link, text, arrays)
            answer = receive(link)
        except ConnectionError:
            answer = None
        if answer is None:
            self.end()
            self.deaths += 1
        return answer

    def _born(self) -> socket.socket:
        plan = self._plans.pop(0) if self._plans else {"at": None, "torn": False}
        with tempfile.TemporaryDirectory(prefix="fl-kill-") as place, socket.socket(socket.AF_UNIX) as door:
            door.bind(f"{place}/link")
            door.listen()
            door.settimeout(SECONDS)
            line = json.dumps(plan | {"link": f"{place}/link", "folder": str(self.folder)})
            assert self._zygote.stdin is not None
            self._zygote.stdin.write(line + "\n")
            self._zygote.stdin.flush()
            self._link, _ = door.accept()
        self._link.settimeout(SECONDS)
        return self._link

    def end(self) -> int:
        """The present life is over: how it ended."""
        assert self._link is not None and self._zygote.stdout is not None
        self._link.close()
        self._link = None
        code = int(self._zygote.stdout.readline())
        assert code in (0, -signal.SIGKILL), f"the life ended by itself with {code}"
        if (self.folder / "state" / "ledger.head").exists():
            book = site_ledger(load_site(self.folder))
            self.spent.append(book.spent(1e-5))
        return code


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    folder = tmp_path_factory.mktemp("kills") / NAME
    folder.mkdir()
    (folder / "samples.csv").write_text("patient_id,sample_id,index_time\n")
    (folder / "site.toml").write_text(SITE)
    (folder / "study.toml").write_text(STUDY)
    command = [sys.executable, str(RUNNER), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process, folder
    process.kill()
    process.wait(SECONDS)


@pytest.fixture(autouse=True)
def no_waiting_for_the_coordinators_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the site is killed here, and it is another process."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def fresh(template: Path, folder: Path) -> Path:
    """A site that never started, with the study approved."""
    shutil.copytree(template, folder)
    approve(load_site(folder), folder / "study.toml")
    return folder


def finish(lives: Lives, runs: Path) -> Any:
    """As an operator would: the same command again until it ends; the run's results."""
    study = load_study(lives.folder / "study.toml")
    told = None
    for _ in range(4):
        run = RunDirectory(runs / study.name)
        run.path.mkdir(parents=True, exist_ok=True)
        try:
            return run_study(study=study, fleet=lives, run=run, initial=INITIAL, log=lambda _: None)
        except ConsiliumError as error:
            assert error.code in (ExitCode.ROUND_FAILED, ExitCode.UNREACHABLE), error
            told = error
    raise AssertionError(f"the run does not finish: {told}")


def check(lives: Lives, results: Any) -> int:
    """Everything that must hold, whenever the site died. Returns the number of reservations that came to nothing."""
    site, study = load_site(lives.folder), load_study(lives.folder / "study.toml")
    event = budget(study, NAME, delta=study.privacy.delta).training
    assert event is not None
    book = site_ledger(site)
    rows = book.rows()
    reserved = [row for row in rows if row.state == "RESERVED"]
    wasted = sum(row.state == "VOID" for row in rows)
    drawn = [json.loads(line) for line in (lives.folder / "draws.jsonl").read_text().splitlines()]

    # the ledger against the truth: every draw was paid for, so whatever left was
    assert len({draw["update"] for draw in drawn}) == len(drawn) <= len(reserved)
    round_event = Event(event.q, event.sigma, event.steps // study.training.rounds)
    truth = epsilon([round_event] * len(drawn), delta=study.privacy.delta)
    assert book.spent(study.privacy.delta) >= truth > 0
    assert lives.spent == sorted(lives.spent), "a restart gave budget back"

    # a request has one answer, however often it is asked, and the log knows of no other
    for key, answers in lives.answers.items():
        assert len(answers) == 1, f"{key} was answered in {len(answers)} ways"
    logged = defaultdict(set)
    for row in released(site):
        logged[row.what, row.round].add(row.sha256)
    assert all(len(digests) == 1 for digests in logged.values()), "fresh bytes for a request whose answer may have left"
    before = [row.hash for row in book.rows()]
    for key, (text, arrays) in lives.requests.items():
        if key in lives.answers:
            again = lives.exchange(text, arrays)
            assert again is not None
            reply = Reply.model_validate_json(again[0])
            rows_told = "".join(row.model_dump_json() for row in reply.evaluation)
            assert lives.answers[key] == {(rows_told, tuple(sorted(again[1].items())))}, key
    assert [row.hash for row in book.rows()] == before, "a repeated request was paid again"
    assert replay(site).rows == len(released(site))

    # the run finished: with every round, or one short for each payment that came to nothing
    committed = [r.round for r in results.rounds if r.outcome == "committed"]
    assert committed == list(range(study.training.rounds - wasted + 1)), (committed, wasted)
    assert len(reserved) <= study.training.rounds
    assert len(results.evaluation) == 1
    if wasted:
        last = [r for r in results.rounds if r.outcome == "failed"][-1]
        assert last.sites[NAME].reason == Code.BUDGET
    return wasted


def points(zygote: tuple[subprocess.Popen[str], Path], folder: Path) -> list[str]:
    """What an undisturbed life does, in order; after `check`, which asks everything again."""
    process, template = zygote
    lives = Lives(process, fresh(template, folder / NAME), at=None)
    results = finish(lives, folder / "runs")
    found = (lives.folder / "points.log").read_text().splitlines()
    assert check(lives, results) == 0
    assert lives.end() == 0 and lives.deaths == 0
    return found


def test_a_site_killed_at_every_point(zygote: tuple[subprocess.Popen[str], Path], tmp_path: Path) -> None:
    process, template = zygote
    began = time.monotonic()
    names = points(zygote, tmp_path / "whole")
    third = [n for n, name in enumerate(names, 1) if name == "before noise"][2]  # a round like the second
    kills = [(n, False) for n in range(1, len(names) + 1) if not third <= n < third + 14]
    kills += [(n, True) for n, name in enumerate(names[: third - 1], 1) if name.endswith(".jsonl")]
    outcomes = defaultdict(list)
    for at, torn in kills:
        folder = tmp_path / f"{at}-{torn}"
        lives = Lives(process, fresh(template, folder / NAME), at=at, torn=torn)
        where = f"killed {'half-way through' if torn else 'before'} point {at}, {names[at - 1]}"
        try:
            results = finish(lives, folder / "runs")
            assert lives.deaths == 1
            wasted = check(lives, results)
        except Exception as error:
            raise AssertionError(where) from error
        lives.end()
        outcomes[wasted].append(where)
        shutil.rmtree(folder)
    print(f"{len(names)} points, {len(kills)} kills, {time.monotonic() - began:.1f} s")
    # a payment is lost exactly where the site died between it and the outbox
    assert len(kills) > 60 and outcomes[0] and outcomes[1] and not set(outcomes) - {0, 1}
    assert all(any(word in where for word in ("noise", "ledger", "tmp", "round_", "fsync")) for where in outcomes[1])


class WholeSite:
    """A site with its own Ray, killed with everything that it started, each time a chosen round is being computed."""

    def __init__(self, folder: Path, *, strikes: set[int]) -> None:
        self.site, self._strikes = load_site(folder), strikes
        self._process: subprocess.Popen[str] | None = None
        self.deaths = 0
        self.spent: list[float] = []
        self.last: tuple[str, dict[str, bytes], dict[str, bytes]] | None = None

    def hello(self, requests, *, deadline, arrived):
        """See `Fleet`."""
        return self.ask({site: (request, {}) for site, request in requests.items()}, deadline=deadline, arrived=arrived)

    def ask(self, questions, *, deadline, arrived):
        """See `Fleet`."""
        ((name, (request, arrays)),) = questions.items()
        strikes = request.kind == "train" and request.round in self._strikes
        if strikes:
            self._strikes.remove(request.round)
            threading.Thread(target=self._strike, daemon=True).start()
        sent = {key: to_npy(array) for key, array in arrays.items()}
        try:
            text, out = self.exchange(request.model_dump_json(), sent)
        except channel.ChannelError:
            assert strikes
            self.end()
            return {name: Missing(reason="clientapp-killed")}
        if request.kind == "train" and Reply.model_validate_json(text).status == "ok":
            self.last = request.model_dump_json(), sent, out
        arrived(name)
        return {name: (Reply.model_validate_json(text), {key: from_npy(data) for key, data in out.items()})}

    def exchange(self, text: str, arrays: dict[str, bytes]) -> tuple[str, dict[str, bytes]]:
        """Ask over the site's socket."""
        if self._process is None:
            self._start()
        folder = self.site.state_dir / "run"
        token = (folder / "token").read_text()
        return channel.call(folder / "site.sock", token, text, arrays, timeout=SECONDS)

    def _start(self) -> None:
        command = [sys.executable, str(RUNNER.with_name("whole_site.py")), str(self.site.folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        assert self._process.stdout is not None and self._process.stdout.readline().startswith("ready")

    def _strike(self) -> None:
        """As soon as the round is paid for, and while it is computed."""
        before = len(site_ledger(self.site).rows())
        while not site_ledger(self.site).rows()[before:]:
            time.sleep(0.02)
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Everything of the site is gone; what the ledger says now is kept."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(SECONDS)
        self._process = None
        self.deaths += 1
        self.spent.append(site_ledger(self.site).spent(1e-5))


def test_a_whole_site_killed_twice_in_the_middle_of_a_round(tmp_path: Path) -> None:
    """Runtime, Ray and actor die together in rounds 1 and 2: both are paid twice, and the run ends two rounds early."""
    synthesize(tmp_path / "sites", sites=["alpha", "beta"], patients=40, seed=1, modalities=QUICK)
    body = opened(load_study(tmp_path / "sites/study.toml").model_dump(mode="json", by_alias=True, exclude_none=True))
    body |= {"sites": {"alpha": {"role": "train", "patients": 32}}, "name": "whole"}
    body["training"] = {"rounds": 4, "steps": 20, "batch": 8, "encoders": "local"}
    body["privacy"], body["rounds"] = {"mode": "patient", "epsilon": 8.0}, {"quorum": 1, "deadline": 240.0}
    body["evaluation"]["bootstrap"] = 100
    study = Study.model_validate(body)
    fleet = WholeSite(tmp_path / "sites/alpha", strikes={1, 2})
    approve_study(fleet.site, study, file="study.toml")
    initial, run = select(build_model(study)), RunDirectory(tmp_path / "runs" / study.name)
    run.path.mkdir(parents=True)
    results = None
    try:
        for _ in range(3):
            try:
                results = run_study(study=study, fleet=fleet, run=run, initial=initial, log=lambda _: None)
                break
            except ConsiliumError as error:
                assert error.code is ExitCode.ROUND_FAILED
        assert results is not None and fleet.deaths == 2
        assert [r.round for r in results.rounds if r.outcome == "committed"] == [0, 1, 2]
        book, event = site_ledger(fleet.site), budget(study, "alpha", delta=study.privacy.delta).training
        states = [row.state for row in book.rows()]
        assert (states.count("RESERVED"), states.count("VOID"), states.count("COMMITTED")) == (4, 2, 2)
        assert event is not None and book.spent(study.privacy.delta) == pytest.approx(
            epsilon([event], delta=study.privacy.delta)
        )
        assert fleet.spent == sorted(fleet.spent) and fleet.spent[0] > 0
        assert fleet.last is not None and fleet.exchange(*fleet.last[:2])[1] == fleet.last[2]
        assert len(book.rows()) == len(states)
        assert replay(fleet.site).matched == len(released(fleet.site))
        assert {row.site for row in results.evaluation} == {"alpha"}
    finally:
        fleet.end()
