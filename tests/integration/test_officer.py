"""What left, withdrawing and training anew: a federation in one process, of the services and pools of a simulation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fl_client.approval import approve_study
from fl_client.egress_log import released, replay
from fl_client.service import SiteService
from fl_client.training.actors import LocalPool
from fl_client.withdraw import withdraw
from fl_server.checkpoint import RunDirectory
from fl_server.comparison.fleet import OwnSites
from fl_server.rounds import run_study
from fl_server.simulation import simulated_site
from fl_server.without import told, write_without
from fl_shared.accounting import epsilon
from fl_shared.budget import budget
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.metrics.table import METRICS
from fl_shared.models.build import build_model, select
from fl_shared.models.systems import opened
from fl_shared.results import Results
from fl_shared.study import Study, load_study
from fl_shared.wire import Code, Reply, Request, digest, to_npy
from fl_shared.written import write_model
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.plans import QUICK

pytestmark = pytest.mark.integration
SITES = ("alpha", "beta", "gamma")
ROUNDS = 3


class Watched(OwnSites):
    """Keeps what every site gave, and lets a site withdraw before a request of a kind and round."""

    def __init__(self, services: dict[str, SiteService], *, leaves: tuple[str, str, int] | None = None) -> None:
        super().__init__(services)
        self.services, self.leaves = services, leaves
        self.asked: list[tuple[str, str, int]] = []
        self.gave: list[tuple[str, Reply, dict[str, Any]]] = []

    def ask(self, questions, *, deadline, arrived):
        for site, (request, _) in questions.items():
            self.asked.append((site, request.kind, request.round))
            if self.leaves == (site, request.kind, request.round):
                withdraw(self.services[site].site, request.study, reason="patients asked")
        answers = super().ask(questions, deadline=deadline, arrived=arrived)
        self.gave += [(site, *answer) for site, answer in answers.items()]
        return answers


class Federation:
    """Three synthetic hospitals that all train, and the study of their run."""

    def __init__(self, root: Path) -> None:
        synthesize(root / "sites", sites=list(SITES), patients=60, seed=1, modalities=QUICK)
        self.root = root
        body = opened(load_study(root / "sites/study.toml").model_dump(mode="json", by_alias=True, exclude_none=True))
        body["sites"] = {name: {"role": "train", "patients": 48} for name in SITES}
        body["training"] |= {"rounds": ROUNDS, "steps": 2, "batch": 8}
        body["training"].pop("phases", None)
        body["privacy"] = {"mode": "patient", "epsilon": 8.0}
        body["rounds"] = {"quorum": 2, "deadline": 60.0}
        body["evaluation"]["bootstrap"] = 100
        self.study = Study.model_validate(body | {"name": "walk"})
        self.path = root / "walk.toml"
        write_model(self.path, self.study, header="test")
        assert load_study(self.path).identity == self.study.identity
        self.initial = select(build_model(self.study))

    def services(self, state: Path, pools: type[LocalPool] = LocalPool) -> dict[str, SiteService]:
        found = {}
        for name in SITES:
            site = simulated_site(self.root / "sites", state, name)
            approve_study(site, self.study, file="study.toml")
            found[name] = SiteService(site, pools(site))
        return found

    def run(self, folder: Path, fleet: Watched) -> Results:
        run = RunDirectory(folder / "runs" / self.study.name)
        run.path.mkdir(parents=True, exist_ok=True)
        return run_study(study=self.study, fleet=fleet, run=run, initial=self.initial, log=lambda _: None)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("officer"))


def site_of(results: Results, site: str) -> list[tuple[int, str, str]]:
    return [(r.round, r.sites[site].status, r.sites[site].reason) for r in results.rounds if site in r.sites]


@pytest.fixture(scope="module")
def withdrawn(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watched, Results]:
    """A run that beta leaves before its second round."""
    folder = tmp_path_factory.mktemp("withdrawn")
    fleet = Watched(federation.services(folder / "state"), leaves=("beta", "train", 2))
    return folder, fleet, federation.run(folder, fleet)


def test_the_study_goes_on_without_who_withdrew(withdrawn: tuple[Path, Watched, Results]) -> None:
    _, fleet, results = withdrawn
    assert [r.outcome for r in results.rounds] == ["committed"] * (ROUNDS + 1)
    gone = [(number, "failed", Code.WITHDRAWN) for number in (2, 3)]
    assert site_of(results, "beta") == [(1, "accepted", ""), *gone]
    assert [(s, k, n) for s, k, n in fleet.asked if s == "beta" and n] == [("beta", "train", 1), ("beta", "train", 2)]
    assert {row.site for row in results.evaluation} == {"alpha", "gamma"}
    (note,) = [note for note in results.notes if "beta withdrew" in note]
    assert note.startswith("beta withdrew after round 1; its updates are in round 1. To train without")
    assert "patients asked" not in results.model_dump_json()


def test_the_site_wrote_down_what_it_gave(withdrawn: tuple[Path, Watched, Results], federation: Federation) -> None:
    _, fleet, _ = withdrawn
    site = fleet.services["beta"].site
    record = json.loads((site.state_dir / "withdrawn" / f"{federation.study.identity}.json").read_text())
    assert (record["rounds"], record["evaluations"], record["reason"]) == ([1], 0, "patients asked")
    (row,) = released(site)
    assert (row.what, row.round, row.bytes) == ("train", 1, record["bytes"])


def test_everything_that_left_passed_the_gate(withdrawn: tuple[Path, Watched, Results]) -> None:
    """Also in a simulation: what the coordinator got is what the sites logged, byte for byte, and can be replayed."""
    _, fleet, _ = withdrawn
    for name, service in fleet.services.items():
        logged = {row.sha256 for row in released(service.site)}
        gave = [(reply, arrays) for site, reply, arrays in fleet.gave if site == name]
        arrays = [arrays for _, arrays in gave if arrays]
        assert len(arrays) >= (1 if name == "beta" else ROUNDS)
        assert {digest(each) for each in arrays} <= logged
        told = [row for reply, _ in gave for row in reply.evaluation]
        assert bool(told) == (name != "beta")
        assert all(row.value is None or row.value == METRICS[row.metric].rounded(row.value) for row in told)
        assert replay(service.site).matched == len(released(service.site))


def test_a_resumed_run_says_hello_again(withdrawn: tuple[Path, Watched, Results], federation: Federation) -> None:
    """Withdrawn still: greeted, not asked. Approved anew: it judges."""
    folder, fleet, _ = withdrawn
    results = folder / "runs" / "walk" / "results.json"
    results.unlink()
    fleet.asked.clear()
    fleet.leaves = None
    again = federation.run(folder, fleet)
    assert [kind for site, kind, _ in fleet.asked if site == "beta"] == ["hello"]
    assert [note for note in again.notes if "beta withdrew" in note]
    results.unlink()
    approve_study(fleet.services["beta"].site, federation.study, file="study.toml")
    back = federation.run(folder, fleet)
    assert {row.site for row in back.evaluation} == set(SITES)
    assert not [note for note in back.notes if note.startswith("beta withdrew")]


def test_too_few_remain(federation: Federation, tmp_path: Path) -> None:
    """Below the quorum the run stops, names who withdrew, and says what can be done."""
    fleet = Watched(federation.services(tmp_path / "state"), leaves=("beta", "train", 1))
    withdraw(fleet.services["alpha"].site, federation.study.identity)
    with pytest.raises(ConsiliumError, match="refuse it") as error:
        federation.run(tmp_path, fleet)
    (fault,) = error.value.faults
    assert (fault.key, fault.problem) == ("sites.alpha", Code.WITHDRAWN) and "fl-server without" in fault.mend
    approve_study(fleet.services["alpha"].site, federation.study, file="study.toml")
    fleet.services["gamma"]._desk.pool.train = None  # type: ignore[method-assign, assignment] # fails
    with pytest.raises(ConsiliumError) as error:
        federation.run(tmp_path, fleet)
    assert error.value.code is ExitCode.ROUND_FAILED
    mends = {fault.key: fault.mend for fault in error.value.faults}
    assert "fl-server without STUDY.toml beta" in mends["sites.beta"] and "without" not in mends["sites.gamma"]


def test_training_anew_without_the_site(
    withdrawn: tuple[Path, Watched, Results], federation: Federation, tmp_path: Path
) -> None:
    folder, _, _ = withdrawn
    out = tmp_path / "new.toml"
    found = write_without(federation.path, "beta", out=out, runs=folder / "runs")
    new = load_study(out)
    assert new.name == "walk_without_beta" == found.name and new.identity == found.hash != federation.study.identity
    assert new.train_sites == ("alpha", "gamma") and found.quorum == (2, 2)
    same = {"name", "sites"}
    assert new.model_dump(exclude=same) == federation.study.model_dump(exclude=same)
    assert (found.contained_in, found.rounds) == ((1,), ROUNDS)
    delta = new.privacy.delta
    for name in ("alpha", "gamma"):
        event = budget(federation.study, name, delta=delta).training
        assert event is not None
        assert found.payments[name].spent == pytest.approx(epsilon([event], delta=delta))
        assert found.payments[name].total == pytest.approx(epsilon([event, event], delta=delta))
        assert found.payments[name].total < 2 * found.payments[name].spent
    text = "\n".join(told(found))
    assert "contain updates of beta: 1" in text and "alpha pays anew from its own ledger" in text


@pytest.mark.parametrize(("site", "message"), [("gama", "no site 'gama'"), ("alpha", "exists already")])
def test_what_cannot_be_written(federation: Federation, tmp_path: Path, site: str, message: str) -> None:
    (tmp_path / "new.toml").touch()
    with pytest.raises(ConsiliumError, match=message):
        write_without(federation.path, site, out=tmp_path / "new.toml", runs=tmp_path)


def test_a_quorum_that_nobody_reaches_is_lowered_or_told(federation: Federation, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(federation.path.read_text().replace("quorum = 2", "quorum = 3"))
    found = write_without(path, "beta", out=tmp_path / "two.toml", runs=tmp_path)
    assert found.quorum == (3, 2) and "quorum 3 lowered to 2" in "\n".join(told(found))
    assert found.contained_in == () and found.payments["alpha"].spent is None
    write_without(tmp_path / "two.toml", "alpha", out=tmp_path / "one.toml", runs=tmp_path)
    with pytest.raises(ConsiliumError, match="the only training site") as error:
        write_without(tmp_path / "one.toml", "gamma", out=tmp_path / "none.toml", runs=tmp_path)
    assert error.value.code is ExitCode.STUDY and not (tmp_path / "none.toml").exists()


class Leaky(LocalPool):
    """A trainer with a bug: it hands out a local encoder with the update."""

    def train(self, study: Study, **arguments: Any) -> Any:
        update = dict(super().train(study, **arguments))
        extra = next(name for name in self.schema(study) if not study.is_shared(name))
        return update | {extra: super().encoders(study, deadline=1.0)[extra]}


def test_the_gate_holds_in_a_simulation_too(federation: Federation, tmp_path: Path) -> None:
    site = federation.services(tmp_path / "state", Leaky)["alpha"]
    study = federation.study
    base = {name: array for name, array in federation.initial.items() if study.is_shared(name)}
    request = Request(
        kind="train", study=study.identity, round=1, base=digest(base), initial=digest(federation.initial)
    )
    text, out = site.handle(request.model_dump_json(), {name: to_npy(array) for name, array in base.items()})
    assert (Reply.model_validate_json(text).code, out) == (Code.EGRESS, {})
    assert released(site.site) == ()
