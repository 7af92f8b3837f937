"""The whole way over real processes: SuperLink, TLS, node keys, sandboxed ClientApps, Ray actors, a report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, until
from safetensors.numpy import load_file
from typer.testing import CliRunner

from fl_client.approval import approve
from fl_client.payment import site_ledger
from fl_server import superlink
from fl_server.cli import app
from fl_shared.accounting import Event, epsilon
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import Results
from fl_shared.site import load_site
from fl_shared.study import load_study

pytestmark = pytest.mark.integration
PLAIN = {"mode": "none", "epsilon": None}
SMALL = {"rounds": 2, "steps": 2, "batch": 8}
TRAIN = {name: {"role": "train", "patients": 48} for name in ("alpha", "beta", "gamma")}


def test_deployment_and_simulation_give_the_same_bits(hospitals: Federation) -> None:
    study = hospitals.study("walk", privacy=PLAIN, training=SMALL)
    results, folder = hospitals.run(study)
    assert [r.outcome for r in results.rounds] == ["committed"] * 3
    assert {row.site for row in results.evaluation} == {"alpha", "beta", "gamma"}
    external = [r for r in results.evaluation if r.site == "gamma" and r.metric == "auroc" and r.value is not None]
    assert external and all(r.role == "external" and r.ci_low <= r.value <= r.ci_high for r in external)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "SYNTHETIC" in report.upper() and "gamma" in report

    deployed = assert_same_as_simulation(hospitals, study, folder, rounds=2)
    initial = load_file(folder / "rounds/round_0000/model.safetensors")
    assert any(not np.array_equal(initial[n], deployed[n]) for n in deployed), "nothing was trained"
    judge_later(hospitals, folder, results)


def judge_later(hospitals: Federation, folder: Path, results: Results) -> None:
    """The finished model once more, at the hospital that trained nothing: the same numbers, in a run of its own."""
    study, home = hospitals.root / "later.toml", str(hospitals.home.path)
    words = ["evaluate", "--model", str(folder), "--format", "json"]
    written = CliRunner().invoke(app, [*words, "--sites", "gamma", "--write", str(study)])
    assert written.exit_code == 0, written.output
    run = [*words, str(study), "--home", home, "--runs", str(hospitals.root / "runs")]
    refused = CliRunner().invoke(app, run)
    assert isinstance(refused.exception, ConsiliumError) and refused.exception.code is ExitCode.NOT_APPROVED
    approve(load_site(hospitals.sites / "gamma"), study)
    done = CliRunner().invoke(app, run)
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    then = [json.loads(row.model_dump_json()) for row in results.evaluation if row.site == "gamma"]
    assert [row for row in body["evaluation"] if row["site"] == "gamma"] == then
    assert [r["round"] for r in body["rounds"]] == [0] and "Nothing was trained" in body["notes"][0]
    assert "gamma" in Path(body["report"]).read_text(encoding="utf-8")


def assert_same_as_simulation(
    hospitals: Federation, study: Path, folder: Path, *, rounds: int
) -> dict[str, np.ndarray]:
    """Every committed model is the simulation's, bit for bit; returns the last one."""
    runs = hospitals.root / "simulated"
    command = [sys.executable, "-m", "fl_server.cli", "simulate", str(study), "--sites-dir", str(hospitals.sites)]
    done = subprocess.run(
        [*command, "--runs", str(runs), "--format", "json"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for place in [*(f"rounds/round_{n:04d}" for n in range(1, rounds + 1)), "final"]:
        deployed = load_file(folder / place / "model.safetensors")
        simulated = load_file(runs / folder.name / place / "model.safetensors")
        assert deployed.keys() == simulated.keys()
        assert all(np.array_equal(deployed[name], simulated[name]) for name in deployed), place
    return deployed


def test_a_system_of_five_phases_runs_over_sockets(hospitals: Federation) -> None:
    """LeMoF: levels, meta-learners, the choice of levels, cross-attention, stacking; the same bits as simulated."""
    training = SMALL | {"rounds": 5, "encoders": "shared"}
    study = hospitals.study("lemof", privacy=PLAIN, model={"system": "lemof"}, training=training)
    results, folder = hospitals.run(study)
    assert [r.outcome for r in results.rounds] == ["committed"] * 6
    before, after = (load_file(folder / f"rounds/round_000{k}/model.safetensors") for k in (2, 3))
    changed = [name for name in after if not np.array_equal(before[name], after[name])]
    assert changed == ["fusion.importance"]  # the phase that chooses releases nothing else
    assert_same_as_simulation(hospitals, study, folder, rounds=5)


def test_a_killed_coordinator_process_is_continued_bit_for_bit(hospitals: Federation) -> None:
    """The ServerApp dies in round 2; the same command goes on from the committed round, as if nothing had been."""
    study = hospitals.study("crash", privacy=PLAIN, training=SMALL | {"rounds": 3, "steps": 10})
    address = hospitals.home.address()

    def strike(folder: Path) -> None:
        until(lambda: (folder / "rounds/round_0001/manifest.json").exists(), seconds=240, what="round 1 not committed")
        until(lambda: bool(server_apps(address)), seconds=30, what="no ServerApp process")
        for pid in server_apps(address):
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(ConsiliumError, match="run the same command again"):
        hospitals.run(study, meanwhile=strike)
    results, folder = hospitals.run(study)
    assert [r.outcome for r in results.rounds] == ["committed"] * 4
    assert_same_as_simulation(hospitals, study, folder, rounds=3)


def server_apps(address: str) -> list[int]:
    """The ServerApp processes of the coordinator at this address."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            line = entry.read_bytes().decode(errors="replace").split("\0")
            if any("flwr-serverapp" in word for word in line[:2]) and address in line:
                found.append(int(entry.parent.name))
    return found


def test_the_ledger_holds_what_the_accountant_says(hospitals: Federation) -> None:
    path = hospitals.study("private", training=SMALL, privacy={"epsilon": 4.0})
    results, _ = hospitals.run(path)
    study = load_study(path)
    for name in study.train_sites:
        rows = [r for r in site_ledger(load_site(hospitals.sites / name)).rows() if r.study == study.identity]
        reserved = [r for r in rows if r.state == "RESERVED"]
        assert [r.round for r in reserved] == [1, 2]
        assert sum(r.state == "COMMITTED" for r in rows) == 2
        q = study.sampling_rate(name)
        expected = epsilon([Event(q, reserved[0].sigma, 4)], delta=study.privacy.delta)
        assert results.privacy.epsilon_spent[name] == pytest.approx(expected, rel=1e-9)
        assert expected <= 4.0
    assert "gamma" not in results.privacy.epsilon_spent or results.privacy.epsilon_spent["gamma"] == 0


def test_hostile_bundle_is_never_unpacked(hospitals: Federation) -> None:
    """The coordinator sends code that shadows our package; the sites refuse it and say so in their own log."""
    marker = hospitals.root / "owned"
    evil = f"import pathlib; pathlib.Path({str(marker)!r}).touch()\n"
    files = {"pyproject.toml": superlink.BUNDLE, "fl_client/__init__.py": evil, "fl_client/app.py": evil}
    study = hospitals.study("hostile", privacy=PLAIN, training=SMALL, rounds={"deadline": 20.0})
    original, superlink.bundle = superlink.bundle, lambda _: original(files)
    try:
        with pytest.raises(Exception, match="server-code-refused"):
            hospitals.run(study)
    finally:
        superlink.bundle = original
    assert not marker.exists()
    log = (hospitals.sites / "alpha/state/logs/executor.log").read_text()
    refused = [json.loads(line) for line in log.splitlines() if line.startswith("{") and "server-code-refused" in line]
    assert refused and refused[0]["files"] == ["fl_client/__init__.py", "fl_client/app.py"]


def test_second_client_of_a_site_is_refused(hospitals: Federation) -> None:
    command = [sys.executable, "-m", "fl_client.cli", "--site", "alpha", "--sites-dir", str(hospitals.sites)]
    tls = ["--root-certificates", str(hospitals.home.ca)]
    done = subprocess.run([*command, *tls], capture_output=True, text=True, timeout=120)
    assert done.returncode == ExitCode.ALREADY_RUNNING
    assert f"process {hospitals.clients['alpha'].pid}" in done.stderr.replace("\n", " ")


def test_killed_site_is_named_and_comes_back(hospitals: Federation) -> None:
    study = hospitals.study(
        "kill", sites=TRAIN, privacy=PLAIN, training=SMALL | {"rounds": 3, "steps": 20},
        rounds={"quorum": 2, "deadline": 60.0},
    )  # fmt: skip

    def strike(folder: object) -> None:
        events = hospitals.root / "runs/kill/events.jsonl"
        second = '"kind":"phase"', '"round":2', '"status":"train"'
        until(
            lambda: events.exists() and any(all(p in line for p in second) for line in events.read_text().splitlines()),
            seconds=240, what="round 2 never began",
        )  # fmt: skip
        hospitals.kill("beta")

    results, _ = hospitals.run(study, meanwhile=strike)
    second = next(r for r in results.rounds if r.round == 2)
    assert second.outcome == "committed"
    assert second.sites["beta"].status == "absent" and second.sites["beta"].reason
    assert {n: s.status for n, s in second.sites.items() if n != "beta"} == {"alpha": "accepted", "gamma": "accepted"}

    hospitals.start("beta")
    until(lambda: superlink.nodes(hospitals.home).get("beta") == "online", seconds=240, what="beta did not come back")
    again, _ = hospitals.run(hospitals.study("again", sites=TRAIN, privacy=PLAIN, training=SMALL))
    assert all(r.sites["beta"].status == "accepted" for r in again.rounds if r.round)


def test_sigterm_ends_a_client_and_all_its_processes(hospitals: Federation) -> None:
    client = hospitals.clients["gamma"]
    client.terminate()
    assert client.wait(60) == 0
    state = str(hospitals.sites / "gamma" / "state")
    until(lambda: not processes_naming(state), seconds=30, what=f"still running: {processes_naming(state)}")
    hospitals.start("gamma")  # for the tests of other files
    until(lambda: superlink.nodes(hospitals.home).get("gamma") == "online", seconds=240, what="gamma did not come back")


def processes_naming(text: str) -> list[str]:
    """Command lines that hold ``text``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in line:
                found.append(line)
    return found
