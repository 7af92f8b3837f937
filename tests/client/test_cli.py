"""``fl-client`` as a hospital runs it: real processes over a small synthetic site on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_client.privacy.ledger import Ledger
from fl_server import certificates
from fl_shared.errors import ExitCode
from fl_shared.processes import free_port
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.plans import QUICK

Done = subprocess.CompletedProcess[str]
PROGRAM = (sys.executable, "-m", "fl_client.cli")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("federation") / "sites"
    synthesize(out, sites=["aachen", "bern"], patients=12, seed=1, modalities=QUICK)
    return out


@pytest.fixture
def sites(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "sites"))


@pytest.fixture
def client(sites: Path) -> Callable[..., Done]:
    def run(*arguments: str, site: str = "aachen") -> Done:
        command = [*PROGRAM, "--sites-dir", str(sites), "--site", site, *arguments]
        return subprocess.run(command, env=ENVIRONMENT, cwd=sites.parent, capture_output=True, text=True, timeout=120)

    return run


def body(done: Done) -> dict[str, Any]:
    """The one JSON object on stdout; nothing else is said anywhere."""
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def faults(done: Done) -> dict[str, dict[str, Any]]:
    """key -> fault of a failed command; every fault says how to mend it."""
    found = body(done)["faults"]
    assert all(fault["problem"] and fault["mend"] for fault in found)
    return {fault["key"]: fault for fault in found}


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")


def spoil_cell(table: Path, *, line: int, column: str, value: str) -> None:
    lines = table.read_text().splitlines()
    cells = lines[line - 1].split(",")
    cells[lines[0].split(",").index(column)] = value
    lines[line - 1] = ",".join(cells)
    table.write_text("\n".join(lines) + "\n")


def test_good_site_is_accepted(client) -> None:
    done = client("check", "--format", "json", site="bern")  # gb18030, Chinese
    assert done.returncode == 0
    found = body(done)
    assert (found["accepted"], found["rows"], found["rejects"], found["faults"]) == (True, 13, 0, [])
    assert set(found["present"]) == {"ecg", "ehr", "text"}


def test_truncated_signal_is_set_aside_and_not_named_to_outsiders(client, sites: Path) -> None:
    signal = min((sites / "aachen" / "ecg").glob("*.dat"))
    os.truncate(signal, 1000)
    done = client("check")
    assert done.returncode == 0
    assert "ecg-signal-truncated" in done.stdout and "add --local" in done.stdout
    assert signal.stem not in done.stdout + done.stderr


def test_rejected_data_tell_every_fault_at_once(client, sites: Path) -> None:
    site, table = sites / "aachen" / "site.toml", sites / "aachen" / "samples.csv"
    spoil_cell(table, line=3, column="sample_id", value="000001-1")
    spoil_cell(table, line=5, column="death", value="perhaps")
    edit(site, ('unit = "pg/mL"', 'unit = "pg/ml"'))
    edit(table, ("text_path", "txt_path"))
    signal = min((sites / "aachen" / "ecg").glob("*.dat"))
    os.truncate(signal, 1000)
    outside, inside = client("check"), client("check", "--local", "--format", "json")
    assert (outside.returncode, inside.returncode) == (ExitCode.DATA, ExitCode.DATA)
    assert "000001" not in outside.stdout + outside.stderr and "perhaps" not in outside.stdout + outside.stderr
    assert outside.stdout.count("\n  - ") == 4 and "…" not in outside.stdout  # nothing cut on 80 columns
    assert "columns.nt_probnp.unit = pg/ml: unknown unit. Known for nt_probnp: ng/L, pg/mL" in outside.stdout
    (row,) = body(inside)["quarantined_rows"]
    assert (row["row"], row["modality"], row["check"]) == (2, "ecg", "ecg-signal-truncated")
    assert row["detail"] == f"{signal.name} has 1000 bytes, its header needs 24000"
    found = faults(inside)
    where = {key: (fault["file"], fault["row"], fault["value"]) for key, fault in found.items()}
    assert where == {
        "sample_id": ("samples.csv", 3, "'000001-1'"),
        "death": ("samples.csv", 5, "'perhaps'"),
        "columns.nt_probnp.unit": ("site.toml", None, "pg/ml"),
        "text_path": ("samples.csv", None, ""),
    }
    assert found["text_path"]["problem"] == "column is missing (modality text)"
    assert found["text_path"]["mend"] == "Did you mean 'txt_path'?"
    assert found["death"]["mend"] == "Known: 0, 1 (tasks.death.codes)."


def test_a_report_is_written_for_outsiders_and_for_the_hospital(client, sites: Path, tmp_path: Path) -> None:
    outside, inside = tmp_path / "new" / "outside.html", tmp_path / "inside.html"
    assert client("check", "--report", str(outside)).returncode == 0
    done = client("check", "--local", "--report", str(inside), "--format", "json", "--study", str(sites / "study.toml"))
    assert done.returncode == 0 and body(done)["local"] is True and body(done)["study"] is not None
    pages = [path.read_text(encoding="utf-8") for path in (outside, inside)]
    assert ["Strip of 12 leads" in page for page in pages] == [False, True]
    assert ["must not leave the hospital" in page for page in pages] == [False, True]
    assert all("SYNTHETIC DATA" in page and page.endswith("</html>") for page in pages)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (outside, inside))


def test_a_report_tells_the_faults_of_rejected_data(client, sites: Path, tmp_path: Path) -> None:
    spoil_cell(sites / "aachen" / "samples.csv", line=5, column="death", value="perhaps")
    done = client("check", "--report", str(tmp_path / "report.html"))
    assert done.returncode == ExitCode.DATA
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Rejected" in page and "unknown label code" in page and "perhaps" not in page
    where = client("check", "--report", str(tmp_path))
    assert where.returncode == ExitCode.USAGE and "cannot be written" in where.stderr


def test_doctor_says_what_keeps_a_site_from_joining(client, sites: Path) -> None:
    done = client("doctor", "--format", "json")
    assert done.returncode == ExitCode.SITE and done.stderr == ""
    found = {check["check"]: check for check in body(done)["checks"]}
    assert body(done)["ok"] is False
    assert found["coordinator's CA"]["status"] == "fail" and "--root-certificates" in found["coordinator's CA"]["mend"]
    assert found["node key"]["status"] == "warn" and found["Ray"]["status"] == "ok"
    certificates.ensure(sites / "tls", host="127.0.0.1")
    at = f"127.0.0.1:{free_port()}"
    given = ("--superlink", at, "--root-certificates", str(sites / "tls" / "ca.crt"))
    command = [*PROGRAM, "--sites-dir", str(sites), "--site", "aachen", *given, "doctor"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == ExitCode.SITE and f"{at}: Connection refused" in done.stdout
    assert "coordinator: Check network.superlink" in done.stdout and "coordinator's CA: " not in done.stdout
    command[command.index(at)] = "nowhere"
    wrong = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert wrong.returncode == ExitCode.USAGE and "host:port" in wrong.stderr


def test_wrong_site_names_the_known_ones(client, sites: Path) -> None:
    near, far = client("check", "--format", "json", site="achen"), client("check", site="xyz")
    assert (near.returncode, far.returncode) == (ExitCode.SITE, ExitCode.SITE)
    assert body(near)["name"] == "SITE" and body(near)["error"].endswith("Did you mean 'aachen'?")
    assert far.stdout == "" and "Known: aachen, bern." in far.stderr
    shutil.rmtree(sites)
    sites.mkdir()
    nobody = client("check")
    assert nobody.returncode == ExitCode.SITE and "--sites-dir" in nobody.stderr


def test_site_file_tells_every_fault_at_once(client, sites: Path) -> None:
    site = sites / "aachen" / "site.toml"
    whole = site.read_text()
    edit(site, ("timezone", "timezon"), ("epsilon_cap = 20.0", "epsilon_cap = -1.0"), ("actors = 1", "actor = 1"))
    done = client("check", "--format", "json")
    assert done.returncode == ExitCode.SITE
    found = faults(done)
    assert set(found) == {"timezon", "privacy.epsilon_cap", "resources.actor"}
    assert found["timezon"]["mend"] == "Did you mean 'timezone'?"
    site.write_text(whole)
    edit(site, ('samples = "samples.csv"', 'samples = "sample.csv"'), ('data_root = "."', 'data_root = "nowhere"'))
    done = client("check", "--format", "json")
    assert done.returncode == ExitCode.SITE
    found = faults(done)
    assert {key: fault["problem"] for key, fault in found.items()} == dict.fromkeys(
        ("samples", "data_root"), "path does not exist"
    )
    assert found["samples"]["value"] == str(sites / "aachen" / "sample.csv")


def test_approval_is_stored_under_the_hash(client, sites: Path) -> None:
    done = client("approve", str(sites / "study.toml"), "--format", "json")
    assert done.returncode == 0
    record = body(done)
    stored = sites / "aachen" / "state" / "approved" / f"{record['identity']}.json"
    assert stored.stat().st_mode & 0o777 == 0o600
    assert (record["role"], record["rounds"], record["privacy"], record["epsilon"]) == ("train", 5, "patient", 8.0)
    assert "fusion, heads (every round)" in record["leaves"]


@pytest.mark.parametrize(
    ("old", "new", "key", "value", "mend"),
    [
        ("[modalities.ehr]", '[modalities.ehr]\nencoder = "ehr_mpl"', "modalities.ehr.encoder", "ehr_mpl", "ehr_mlp"),
        ("steps = ", 'phases = [{ name = "p", rounds = 5, trains = ["fusion.lairs", "heads"] }]\nsteps = ',
         "training.phases.0.trains", "fusion.lairs", "'fusion.layers'?"),
        ("steps = ", 'phases = [{ name = "p", rounds = 5, objective = "levels" }]\nsteps = ',
         "training.phases.0.objective", "'levels'", "Known: masked, segmentation, tasks, unimodal."),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_built_is_not_approved(client, sites: Path, old, new, key, value, mend) -> None:
    """The same fault as at the coordinator, whether names alone or only the model itself can tell."""
    edit(sites / "study.toml", (old, new))
    done = client("approve", str(sites / "study.toml"), "--format", "json")
    assert done.returncode == ExitCode.STUDY
    fault = faults(done)[key]
    assert fault["value"] == value and mend in fault["mend"]
    assert not (sites / "aachen" / "state" / "approved").exists()


def test_approvals_are_listed_and_revoked(client, sites: Path) -> None:
    identity = body(client("approve", str(sites / "study.toml"), "--format", "json"))["identity"]
    (record,) = body(client("approvals", "--format", "json"))["approved"]
    assert (record["identity"], record["study"]) == (identity, "synthetic")
    assert "synthetic" in client("approvals").stdout
    assert client("revoke", identity).returncode == 0
    assert body(client("approvals", "--format", "json"))["approved"] == []
    again = client("revoke", identity)
    assert again.returncode == ExitCode.NOT_APPROVED and "approvals" in again.stderr


def test_refused_studies_say_why(client, sites: Path) -> None:
    study, site = sites / "study.toml", sites / "aachen" / "site.toml"
    edit(study, ('mode = "patient"\nepsilon = 8.0', 'mode = "none"'))
    edit(site, ("synthetic = true", 'synthetic = true\nroles = ["external"]'), ("= true\n\n[res", "= false\n\n[res"))
    done = client("approve", str(study), "--format", "json")
    assert done.returncode == ExitCode.NOT_APPROVED
    found = faults(done)
    assert set(found) == {"sites.aachen.role", "privacy.mode"}
    assert "roles" in found["sites.aachen.role"]["mend"] and "allow_without_privacy" in found["privacy.mode"]["mend"]
    edit(study, ("[sites.aachen]", "[sites.achen]"))
    done = client("approve", str(study))
    assert done.returncode == ExitCode.NOT_APPROVED and "Did you mean 'achen'?" in done.stderr
    assert not (sites / "aachen" / "state" / "approved").exists()


def test_invalid_study_tells_every_fault_at_once(client, sites: Path) -> None:
    study = sites / "study.toml"
    edit(study, ("rate = 100.0", "rat = 100.0"), ("epsilon = 8.0", ""), ("rounds = 5", "rounds = 0"))
    done = client("approve", str(study), "--format", "json")
    assert done.returncode == ExitCode.STUDY
    found = faults(done)
    assert set(found) == {"modalities.ecg.rat", "privacy", "training.rounds"}
    assert found["modalities.ecg.rat"]["mend"] == "Did you mean 'rate'?"


def test_ledger_is_shown_and_tampering_is_found(client, sites: Path) -> None:
    fresh = client("ledger")
    assert fresh.returncode == 0 and "spent epsilon 0.0000 of 20.0" in fresh.stdout
    ledger = Ledger(sites / "aachen" / "state", cohort="aachen")
    for number in (1, 2):
        ledger.reserve(
            study="a" * 64, round=number, q=0.1, sigma=2.0, clip=1.0, steps=5, delta=1e-5, cap=20.0, budget=8.0,
            parameter_set_hash="p", provenance_hash="p", base_digest=str(number),
        )  # fmt: skip
    edit(sites / "aachen" / "state" / "ledger.jsonl", ('"steps":5', '"steps":1'))
    done = client("ledger", "--format", "json")
    assert done.returncode == ExitCode.PRIVACY
    (fault,) = faults(done).values()
    assert fault["row"] == 1 and "edited" in fault["problem"]


def test_key_is_made_once_and_stays_private(client, sites: Path) -> None:
    first = client("key", "--format", "json")
    again = client("key")
    assert (first.returncode, again.returncode) == (0, 0)
    made, private = body(first), sites / "aachen" / "state" / "node.key"
    assert private.stat().st_mode & 0o777 == 0o600
    assert again.stdout.split("\n")[:3] == [made["public_key"], made["text"], f"SHA-256 {made['fingerprint']}"]
    assert re.fullmatch("[0-9a-f]{64}", made["fingerprint"])
    assert private.read_text().splitlines()[1] not in first.stdout + again.stdout


def test_joining_without_a_certificate_says_what_to_set(client) -> None:
    done = client()
    assert done.returncode == ExitCode.SITE
    assert "network.root_certificates" in done.stderr and "--root-certificates" in done.stderr


def test_wrong_options_are_usage_errors(client) -> None:
    done = client("check", "--forma", "json")
    assert done.returncode == ExitCode.USAGE and "--format" in done.stderr
    arguments = ["check", "--site", "aachen"]
    done = subprocess.run([*PROGRAM, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == ExitCode.USAGE and "missing before the command: fl-client --site" in done.stderr


def test_help_of_a_command_needs_no_site() -> None:
    done = subprocess.run([*PROGRAM, "check", "--help"], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--local" in done.stdout
