"""The coordinator's part of the learning curves: whom it asks when, what it accepts, keeps and tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fl_server import learning
from fl_server.checkpoint import RunDirectory
from fl_server.events import Event
from fl_server.rounds import run_study
from fl_shared.errors import ConsiliumError
from fl_shared.results import Results
from fl_shared.wire import Code

TRAIN = ("aarau", "basel", "chur")


class Crash(BaseException):
    """The coordinator dies."""


@pytest.fixture
def make(make_study: Any, make_fleet: Any, initial: Any, tmp_path: Path) -> Any:
    """Runs a study in one folder, over fake sites that tell ``value`` + 0.01 a round."""

    class Run:
        def __init__(self) -> None:
            self.path, self.events = tmp_path / "run", []

        def __call__(self, faults: Any = None, crash: Any = None, **changes: Any) -> Results:
            changes = {"evaluation": {"every": 1}, "training": {"encoders": "shared"}, **changes}
            study = make_study(**changes)
            self.fleet = fleet = make_fleet(study, faults)
            answer = fleet._answer

            def told(site: str, request: Any, arrays: Any, arrived: Any) -> Any:
                if crash == (request.kind, request.round):
                    raise Crash
                reply = answer(site, request, arrays, arrived)
                if request.kind != "learning" or isinstance(reply, str) or not hasattr(reply, "__len__"):
                    return reply
                found, out = reply
                if found.status == "ok" and not found.evaluation:
                    (row,) = fleet._rows(site)
                    point = row.model_copy(update={"value": round(0.7 + request.round / 100, 4)})
                    found = found.model_copy(update={"evaluation": (point,)})
                return found, out

            fleet._answer = told
            return run_study(
                study=study, fleet=fleet, run=RunDirectory(self.path), initial=initial, log=self.events.append
            )

        def asked(self) -> list[tuple[str, int]]:
            return [(site, number) for kind, site, number in self.fleet.asked if kind == "learning"]

    return Run()


def points(results: Results) -> list[tuple[int, str, float]]:
    return [(p.round, p.site, p.value) for p in results.learning]


def test_training_sites_are_asked_after_every_round_but_the_last(make: Any) -> None:
    results = make()
    assert make.asked() == [(site, number) for number in (1, 2) for site in TRAIN]
    early = [(number, site, 0.7 + number / 100) for number in (1, 2) for site in TRAIN]
    assert points(results) == [*early, *((3, site, 0.7) for site in TRAIN)]  # the evaluation judged these arrays
    assert {(p.metric, p.ci_low, p.ci_high) for p in results.learning} == {("auroc", 0.6, 0.8)}
    kinds = [event.status for event in make.events if event.kind == "phase"]
    assert kinds.count("learning") == 2 and kinds.index("learning") > kinds.index("commit")
    assert all(Event.model_validate_json(event.model_dump_json()) == event for event in make.events)
    assert [(phase.name, phase.first, phase.last) for phase in results.study.phases] == [("training", 1, 3)]


def test_nobody_is_asked_without_it(make: Any) -> None:
    assert make(evaluation={}).learning == () and make.asked() == []
    assert not (make.path / "learning").exists()


def test_every_second_round(make: Any) -> None:
    results = make(evaluation={"every": 2})
    assert {number for _, number in make.asked()} == {2}
    assert {number for number, _, _ in points(results)} == {2, 3}


def test_local_encoders_are_asked_for_after_the_last_round_too(make: Any) -> None:
    results = make(training={"encoders": "local"})
    assert {number for _, number in make.asked()} == {1, 2, 3}
    assert [p for p in points(results) if p[0] == 3] == [(3, site, 0.73) for site in TRAIN]


def test_the_initial_encoders_are_the_same_model(make: Any) -> None:
    make(training={"encoders": "local", "final_encoders": "initial"})
    assert {number for _, number in make.asked()} == {1, 2}


def test_a_missing_site_lacks_the_point_and_says_why(make: Any) -> None:
    faults = {
        ("chur", "learning", 1): "no-reply",
        ("chur", "learning", 2): "no-reply",
        ("aarau", "learning", 2): Code.EGRESS,
    }
    results = make(faults)
    assert [p[:2] for p in points(results)] == [
        (1, "aarau"), (1, "basel"), (2, "basel"), (3, "aarau"), (3, "basel"), (3, "chur"),
    ]  # fmt: skip
    assert "chur gave no point of its learning curve after rounds 1, 2: absent (no-reply)." in results.notes
    assert "aarau gave no point of its learning curve after round 2: failed (egress-refused)." in results.notes


def test_who_missed_the_round_is_not_asked(make: Any) -> None:
    make({("basel", "train", 2): "no-reply"})
    assert ("basel", 1) in make.asked() and ("basel", 2) not in make.asked()


def told(**changes: Any) -> Any:
    """A reply whose one row is another."""

    def fault(reply: Any, arrays: Any) -> Any:
        row = {
            "site": reply.site, "role": "train", "task": "mace", "label": "", "modalities": "all", "n": 40,
            "model": "federated", "metric": "auroc", "value": 0.7, "ci_low": 0.6, "ci_high": 0.8, "events": 12,
        }  # fmt: skip
        made = type(reply).model_validate({**reply.model_dump(), "evaluation": [{**row, **changes}]})
        return made, arrays

    return fault


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metric": "brier"}, "rows-outside-the-study"),
        ({"model": "personal"}, "rows-outside-the-study"),
        ({"subgroup": "sex=female"}, "rows-outside-the-study"),
        ({"site": "basel"}, "names-another-site"),
        ({"role": "external"}, "names-another-site"),
        ({"n": 3}, "cohort-below-minimum"),
    ],
)
def test_more_than_the_light_form_is_rejected(make: Any, changes: Any, reason: str) -> None:
    results = make({("aarau", "learning", 1): told(**changes)})
    assert (1, "aarau") not in [p[:2] for p in points(results)]
    assert f"aarau gave no point of its learning curve after round 1: rejected ({reason})." in results.notes


def test_a_row_without_value_or_interval_is_no_point(make: Any) -> None:
    faults = {("aarau", "learning", 1): told(value=None, ci_low=None, ci_high=None, note="not defined"),
              ("basel", "learning", 1): told(ci_low=None)}  # fmt: skip
    assert [p[:2] for p in points(make(faults)) if p[0] == 1] == [(1, "chur")]


@pytest.mark.parametrize("crash", [("train", 2), ("learning", 2), ("evaluate", 3)], ids=str)
def test_a_resumed_run_asks_only_what_it_lacks(make: Any, crash: tuple[str, int]) -> None:
    with pytest.raises(Crash):
        make(crash=crash)
    before = make.asked()
    results = make()
    assert sorted(before + make.asked()) == sorted((site, number) for number in (1, 2) for site in TRAIN)
    assert {number for number, _, _ in points(results)} == {1, 2, 3}


def test_points_of_another_model_are_not_told(make: Any) -> None:
    """A round that was committed anew, or a file that cannot be read, is asked for again; no stale point is told."""
    with pytest.raises(Crash):
        make(crash=("evaluate", 3))
    first, second = (make.path / "learning" / f"round_000{number}.json" for number in (1, 2))
    body = json.loads(first.read_text())
    first.write_text(json.dumps(body | {"committed": "0" * 64}))
    results = make()
    assert {number for number, _, _ in points(results)} == {2, 3}
    second.write_text(second.read_text()[:-9])
    run = RunDirectory(make.path)
    assert learning._read(run, body["committed"], 2) is None


def test_a_full_disk_ends_the_run_and_it_resumes(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(target: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fl_server.learning.durable.write_file", full)
        with pytest.raises(ConsiliumError, match="disk is full"):
            make()
    assert {number for number, _, _ in points(make())} == {1, 2, 3}
