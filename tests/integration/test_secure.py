"""Secure aggregation between the coordinator's rounds and the sites' own services, in one process."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import stats

from fl_client.approval import approve_study
from fl_client.secure_session import Sessions
from fl_client.service import SiteService
from fl_server.aggregation import aggregate, weighted_mean
from fl_server.checkpoint import RunDirectory
from fl_server.comparison.fleet import OwnSites
from fl_server.fleet import Missing
from fl_server.rounds import run_study
from fl_shared import secure
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import Findings, Results
from fl_shared.site import load_site
from fl_shared.study import Study
from fl_shared.wire import Arrays, Code, Reply, Request, digest, from_npy, to_npy

PATIENTS = {"aarau": 100, "basel": 300, "chur": 250, "davos": 77}
SITE = """schema = 1
name = "{name}"
[modalities.ehr]
kind = "table"
[tasks.death.columns]
value = "died"
[privacy]
epsilon_cap = 50.0
allow_without_privacy = true
"""
SHAPES = {"fusion.weight": (40, 30), "heads.death.bias": (1,), "heads.death.weight": (3, 5)}
SCHEMA = {name: (shape, "float32") for name, shape in SHAPES.items()}


class Stub:
    """Stands in for training: every call moves the base by random numbers, which it keeps."""

    def __init__(self) -> None:
        self.updates: list[Arrays] = []
        self.scale = 1e-2

    def load(self, study: Study) -> None: ...

    def schema(self, study: Study) -> dict[str, Any]:
        return SCHEMA

    def initial_digest(self, study: Study) -> str:
        return digest(initial())

    def train(self, study: Study, *, round: int, base: Arrays, sigma: float | None, deadline: float) -> Arrays:
        rng = np.random.default_rng()
        made = {n: (a + rng.normal(0, self.scale, a.shape)).astype(np.float32) for n, a in base.items()}
        self.updates.append(made)
        return made

    def evaluate(self, study: Study, **_: Any) -> Findings:
        return Findings()


def initial() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def make_study(**changes: Any) -> Study:
    body: dict[str, Any] = {
        "schema": 1,
        "name": "sum",
        "seed": 7,
        "sites": {name: {"role": "train", "patients": n} for name, n in PATIENTS.items()},
        "tasks": {"death": {"type": "binary"}},
        "modalities": {"ehr": {"kind": "table", "fields": ["age"]}},
        "training": {"rounds": 2, "steps": 1, "batch": 10, "encoders": "frozen"},
        "privacy": {"mode": "none", "aggregation": "secure"},
        "rounds": {"quorum": 3, "deadline": 5.0},
        "evaluation": {"salt": "saltsalt"},
    }
    for key, value in changes.items():
        body[key] = {**body[key], **value}
    return Study.model_validate(body)


Fault = Callable[[Request, Mapping[str, bytes], Reply, dict[str, bytes]], Any]


class House:
    """The sites, a fleet that sees what the coordinator sees, and faults by (site, kind, round)."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self.pools = {name: Stub() for name in study.train_sites}
        self.services: dict[str, SiteService] = {}
        self.faults: dict[tuple[str, str, int], Any] = {}
        self.seen: list[tuple[str, Request, Reply, Arrays]] = []
        self.sent: dict[tuple[str, str], tuple[Request, Arrays]] = {}
        for name in study.train_sites:
            path = folder / "sites" / name / "site.toml"
            path.parent.mkdir(parents=True)
            (path.parent / "samples.csv").write_text("patient_id,sample_id,index_time\n")
            path.write_text(SITE.format(name=name))
            approve_study(load_site(path), study, file="study.toml")
            self.start(name)

    def start(self, name: str) -> None:
        """(Re)start a site: the same state folder, nothing in memory."""
        site = load_site(self.folder / "sites" / name / "site.toml")
        self.services[name] = SiteService(site, self.pools[name])

    def state(self, name: str) -> Path:
        return self.folder / "sites" / name / "state"

    def hello(self, requests: Any, *, deadline: float, arrived: Any) -> Any:
        return OwnSites(self.services).hello(requests, deadline=deadline, arrived=arrived)

    def ask(self, questions: Any, *, deadline: float, arrived: Any) -> Any:
        found: dict[str, Any] = {}
        for site, (request, arrays) in questions.items():
            self.sent[site, request.kind] = request, arrays
            fault = self.faults.get((site, request.kind, request.round))
            if fault == "dead":
                found[site] = Missing(reason="no-reply")
                continue
            if callable(fault):
                fault()
            reply, out = self.put(site, request, arrays)
            self.seen.append((site, request, reply, out))
            found[site] = Missing(reason="no-reply") if fault == "lost" else (reply, out)
        return found

    def put(self, site: str, request: Request, arrays: Arrays) -> tuple[Reply, Arrays]:
        text, out = self.services[site].handle(
            request.model_dump_json(), {name: to_npy(array) for name, array in arrays.items()}
        )
        return Reply.model_validate_json(text), {name: from_npy(data) for name, data in out.items()}

    def again(self, site: str, kind: str, **changes: Any) -> tuple[Reply, Arrays]:
        """A question that the site was asked before, changed or not."""
        request, arrays = self.sent[site, kind]
        arrays = changes.pop("arrays", arrays)
        return self.put(site, request.model_copy(update=changes), arrays)

    def run(self, *, folder: str = "run") -> Results:
        run = RunDirectory(self.folder / folder)
        run.path.mkdir(parents=True, exist_ok=True)
        return run_study(study=self.study, fleet=self, run=run, initial=initial(), log=lambda _: None)

    def model(self, number: int, *, folder: str = "run") -> Arrays:
        return load_file(self.folder / folder / f"rounds/round_{number:04d}/model.safetensors")

    def mean(self, number: int, sites: list[str]) -> dict[str, np.ndarray]:
        """The weighted mean of what these sites' trainers gave in a round: an independent float64 loop."""
        total = sum(PATIENTS[site] for site in sites)
        updates = {site: self.pools[site].updates[number - 1] for site in sites}
        return {n: sum(PATIENTS[s] / total * updates[s][n].astype(np.float64) for s in sites) for n in SHAPES}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(make_study(), tmp_path)


def assert_mean(found: Arrays, expected: Mapping[str, np.ndarray]) -> None:
    for name, array in expected.items():
        near = 2.0 ** -(secure.bits(make_study()) + 1) + np.abs(array) * 2.0**-24  # quantisation, then float32
        assert (np.abs(found[name] - array) <= near).all(), name


ALL = sorted(PATIENTS)


def test_the_mean_of_four_sites(house: House) -> None:
    results = house.run()
    assert [r.outcome for r in results.rounds] == ["committed"] * 3
    assert {s.status for r in results.rounds[1:] for s in r.sites.values()} == {"accepted"}
    for number in (1, 2):
        assert_mean(house.model(number), house.mean(number, ALL))
    assert (results.privacy.aggregation, len(house.seen)) == ("secure", 2 * 4 * 4 + 4)


@pytest.mark.parametrize("kind", ["keys", "shares", "train"])
def test_a_site_that_drops_out_is_left_out_of_the_mean(house: House, kind: str) -> None:
    house.faults["basel", kind, 1] = "dead"
    results = house.run()
    others = [site for site in ALL if site != "basel"]
    assert {site: s.status for site, s in results.rounds[1].sites.items()} == {
        site: "absent" if site == "basel" else "accepted" for site in ALL
    }
    assert_mean(house.model(1), house.mean(1, others))


def test_a_site_that_drops_out_before_unmasking_is_in_the_mean(house: House) -> None:
    house.faults["chur", "unmask", 1] = "dead"
    results = house.run()
    assert results.rounds[1].sites["chur"].status == "accepted"  # its update counts
    assert_mean(house.model(1), house.mean(1, ALL))


def test_too_few_sites_fail_the_round_and_open_nothing(house: House) -> None:
    house.faults |= {("basel", "train", 1): "dead", ("chur", "train", 1): "dead"}
    with pytest.raises(ConsiliumError) as caught:
        house.run()
    assert caught.value.code == ExitCode.ROUND_FAILED and {f.key for f in caught.value.faults} == {
        "sites.basel", "sites.chur",
    }  # fmt: skip
    assert not any(request.kind == "unmask" for _, request, *_ in house.seen)
    house.faults.clear()
    assert [r.outcome for r in house.run().rounds] == ["committed", "failed", "committed", "committed"]


def test_too_few_shares_fail_the_round(house: House) -> None:
    house.faults |= {("basel", "unmask", 1): "dead", ("chur", "unmask", 1): "dead"}
    with pytest.raises(ConsiliumError) as caught:
        house.run()
    assert {f.key: f.problem for f in caught.value.faults} == {
        "sites.aarau": "sum-not-opened", "sites.basel": "no-reply", "sites.chur": "no-reply",
        "sites.davos": "sum-not-opened",
    }  # fmt: skip


def test_what_the_coordinator_sees_is_uniform_and_never_one_update(house: House) -> None:
    house.run()
    hidden = set()
    for site in ALL:
        base, bits = initial(), secure.bits(house.study)
        plain = secure.encode(house.pools[site].updates[0], base, patients=PATIENTS[site], bits=bits)
        hidden |= {hashlib.sha256(plain.tobytes()).hexdigest(), hashlib.sha256((~plain + 1).tobytes()).hexdigest()}
    masked = [out["masked"] for _, request, _, out in house.seen if request.kind == "train"]
    assert len(masked) == 8
    for vector in masked:
        counts = np.bincount(np.frombuffer(vector.tobytes(), dtype=np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
        assert abs(np.corrcoef(vector[:-1], vector[1:])[0, 1]) < 0.15
    assert len({digest({"v": vector}) for vector in masked}) == 8
    seen = [array for *_, out in house.seen for array in out.values()]
    assert not hidden & {hashlib.sha256(np.asarray(array).tobytes()).hexdigest() for array in seen}


def watched(act: Callable[[], Any], plain: list[Arrays]) -> int:
    """How often a variable of the coordinator's code (or of what it shares) held one site's update while it ran:
    its parameters, their difference to the start, or that difference in fixed point."""
    base, unit, held = initial(), 2.0 ** secure.bits(make_study()), 0
    moved = [{name: update[name] - base[name] for name in SHAPES} for update in plain]
    flat = [np.concatenate([part[name].ravel() for name in sorted(part)]) for part in moved]
    known = [array for named in (*plain, *moved) for array in named.values() if array.size > 1] + flat

    def is_one(array: np.ndarray) -> bool:
        forms = [array] if array.dtype.kind == "f" else []
        if array.dtype.kind in "iu" and array.size == len(flat[0]):
            forms = [sign * array.view(np.int64) / unit / n for n in PATIENTS.values() for sign in (1, -1)]
        return any(f.shape == one.shape and np.allclose(f, one, rtol=0, atol=1e-5) for f in forms for one in known)

    def search(value: Any, depth: int = 0) -> bool:
        if isinstance(value, np.ndarray):
            return is_one(value)
        if depth < 3 and isinstance(value, Mapping):
            return any(search(inner, depth + 1) for inner in value.values())
        return depth < 3 and isinstance(value, list | tuple) and any(search(inner, depth + 1) for inner in value)

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal held
        if (
            "/server/fl_server/" not in frame.f_code.co_filename
            and "/shared/fl_shared/" not in frame.f_code.co_filename
        ):
            return None
        if event in ("line", "return"):
            held += any(search(value) for value in list(frame.f_locals.values()))
        return trace

    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(None)
    return held


def test_no_variable_of_the_coordinator_ever_holds_one_update(house: House, tmp_path: Path) -> None:
    """The recorded answers are played to a coordinator alone, and its variables are searched at every line."""
    house.faults["basel", "train", 1] = "dead"
    house.run()
    played = {(site, request.kind, request.round): (reply, out) for site, request, reply, out in house.seen}
    plain = [house.pools[site].updates[0] for site in ("aarau", "chur", "davos")]

    class Player:
        hello = staticmethod(house.hello)

        def ask(self, questions: Any, *, deadline: float, arrived: Any) -> Any:
            return {s: played.get((s, r.kind, r.round), Missing(reason="no-reply")) for s, (r, _) in questions.items()}

    def conduct() -> None:
        run = RunDirectory(tmp_path / "played")
        run.path.mkdir()
        run_study(study=house.study, fleet=Player(), run=run, initial=initial(), log=lambda _: None)

    assert watched(conduct, plain) == 0
    updates = {site: house.pools[site].updates[0] for site in ("aarau", "chur")}
    assert watched(lambda: weighted_mean(study=house.study, base=initial(), updates=updates), plain) > 0, "it can see"
    assert watched(lambda: secure.encode(plain[0], initial(), patients=100, bits=secure.bits(house.study)), plain) > 0
    seeds = [out for (_, kind, number), (_, out) in played.items() if (kind, number) == ("unmask", 1)]
    lengths = {name: {len(out[name]) for out in seeds} for name in seeds[0]}
    assert lengths == {"secure.aarau": {52}, "secure.basel": {324}, "secure.chur": {52}, "secure.davos": {52}}


def test_a_late_update_of_a_dropped_site_stays_masked(house: House) -> None:
    """Its pair masks can be taken off with the shares of its key, its own mask cannot: the shares of its seed stay."""
    house.faults["basel", "train", 1] = "lost"  # it answered too late
    house.run()
    assert_mean(house.model(1), house.mean(1, ["aarau", "chur", "davos"]))
    kinds = {len(out["secure.basel"]) for _, r, _, out in house.seen if r.kind == "unmask" and r.round == 1}
    assert kinds == {324}


def stopped(house: House, kind: str) -> None:
    """Run until a question of the first round has been asked of the last site, then stop the coordinator."""

    def stop() -> None:
        raise KeyboardInterrupt

    house.faults[ALL[-1], kind, 1] = stop
    with pytest.raises(KeyboardInterrupt):
        house.run()
    house.faults.clear()


def test_a_sum_is_opened_once_and_over_one_set_of_sites(house: House) -> None:
    house.run()
    assert house.again("aarau", "unmask")[0].code == Code.SECURE
    dead = {secure.ACTIVE: np.array([1, 0, 1, 1])}  # the other secret of basel
    assert house.again("aarau", "unmask", arrays=dead)[0].code == Code.SECURE
    # a whole new run of the protocol from the same start, without basel: the difference would be its update
    house.faults["basel", "train", 2] = "dead"
    (house.folder / "run/rounds/round_0002/manifest.json").unlink()
    (house.folder / "run/results.json").unlink()
    house.seen.clear()
    with pytest.raises(ConsiliumError) as caught:
        house.run()
    assert {f.problem for f in caught.value.faults} == {Code.SECURE, "no-reply"}
    assert [out for _, request, _, out in house.seen if request.kind == "unmask"] == [{}, {}, {}]
    house.faults.clear()
    assert house.run().rounds[-1].outcome == "committed"  # over the same sites it is the same sum
    assert all(len(pool.updates) == 2 for pool in house.pools.values())
    assert_mean(house.model(2), house.mean(2, ALL))


def test_a_round_that_was_opened_is_not_begun_from_another_start(house: House) -> None:
    house.run()
    other = {name: array + np.float32(1e-6) for name, array in house.model(1).items()}
    reply, _ = rehearsed(house, 2, base=other)["aarau"]
    assert reply.code == Code.SECURE
    assert all(len(pool.updates) == 2 for pool in house.pools.values()), "nothing was computed"


def rehearsed(house: House, number: int, *, base: Arrays) -> dict[str, tuple[Reply, Arrays]]:
    """The answers to `train` of one run of the protocol, put together without the coordinator's code."""

    def ask(kind: Any, arrays: Arrays) -> dict[str, tuple[Reply, Arrays]]:
        request = Request(
            kind=kind, study=house.study.identity, round=number, base=digest(base), initial=digest(initial())
        )
        return {site: house.put(site, request, arrays) for site in ALL}

    keys = {name: array for _, out in ask("keys", {}).values() for name, array in out.items()}
    sealed = {name: array for _, out in ask("shares", keys).values() for name, array in out.items()}
    return ask("train", {**base, **sealed})


@pytest.mark.parametrize(
    "active",
    [[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]],
    ids=["fewer than the quorum", "without the asked site", "nobody"],
)
def test_what_is_not_opened(house: House, active: list[int]) -> None:
    answers = rehearsed(house, 1, base=initial())
    assert all(out["masked"].dtype == np.int64 for _, out in answers.values())
    request = Request(kind="unmask", study=house.study.identity, round=1, initial=digest(initial()))
    assert house.put("aarau", request, {secure.ACTIVE: np.array(active)})[0].code == Code.SECURE
    longer = {secure.ACTIVE: np.array([1, 1, 1, 1, 1])}
    assert house.put("aarau", request, longer)[0].code == Code.WRONG_SCHEMA
    assert house.put("aarau", request, {secure.ACTIVE: np.array([1, 0, 1, 1])})[0].status == "ok"
    assert house.put("aarau", request, {secure.ACTIVE: np.array([1, 1, 1, 1])})[0].code == Code.SECURE


def test_replays_and_another_order_are_refused(house: House) -> None:
    house.run()
    site = "aarau"
    assert house.again(site, "train")[0].code == Code.SECURE  # no session
    assert house.again(site, "shares")[0].code == Code.SECURE
    assert house.again(site, "keys")[0].status == "ok"
    assert house.again(site, "train")[0].code == Code.SECURE  # shares are missing
    assert house.again(site, "shares")[0].code == Code.SECURE  # with keys that this session never made
    assert house.again(site, "shares", round=1)[0].code == Code.SECURE  # of another round


def test_shares_of_another_round_do_not_open(house: House) -> None:
    house.run()
    kept = house.sent["aarau", "train"]
    keys = {}
    for site in ALL:
        keys |= house.again(site, "keys")[1]
    for site in ALL:
        assert house.again(site, "shares", arrays=keys)[0].status == "ok"
    request, arrays = kept
    assert house.put("aarau", request, arrays)[0].code == Code.SECURE


def test_keys_of_strangers_are_refused(house: House) -> None:
    house.run()
    keys: dict[str, Any] = {}
    for site in ALL:
        keys |= house.again(site, "keys")[1]
    stranger = {**keys, "secure.mallory": keys["secure.basel"]}
    assert house.again("aarau", "shares", arrays=stranger)[0].code == Code.WRONG_SCHEMA
    twice = {**keys, "secure.basel": keys["secure.chur"]}
    assert house.again("aarau", "shares", arrays=twice)[0].code == Code.SECURE
    few = {name: keys[name] for name in ("secure.aarau", "secure.basel")}
    assert house.again("aarau", "shares", arrays=few)[0].code == Code.SECURE
    junk = {**keys, "secure.basel": np.zeros_like(keys["secure.basel"])}
    assert house.again("aarau", "shares", arrays=junk)[0].code == Code.SECURE
    assert house.again("aarau", "shares", arrays=keys)[0].status == "ok"


def test_sites_that_are_shown_different_starts_give_no_sum(house: House) -> None:
    """Model inconsistency: one site trains from a start made for it; its masks then do not cancel."""
    original = house.ask

    def two_faced(questions: Any, *, deadline: float, arrived: Any) -> Any:
        for site, (request, arrays) in list(questions.items()):
            if request.kind == "train" and site == "basel":
                other = {**arrays, "fusion.weight": np.zeros_like(arrays["fusion.weight"])}
                questions[site] = (request.model_copy(update={"base": secure.model_digest(other)}), other)
        return original(questions, deadline=deadline, arrived=arrived)

    house.ask = two_faced  # type: ignore[method-assign]
    with pytest.raises(ConsiliumError) as caught:
        house.run()
    assert {f.problem for f in caught.value.faults} == {"sum-not-opened"}


def test_a_site_that_restarts_within_a_round_drops_out(house: House) -> None:
    house.faults["basel", "train", 1] = lambda: house.start("basel")
    results = house.run()
    assert results.rounds[1].sites["basel"].reason == Code.SECURE
    assert_mean(house.model(1), house.mean(1, ["aarau", "chur", "davos"]))
    assert results.rounds[2].sites["basel"].status == "accepted"


@pytest.mark.parametrize("kind", ["shares", "train", "unmask"])
def test_after_a_crash_of_the_coordinator_updates_are_the_same_and_masks_are_not(house: House, kind: str) -> None:
    stopped(house, kind)
    first = {site: out["masked"] for site, r, _, out in house.seen if r.kind == "train"}
    house.seen.clear()
    house.run()
    assert all(len(pool.updates) == 2 for pool in house.pools.values())  # one a round, none twice
    assert_mean(house.model(1), house.mean(1, ALL))
    for site, r, _, out in house.seen:
        if r.kind == "train" and r.round == 1 and site in first:
            assert not np.array_equal(out["masked"], first[site])


def test_privacy_is_paid_once_and_the_outbox_serves_again(tmp_path: Path) -> None:
    house = House(make_study(privacy={"mode": "patient", "epsilon": 8.0}), tmp_path)
    stopped(house, "unmask")
    house.run()
    for site in ALL:
        rows = [json.loads(line) for line in (house.state(site) / "ledger.jsonl").read_text().splitlines()]
        assert [(r["round"], r["state"]) for r in rows] == [
            (1, "RESERVED"), (1, "COMMITTED"), (2, "RESERVED"), (2, "COMMITTED"),
        ]  # fmt: skip


def test_a_plain_update_never_leaves_a_secure_study(house: House) -> None:
    house.run()
    request, arrays = house.sent["aarau", "train"]
    model = {name: array for name, array in arrays.items() if not name.startswith(secure.PREFIX)}
    reply, out = house.put("aarau", request, model)
    assert (reply.code, out) == (Code.SECURE, {})


def test_a_diverged_update_is_a_failure_of_its_site(house: House) -> None:
    house.pools["basel"].scale = 1e6
    results = house.run()
    assert results.rounds[1].sites["basel"].reason == Code.NOT_FINITE
    assert_mean(house.model(1), house.mean(1, ["aarau", "chur", "davos"]))


def test_a_session_in_files_is_one_session_of_several_processes(house: House) -> None:
    """The simulation's sites move between workers: every question is answered by a service that knows files only."""
    for site in ALL:
        state = house.state(site) / "sessions"
        house.services[site] = SiteService(
            load_site(house.folder / "sites" / site / "site.toml"), house.pools[site], sessions=Sessions(state)
        )
        for kind in ("shares", "train", "unmask"):
            house.faults[site, kind, 1] = lambda site=site, state=state: house.services.update(
                {site: SiteService(house.services[site].site, house.pools[site], sessions=Sessions(state))}
            )
    assert [r.outcome for r in house.run().rounds] == ["committed"] * 3
    assert_mean(house.model(1), house.mean(1, ALL))
    assert not any((house.state(site) / "sessions").glob("*")), "secrets are gone"


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_server_optimisers_take_the_step_of_the_mean(tmp_path: Path, strategy: str) -> None:
    house = House(make_study(training={"strategy": strategy}), tmp_path)
    house.run()
    state: Arrays = {}
    for number in (1, 2):
        updates = {site: house.pools[site].updates[number - 1] for site in ALL}
        expected, state = aggregate(
            study=house.study, round_number=number, base=house.model(number - 1), updates=updates, state=state
        )
        for name in SHAPES:
            np.testing.assert_allclose(house.model(number)[name], expected[name], rtol=2e-6, atol=2e-7)
