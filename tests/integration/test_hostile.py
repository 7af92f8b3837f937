"""A hostile coordinator over real sockets: every attempt is refused, logged, and yields nothing of a patient."""

from __future__ import annotations

import ast
import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import Federation, until

from fl_client import sandbox
from fl_client.approval import audit_log
from fl_client.data.load import load_cohort
from fl_client.egress_log import released, replay
from fl_client.payment import site_ledger
from fl_server import superlink
from fl_server.launch import prepare
from fl_shared.audit import AuditLog
from fl_shared.metrics.table import METRICS
from fl_shared.site import Site, load_site
from fl_shared.study import Study, load_study
from fl_shared.wire import Code, Reply

pytestmark = pytest.mark.integration
SMALL = {"rounds": 2, "steps": 2, "batch": 8}
PATTERN = 12  # bytes of a cohort's numbers that are looked for: three float32
EXPECTED: dict[str, set[str]] = {
    "encoders": {Code.EGRESS},
    "a round over": {Code.WRONG_SCHEMA},
    "a round with": {Code.BAD_REQUEST},
    "kind": {Code.BAD_REQUEST},
    "round": {Code.BAD_REQUEST},
    "a digest": {Code.BAD_REQUEST},
    "a path": {Code.BAD_REQUEST},
    "another initial": {Code.INITIAL_DIFFERS},
    "a forged mark": {Code.LEDGER},
    "study": {Code.NOT_APPROVED},
    "text": {Code.BAD_REQUEST},
    "a model of": {Code.WRONG_SCHEMA},
    "an array of": {Code.WRONG_SCHEMA},
    "unplanned": {Code.BAD_REQUEST},
    "external": {Code.WRONG_ROLE},
}
"""Start of an attack's name -> the codes that it may end with; what is not here is bounded, not refused."""


@pytest.fixture(scope="module")
def loot(hospitals: Federation) -> tuple[Study, list[dict[str, Any]], bytes, dict[str, int]]:
    """The attacked study, every answer, every byte of it, and how long each audit log was before."""
    path = hospitals.study("attacked", training=SMALL, privacy={"epsilon": 8.0}, evaluation={"bootstrap": 100})
    study = load_study(path)
    folder = prepare(path, runs=hospitals.root / "runs")
    body = path.read_text().replace('name = "attacked"', 'name = "unapproved"')
    (hospitals.root / "unapproved.toml").write_text(body)
    plan = {"study": study.identity, "unapproved": load_study(hospitals.root / "unapproved.toml").identity}
    (folder / "attack.json").write_text(json.dumps(plan))
    before = {name: len(list(audit_log(load_site(hospitals.sites / name)).rows())) for name in study.sites}
    honest, superlink.BUNDLE = superlink.BUNDLE, superlink.BUNDLE.replace("fl_server.app:app", "hostile_app:app")
    try:
        number = superlink.submit(hospitals.home, study=path, run=folder)
    finally:
        superlink.BUNDLE = honest
    until(
        lambda: (folder / "done").exists() or superlink.run_status(hospitals.home, number)[0] == "finished",
        seconds=300, what="the hostile ServerApp does not end",
    )  # fmt: skip
    assert (folder / "done").exists(), (hospitals.home.path / "logs/superexec.log").read_text()[-3000:]
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    return study, answers, (folder / "answers.jsonl").read_bytes() + (folder / "answers.bin").read_bytes(), before


def replies(answers: list[dict[str, Any]], start: str) -> list[tuple[str, Reply]]:
    found = [(a["attack"], Reply.model_validate_json(a["text"])) for a in answers if a["attack"].startswith(start)]
    assert found, start
    return found


def test_every_attempt_ends_in_a_code_of_the_list(loot) -> None:
    _, answers, _, _ = loot
    for start, codes in EXPECTED.items():
        for name, reply in replies(answers, start):
            assert reply.status == "refused" and reply.code in codes, (name, reply)
            assert not reply.evaluation and not reply.curves, name
    assert all(not a.get("arrays") for a in answers if not a["attack"].startswith("fresh start"))
    strays = [a for a in answers if a["error"]]
    assert [a["attack"] for a in strays] == ["no parcel"]  # the sandboxed ClientApp did not even pass it on


def test_fresh_starts_end_with_the_budget(loot, hospitals: Federation) -> None:
    """Repeating a round from other starts is a round more: it is paid, and the budget ends where the study planned."""
    study, answers, _, _ = loot
    fresh = dict(replies(answers, "fresh start"))
    again = fresh.pop("fresh start 0 again")
    codes = [reply.code for reply in fresh.values()]
    assert codes == [None] * study.training.rounds + [Code.BUDGET] * 3 and again.status == "ok"
    site = load_site(hospitals.sites / "alpha")
    assert site_ledger(site).spent(study.privacy.delta, study=study.identity) <= 8.0
    left = [row for row in released(site) if row.study == study.identity]
    assert [row.what for row in left] == ["train"] * 3 and len({row.sha256 for row in left}) == 2


def test_crafted_models_are_few_and_tell_aggregates_only(loot, hospitals: Federation) -> None:
    """What bounds a memorising model: few models a study, metrics of ten patients or more, rounded, no small cells."""
    study, answers, _, _ = loot
    judged = replies(answers, "crafted model")
    ok = [reply for _, reply in judged if reply.status == "ok"]
    assert 0 < len(ok) <= study.training.rounds + 2
    assert {reply.code for _, reply in judged if reply.status != "ok"} <= {Code.EGRESS, Code.TOO_FEW}
    assert judged[-1][1].code is Code.EGRESS
    for row in (row for reply in ok for row in reply.evaluation):
        assert row.value is None or (row.n or 0) >= study.evaluation.min_patients
        assert row.events is None or 10 <= row.events <= (row.n or 0) - 10
        assert all(n is None or n == METRICS[row.metric].rounded(n) for n in (row.value, row.ci_low, row.ci_high))
    assert replay(load_site(hospitals.sites / "beta")).rows >= len(ok)


def test_every_attempt_is_logged(loot, hospitals: Federation) -> None:
    study, answers, _, before = loot
    for name in study.sites:
        log = AuditLog(load_site(hospitals.sites / name).state_dir / "audit.jsonl")
        assert log.verify() is None
        rows = [row for row in list(log.rows())[before[name] :] if row["actor"] == "coordinator"]
        told = [Reply.model_validate_json(a["text"]) for a in answers if a["site"] == name and a["text"]]
        assert Counter(row["outcome"] for row in rows) == Counter(reply.code or "ok" for reply in told)
        assert not [row for row in rows if row["study"] and len(str(row["study"])) != 64]


def secrets(site: Site, study: Study) -> dict[str, bytes]:
    """What must be in no answer: identifiers, notes, label vectors, and the numbers of every input of every patient."""
    cohort, _ = load_cohort(site, study)
    found = {f"id {name}": name.encode() for name in cohort.sample_ids}
    found |= {f"id {name}": json.dumps(name).encode() for name in cohort.patient_ids}
    with (site.folder / "samples.csv").open(encoding=site.encoding) as file:
        for row in csv.DictReader(file):
            found |= {f"cell {key}": value.encode() for key, value in row.items() if value and len(value) > 7}
    for path in (site.folder / "text").glob("*.txt"):
        found[f"note {path.name}"] = path.read_bytes()[:24]
    for task, targets in cohort.targets.items():
        for held_out in (True, False):
            column = np.nan_to_num(targets[cohort.rows(held_out=held_out)]).reshape(-1)
            for kind in ("float32", "float64", "int8", "int64", "bool"):
                found[f"labels {task} {kind} {held_out}"] = column.astype(kind).tobytes()
            found[f"labels {task} text {held_out}"] = json.dumps(column.astype(int).tolist()).encode()
    rng = np.random.default_rng(1)
    for modality, arrays in cohort.inputs.items():
        for name, array in arrays.items():
            for number, row in enumerate(array.reshape(len(array), -1)):
                for start in rng.integers(max(1, row.size - PATTERN // row.itemsize), size=4):
                    part = row[start : start + max(1, PATTERN // row.itemsize)]
                    if len(np.unique(part)) > 2:
                        found[f"{modality}.{name} row {number} at {start}"] = part.tobytes()
    return {name: data for name, data in found.items() if len(data) >= 8}


def test_no_byte_of_a_patient_is_in_any_answer(loot, hospitals: Federation) -> None:
    study, _, data, _ = loot
    looked_for = 0
    for name in study.sites:
        wanted = secrets(load_site(hospitals.sites / name), study)
        looked_for += len(wanted)
        assert not [what for what, secret in wanted.items() if secret in data], name
        planted = data + next(s for w, s in wanted.items() if w.startswith("ecg")) + data  # the search can find
        assert [what for what, secret in wanted.items() if secret in planted]
    assert looked_for > 1000 and len(data) > 10_000


PROBE = """
import json, os, socket, sys
from pathlib import Path
sys.path.insert(0, os.environ["CODE"])
site, port, exchange, study, chosen = sys.argv[1:6]
tries = {
    "samples": lambda: open(site + "/samples.csv").read(),
    "list": lambda: os.listdir(site).index("samples.csv"),  # the way to the socket is there, nothing else
    "ledger": lambda: open(site + "/state/ledger.jsonl").read(),
    "outbox": lambda: os.listdir(site + "/state/outbox"),
    "key": lambda: open(site + "/state/node.key").read(),
    "network": lambda: socket.create_connection(("127.0.0.1", int(port)), 2),
    "plant": lambda: open(exchange + "/planted", "w"),
    "remove": lambda: os.unlink(exchange + "/site.sock"),
}
opened = []
for name, attempt in tries.items():
    try:
        if name in chosen.split(","):
            attempt()
            opened.append(name)
    except (OSError, ValueError):
        continue
if not os.environ["CODE"]:
    sys.exit(print(opened))
from fl_client import channel
token = Path(exchange, "token").read_text()
answers = []
asked = ("train", {"sigma": 0}), ("encoders", {"round": 2}), ("evaluate", {"patients": ["000001"]}), ("train", {})
for kind, extra in asked:
    text = json.dumps({"kind": kind, "study": study, "round": 1} | extra)
    answers.append(channel.call(Path(exchange, "site.sock"), token, text, {}, timeout=60))
print(json.dumps({"opened": opened, "answers": [[text, sorted(arrays)] for text, arrays in answers]}))
"""


def test_code_in_the_sandbox_reaches_the_socket_and_gets_codes_there(loot, hospitals: Federation) -> None:
    """Were server-sent code ever to run: it cannot open the site's data, and at the socket it is one more caller."""
    study, _, _, _ = loot
    site = load_site(hospitals.sites / "alpha")
    exchange = site.state_dir / "run"
    confined = sandbox.choose(exchange=exchange, protected=[site.folder])
    port = hospitals.home.address().rsplit(":", 1)[1]
    harmless = "samples,list,ledger,outbox,key,network"
    command = [sys.executable, "-c", PROBE, str(site.folder), port, str(exchange), study.identity]
    environment = {"PATH": "/usr/bin", "CODE": str(Path(sandbox.__file__).parents[1])}
    done = subprocess.run(
        confined.command([*command, f"{harmless},plant,remove"], env=environment),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["opened"] == []
    told = [(Reply.model_validate_json(text), arrays) for text, arrays in found["answers"]]
    codes = [reply.code for reply, _ in told]
    assert codes == [Code.BAD_REQUEST, Code.EGRESS, Code.BAD_REQUEST, Code.WRONG_SCHEMA]
    assert all(arrays == [] for _, arrays in told)
    free = subprocess.run(
        [*command, harmless],
        env={"CODE": "", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ast.literal_eval(free.stdout) == harmless.split(","), "the targets are open without the sandbox"


def test_a_bundle_that_reads_the_site_is_never_unpacked(hospitals: Federation) -> None:
    """Code that would open the site's files and its socket comes with the bundle: refused, named in the site's log."""
    marker, target = hospitals.root / "stolen", hospitals.sites / "alpha"
    evil = (
        f"import pathlib\nfor path in ({str(target / 'samples.csv')!r}, {str(target / 'state/run/site.sock')!r}):\n"
        f"    pathlib.Path({str(marker)!r}).write_bytes(pathlib.Path(path).read_bytes())\n"
    )
    files = {"pyproject.toml": superlink.BUNDLE, "fl_client/app.py": evil, "sitecustomize.py": evil}
    study = hospitals.study("thief", training=SMALL, privacy={"epsilon": 8.0}, rounds={"deadline": 20.0})
    original, superlink.bundle = superlink.bundle, lambda _: original(files)
    try:
        with pytest.raises(Exception, match="server-code-refused"):
            hospitals.run(study)
    finally:
        superlink.bundle = original
    assert not marker.exists()
    log = (target / "state/logs/executor.log").read_text().splitlines()
    refused = [json.loads(line) for line in log if line.startswith("{") and "sitecustomize.py" in line]
    assert refused and refused[0]["event"] == "server-code-refused"
    assert [r for r in released(load_site(target)) if r.study == load_study(study).identity] == []
