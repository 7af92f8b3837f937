"""The life of a study against the FAKE fleet of conftest.py."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fl_server.checkpoint import RunDirectory
from fl_server.rounds import run_study
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.wire import Code, digest


class Killed(BaseException):
    """Stands for a killed process: not an Exception, so nothing tidies up after it."""


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """These tests kill processes, not the machine: what a power cut would need is left out to save time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def live(tmp_path, initial):
    def start(study, fleet, *, folder="toy", log=lambda event: None):
        return run_study(study=study, fleet=fleet, run=RunDirectory(tmp_path / folder), initial=initial, log=log)

    return start


def final_digest(tmp_path, study, folder="toy"):
    run = RunDirectory(tmp_path / folder)
    last = run.latest(study=study.identity)
    return digest(run.load_final(last=last).model), last.manifest.round


def statuses(results, number, outcome="committed"):
    found = next(r for r in results.rounds if (r.round, r.outcome) == (number, outcome))
    return {site: (s.status, s.reason) for site, s in found.sites.items()}


def test_an_undisturbed_study(live, make_study, make_fleet, tmp_path, initial):
    study, events = make_study(), []
    fleet = make_fleet(study)
    results = live(study, fleet, log=events.append)

    assert [(r.round, r.outcome) for r in results.rounds] == [(n, "committed") for n in range(4)]
    assert [row.site for row in results.evaluation] == ["aarau", "basel", "chur", "davos"]
    assert results.privacy.epsilon_spent == {"aarau": 3.0, "basel": 3.0, "chur": 3.0}
    assert results.notes == study.warnings()
    assert RunDirectory(tmp_path / "toy").read_results() == results

    run = RunDirectory(tmp_path / "toy")
    last = run.latest(study=study.identity)
    final = run.load_final(last=last).model
    assert set(last.model) == {"fusion.weight", "heads.mace.scale", "heads.mace.steps"}
    assert set(final) == set(initial)
    # training moves a third of the way to each target, so the weighted mean moves a third of the way to theirs
    goal = (100 * 1.0 + 300 * -2.0 + 250 * 0.3) / 650
    expected = goal + (initial["fusion.weight"] - goal) * (2 / 3) ** 3
    np.testing.assert_allclose(final["fusion.weight"], expected, rtol=1e-5)
    np.testing.assert_allclose(final["encoders.ecg.weight"], goal / 7, rtol=1e-6)

    asked = {kind: [(s, n) for k, s, n in fleet.asked if k == kind] for kind in ("train", "encoders", "evaluate")}
    assert asked["train"] == [(s, n) for n in (1, 2, 3) for s in ("aarau", "basel", "chur")]
    assert asked["encoders"] == [("aarau", 3), ("basel", 3), ("chur", 3)]
    assert [s for s, _ in asked["evaluate"]] == ["aarau", "basel", "chur", "davos"]
    kinds = [event.kind for event in events if event.kind != "site"]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"
    assert kinds.count("round_committed") == 3


def change(**arrays):
    return lambda reply, update: (reply, {k: v for k, v in {**update, **arrays}.items() if v is not None})


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        (change(**{"fusion.weight": np.full((2, 3), np.nan, np.float32)}), "rejected", "not-finite"),
        (change(**{"fusion.weight": np.zeros((3, 2), np.float32)}), "rejected", "wrong-shape"),
        (change(**{"fusion.weight": np.zeros((2, 3), np.float64)}), "rejected", "wrong-dtype"),
        (change(**{"fusion.weight": np.full((2, 3), 1e6, np.float32)}), "rejected", "norm-exceeds-limit"),
        (change(**{"encoders.ecg.weight": np.zeros(4, np.float32)}), "rejected", "unknown-arrays"),
        (change(**{"heads.mace.scale": None}), "rejected", "missing-arrays"),
        (lambda r, a: (r.model_copy(update={"site": "aarau"}), a), "rejected", "names-another-site"),
        (Code.TRAINER, "failed", "trainer-failed"),
        ("clientapp-killed", "absent", "clientapp-killed"),
    ],
)
def test_a_bad_site_is_named_left_out_of_the_round_and_asked_again(
    live, make_study, make_fleet, tmp_path, fault, status, reason
):
    study = make_study()
    results = live(study, make_fleet(study, {("basel", "train", 2): fault}))
    assert statuses(results, 2) == {"aarau": ("accepted", ""), "basel": (status, reason), "chur": ("accepted", "")}
    assert statuses(results, 3)["basel"] == ("accepted", "")
    # as if basel had been away in that round: nothing of its answer entered the model
    live(study, make_fleet(study, {("basel", "train", 2): "no-reply"}), folder="away")
    assert final_digest(tmp_path, study) == final_digest(tmp_path, study, "away")


def test_a_reply_in_anothers_name_counts_for_neither(live, make_study, make_fleet):
    study = make_study()
    impostor = {("basel", "train", 1): lambda r, a: (r.model_copy(update={"site": "aarau", "epsilon": 99.0}), a)}
    results = live(study, make_fleet(study, impostor))
    assert statuses(results, 1)["aarau"] == ("accepted", "")
    assert results.privacy.epsilon_spent == {"aarau": 3.0, "basel": 3.0, "chur": 3.0}


def test_optimiser_state_passes_from_round_to_round(live, make_study, make_fleet, tmp_path, initial):
    study = make_study(training={"strategy": "fedavgm"})
    live(study, make_fleet(study))
    goal, x, momentum = (100 * 1.0 + 300 * -2.0 + 250 * 0.3) / 650, initial["fusion.weight"].astype(float), 0.0
    for _ in range(3):
        momentum = 0.9 * momentum + (goal - x) / 3
        x = x + momentum
    last = RunDirectory(tmp_path / "toy").latest(study=study.identity)
    np.testing.assert_allclose(last.model["fusion.weight"], x, rtol=1e-5)


def test_a_missed_quorum_fails_loudly_is_recorded_and_resumes(live, make_study, make_fleet, tmp_path):
    study = make_study()
    faults = {("aarau", "train", 2): "no-reply", ("basel", "train", 2): Code.DATA}
    fleet, events = make_fleet(study, faults), []
    with pytest.raises(ConsiliumError) as error:
        live(study, fleet, log=events.append)
    assert error.value.code == ExitCode.ROUND_FAILED
    assert {(f.key, f.problem) for f in error.value.faults} == {
        ("sites.aarau", "no-reply"),
        ("sites.basel", "site-data-rejected"),
    }
    assert [e.kind for e in events][-2:] == ["round_failed", "run_failed"]
    fleet.faults = {}
    results = live(study, fleet)
    assert [(r.round, r.outcome) for r in results.rounds] == [
        (0, "committed"), (1, "committed"), (2, "failed"), (2, "committed"), (3, "committed"),
    ]  # fmt: skip
    assert statuses(results, 2, "failed")["aarau"] == ("absent", "no-reply")
    assert results.privacy.epsilon_spent["chur"] == 3.0  # its answer of the failed round was paid once
    live(study, make_fleet(study), folder="calm")
    assert final_digest(tmp_path, study) == final_digest(tmp_path, study, "calm")


def test_a_spent_budget_ends_the_study_cleanly_before_the_round(live, make_study, make_fleet):
    study = make_study()
    faults = {(site, "train", 3): Code.BUDGET for site in ("aarau", "chur")}
    results = live(study, make_fleet(study, faults))
    assert [(r.round, r.outcome) for r in results.rounds][-2:] == [(2, "committed"), (3, "failed")]
    assert "after round 2 of 3" in results.notes[1]  # after the warning
    assert "aarau, chur" in results.notes[1]
    assert "not of one model" in results.notes[2]  # encoders are released after the last planned round only
    assert len(results.evaluation) == 4


def test_a_budget_spent_before_the_first_round_is_an_error(live, make_study, make_fleet):
    study = make_study()
    fleet = make_fleet(study, {(site, "train", 1): Code.BUDGET for site in study.train_sites})
    with pytest.raises(ConsiliumError, match="Round 1"):
        live(study, fleet)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda r, a: (r.model_copy(update={"approved": False}), a), "study-not-approved"),
        (Code.NOT_APPROVED, "study-not-approved"),
        (lambda r, a: (r.model_copy(update={"role": "external"}), a), "role-forbids-training"),
        (lambda r, a: (r.model_copy(update={"site": "chur"}), a), "names-another-site"),
    ],
)
def test_a_fresh_study_does_not_begin_while_a_site_refuses(live, make_study, make_fleet, fault, reason):
    study = make_study()
    fleet = make_fleet(study, {("basel", "hello", 0): fault})
    with pytest.raises(ConsiliumError) as error:
        live(study, fleet)
    assert error.value.code == ExitCode.NOT_APPROVED
    assert [(f.key, f.problem) for f in error.value.faults] == [("sites.basel", reason)]
    assert {kind for kind, *_ in fleet.asked} == {"hello"}


def test_a_site_may_withdraw_from_a_running_study(live, make_study, make_fleet):
    study = make_study()
    with pytest.raises(ConsiliumError):
        live(study, make_fleet(study, {(s, "train", 2): "no-reply" for s in study.train_sites}))
    gone = {
        ("basel", kind, n): Code.NOT_APPROVED for kind in ("hello", "train", "encoders", "evaluate") for n in range(4)
    }
    results = live(study, make_fleet(study, gone))
    assert statuses(results, 3)["basel"] == ("failed", "study-not-approved")
    assert any("basel gave no evaluation" in note for note in results.notes)
    assert any("encoders of basel" in note for note in results.notes)


def test_absent_at_hello_is_no_reason_to_be_left_out(live, make_study, make_fleet):
    study = make_study()
    results = live(study, make_fleet(study, {("basel", "hello", 0): "not-connected"}))
    assert statuses(results, 1)["basel"] == ("accepted", "")


def test_too_few_sites_at_hello(live, make_study, make_fleet):
    study = make_study()
    fleet = make_fleet(study, {(s, "hello", 0): "not-connected" for s in ("basel", "chur", "davos")})
    with pytest.raises(ConsiliumError) as error:
        live(study, fleet)
    assert error.value.code == ExitCode.UNREACHABLE
    assert {f.key for f in error.value.faults} == {"sites.basel", "sites.chur", "sites.davos"}


def test_evaluation_rows_of_another_site_are_refused(live, make_study, make_fleet):
    study = make_study()

    def lie(reply, arrays):
        rows = tuple(row.model_copy(update={"site": "aarau", "value": 0.99}) for row in reply.evaluation)
        return reply.model_copy(update={"evaluation": rows}), arrays

    results = live(study, make_fleet(study, {("davos", "evaluate", 3): lie}))
    assert [row.site for row in results.evaluation] == ["aarau", "basel", "chur"]
    assert results.notes[1:] == ("davos gave no evaluation: rejected (names-another-site).",)


def test_no_evaluation_at_all_is_an_error(live, make_study, make_fleet):
    study = make_study()
    fleet = make_fleet(study, {(s, "evaluate", 3): "no-reply" for s in study.sites})
    with pytest.raises(ConsiliumError, match="evaluation"):
        live(study, fleet)
    fleet.faults = {}
    assert len(live(study, fleet).evaluation) == 4
    assert sum(kind == "encoders" for kind, *_ in fleet.asked) == 3  # the final model was committed: asked once


@pytest.mark.parametrize(
    ("training", "judged", "note"),
    [
        ({"encoders": "local"}, 4, False),
        ({"encoders": "local", "final_encoders": "initial"}, 3, True),
        ({"encoders": "frozen"}, 3, False),
        ({"encoders": "shared"}, 4, False),
    ],
)
def test_what_is_judged_follows_the_encoder_policy(
    live, make_study, make_fleet, tmp_path, initial, training, judged, note
):
    study, seen = make_study(training=training), []
    fleet = make_fleet(study)
    ask = fleet.ask

    def spy(questions, **options):
        seen.extend(len(arrays) for request, arrays in questions.values() if request.kind == "evaluate")
        return ask(questions, **options)

    fleet.ask = spy
    results = live(study, fleet)
    assert seen == [judged] * 4
    assert any("not of one model" in n for n in results.notes) == note
    run = RunDirectory(tmp_path / "toy")
    final = run.load_final(last=run.latest(study=study.identity)).model
    assert set(final) == set(initial)
    kept = np.array_equal(final["encoders.ecg.weight"], initial["encoders.ecg.weight"])
    assert kept == (training in ({"encoders": "frozen"}, {"encoders": "local", "final_encoders": "initial"}))


def test_a_finished_run_answers_from_disk(live, make_study, make_fleet):
    study = make_study()
    first, fleet = live(study, make_fleet(study)), make_fleet(study)
    assert live(study, fleet) == first
    assert fleet.asked == []


def test_another_initial_model_is_refused_on_resume(live, make_study, make_fleet, tmp_path, initial):
    study = make_study()
    live(study, make_fleet(study))
    other = {**initial, "encoders.ecg.weight": np.zeros(4, np.float32)}
    with pytest.raises(ConsiliumError, match="initial model differs"):
        run_study(study=study, fleet=make_fleet(study), run=RunDirectory(tmp_path / "toy"), initial=other, log=print)


def test_a_second_coordinator_is_refused_and_asks_nobody(live, make_study, make_fleet, tmp_path):
    study, fleet = make_study(), make_fleet(make_study())
    with RunDirectory(tmp_path / "toy").lock(), pytest.raises(ConsiliumError) as error:
        live(study, fleet)
    assert error.value.code == ExitCode.ALREADY_RUNNING
    assert fleet.asked == []


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_killed_at_any_event_and_resumed_is_the_same_model_and_epsilon(
    live, make_study, make_fleet, tmp_path, strategy
):
    study, events = make_study(training={"strategy": strategy}), []
    live(study, make_fleet(study), folder="calm", log=events.append)
    calm = final_digest(tmp_path, study, "calm")
    for point in range(0, len(events), 5 if strategy == "fedavg" else 13):
        fleet, folder, left = make_fleet(study), f"killed_{point}", iter(range(point))

        def log(event, left=left):
            if next(left, None) is None:
                raise Killed

        with pytest.raises(Killed):
            live(study, fleet, folder=folder, log=log)
        results = live(study, fleet, folder=folder)
        assert final_digest(tmp_path, study, folder) == calm
        assert [r.round for r in results.rounds] == [0, 1, 2, 3]
        assert results.privacy.epsilon_spent == {"aarau": 3.0, "basel": 3.0, "chur": 3.0}


def die_at_write(point):
    """In a forked child: end the process, without any tidying, at the n-th fsync or rename."""
    left = iter(range(point))

    def deadly(real):
        def call(*args):
            if next(left, None) is None:
                os._exit(9)
            return real(*args)

        return call

    os.fsync, Path.rename = deadly(os.fsync), deadly(Path.rename)


def test_the_process_dying_at_any_write_and_resumed_is_the_same_model(live, make_study, make_fleet, tmp_path):
    study = make_study(training={"strategy": "fedavgm", "rounds": 2})
    live(study, make_fleet(study), folder="calm")
    calm, deaths = final_digest(tmp_path, study, "calm"), 0
    for point in range(200):
        folder = f"died_{point}"
        child = os.fork()
        if child == 0:
            die_at_write(point)
            live(study, make_fleet(study), folder=folder)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        run = RunDirectory(tmp_path / folder)
        committed = sorted(p.name for p in run.rounds.glob("round_*"))
        assert committed == [f"round_{n:04d}" for n in range(len(committed))]
        if committed:
            assert run.latest(study=study.identity).manifest.round == len(committed) - 1
        live(study, make_fleet(study), folder=folder)
        assert final_digest(tmp_path, study, folder) == calm
        assert not list(Path(tmp_path / folder).rglob(".tmp-*"))
        if status == 0:
            break
        assert status == 9
        deaths += 1
    assert deaths >= 20


def test_a_corrupt_last_round_is_trained_again_to_the_same_model(live, make_study, make_fleet, tmp_path, caplog):
    study = make_study()
    live(study, make_fleet(study), folder="calm")
    fleet = make_fleet(study, {(s, "train", 3): "no-reply" for s in study.train_sites})
    with pytest.raises(ConsiliumError):
        live(study, fleet)
    (tmp_path / "toy" / "rounds" / "round_0002" / "model.safetensors").write_bytes(b"broken")
    fleet.faults = {}
    results = live(study, fleet)
    assert "round_0002 does not verify" in caplog.text
    assert final_digest(tmp_path, study) == final_digest(tmp_path, study, "calm")
    assert results.privacy.epsilon_spent["basel"] == 3.0


# --- phases

WEIGHTS = ((100, 1.0), (300, -2.0), (250, 0.3))  # patients and target of each site
PART = {"trains": ["fusion", "encoders"]}
HEADS = {"trains": ["heads", "encoders"]}


def phases(*parts):
    return [{"name": f"p{k}", "rounds": n, **part} for k, (n, part) in enumerate(parts)]


class PhasedFleet:
    """Keeps of every answer what the round of the study releases."""

    def __init__(self, fleet, study):
        self._fleet, self._study, self.bases = fleet, study, []

    def hello(self, *args, **more):
        return self._fleet.hello(*args, **more)

    def ask(self, questions, **more):
        answers = self._fleet.ask(questions, **more)
        for site, (request, arrays) in questions.items():
            if request.kind == "train" and isinstance(answers[site], tuple):  # else it does not answer
                self.bases.append((request.round, set(arrays)))
                reply, update = answers[site]
                kept = {n: a for n, a in update.items() if self._study.releases(n, request.round)}
                answers[site] = reply, kept
        return answers


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_each_phase_has_an_optimiser_of_its_own(live, make_study, make_fleet, tmp_path, strategy, initial):
    """The heads' phase after one of the fusion ends where it ends alone; what it does not train rests."""
    both = make_study(training={"strategy": strategy, "phases": phases((1, PART), (2, HEADS))})
    alone = make_study(training={"strategy": strategy, "rounds": 2, "phases": phases((2, HEADS))})
    found = {}
    for name, study in (("both", both), ("alone", alone)):
        fleet = PhasedFleet(make_fleet(study), study)
        live(study, fleet, folder=name)
        found[name] = RunDirectory(tmp_path / name).latest(study=study.identity).model
        assert all(names == {n for n in initial if study.is_shared(n)} for _, names in fleet.bases)
    assert found["both"]["heads.mace.scale"] == found["alone"]["heads.mace.scale"] != initial["heads.mace.scale"]
    assert np.array_equal(found["alone"]["fusion.weight"], initial["fusion.weight"])
    assert not np.array_equal(found["both"]["fusion.weight"], initial["fusion.weight"])


def test_what_the_sites_choose_is_averaged_whatever_the_strategy(live, make_study, make_fleet, tmp_path, initial):
    """An importance is no direction: FedAdam would make all of them one step long."""
    part = {"objective": "choose", "trains": ["fusion"]}
    model = {"system": "lemof", "levels": {}}
    made = {"model": model, "modalities": {"ehr": {"kind": "table", "fields": ["age"]}}}
    found = []
    for strategy in ("fedavg", "fedadam", "fedmedian"):
        study = make_study_of(
            make_study, training={"strategy": strategy, "rounds": 1, "phases": phases((1, part))}, **made
        )
        live(study, PhasedFleet(make_fleet(study), study), folder=strategy)
        found.append(RunDirectory(tmp_path / strategy).latest(study=study.identity).model["fusion.weight"])
    mean = sum(n * (initial["fusion.weight"] + (t - initial["fusion.weight"]) / 3) for n, t in WEIGHTS) / 650
    for array in found:
        np.testing.assert_allclose(array, mean, rtol=1e-6)


def make_study_of(make_study, *, model, modalities, **changes):
    body = make_study().model_dump(mode="json", by_alias=True)
    body["training"].pop("phases")
    body["model"], body["modalities"] = model, {**body["modalities"], **modalities}
    body["training"] |= changes["training"]
    return type(make_study()).model_validate(body)


def test_a_phase_of_local_parts_alone_releases_nothing_and_commits(live, make_study, make_fleet, tmp_path, initial):
    for strategy in ("fedavg", "fedadam", "fedavgm"):
        part = {"trains": ["encoders", "adapters"]}
        how = {"strategy": strategy, "local": ["heads"], "final_encoders": "initial"}
        study = make_study(training={**how, "phases": phases((1, part), (2, HEADS))})
        results = live(study, PhasedFleet(make_fleet(study), study), folder=strategy)
        assert [(r.round, r.outcome) for r in results.rounds] == [(n, "committed") for n in range(4)]
        last = RunDirectory(tmp_path / strategy).latest(study=study.identity).model
        assert set(last) == {"fusion.weight"}


def test_killed_between_phases_and_resumed_is_the_same_model(live, make_study, make_fleet, tmp_path):
    study = make_study(training={"strategy": "fedadam", "rounds": 4, "phases": phases((2, PART), (2, HEADS))})
    live(study, PhasedFleet(make_fleet(study), study), folder="calm")
    for number in (2, 3, 4):
        faults = {(s, "train", number): "no-reply" for s in study.train_sites}
        fleet = make_fleet(study, faults)
        with pytest.raises(ConsiliumError):
            live(study, PhasedFleet(fleet, study), folder=f"stop_{number}")
        fleet.faults = {}
        live(study, PhasedFleet(fleet, study), folder=f"stop_{number}")
        assert final_digest(tmp_path, study, f"stop_{number}") == final_digest(tmp_path, study, "calm")


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"encoders": "shared", "local": ["heads"], "final_encoders": "initial"}, "Local heads were not released"),
        ({"local": ["norms"], "final_encoders": "initial"}, "Local encoders and norms were not released"),
    ],
)
def test_local_parts_that_stay_are_told(live, make_study, make_fleet, training, said):
    study = make_study(training=training)
    fleet = PhasedFleet(make_fleet(study), study)
    notes = " ".join(live(study, fleet).notes)
    assert said in notes and "not of one model" in notes
