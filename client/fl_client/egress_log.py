"""The log of releases as an officer reads it, and its replay against the bytes that the outbox keeps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import safetensors.numpy
from pydantic import ValidationError

from fl_client.approval import audit_log
from fl_client.egress import LOG, MASKED, findings_digest
from fl_client.withdrawn import is_withdrawn
from fl_shared.audit import AuditLog
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.results import Findings
from fl_shared.site import Site
from fl_shared.wire import digest

KEPT = frozenset({"train", "learning", "encoders", "evaluate", "statistics", "recalibrate"})
"""Releases whose bytes the outbox keeps; keys, shares and masks of secure aggregation are used once, kept nowhere."""
UPDATES = frozenset({"train", MASKED})
RESTORE = "Restore the file; until then nobody can say what left."


@dataclass(frozen=True, kw_only=True)
class Released:
    """One row of the log. ``what`` is the kind of request that it answered, ``row`` its number from 1."""

    row: int
    time: str
    what: str
    study: str
    round: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Total:
    """What left for one study."""

    study: str
    name: str  # as approved; empty when it never was
    releases: int
    bytes: int
    rounds: tuple[int, ...]
    first: str
    last: str
    withdrawn: bool
    stayed: bool  # pretraining at this site passes the gate, but nobody outside gets it


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What was recomputed: rows with the very bytes that left, rows that were not kept, files that never left."""

    rows: int
    matched: int
    not_kept: int
    never_left: tuple[str, ...]


def released(site: Site) -> tuple[Released, ...]:
    """Every release, in order.

    Raises:
        ConsiliumError: the chain of the log is broken, or answers are missing at its end (exit code 16).
    """
    answers = list(audit_log(site).rows())  # before the log, which is written first
    log = AuditLog(site.state_dir / LOG)
    if (bad := log.verify()) is not None:
        raise _refused([_broken(log.path, bad)])
    rows = tuple(_row(body) for body in log.rows())
    if faults := list(_missing_at_the_end(log.path, rows, answers)):
        raise _refused(faults)
    return rows


def names(site: Site) -> Mapping[str, str]:
    """Hash -> name of every study that was ever approved here."""
    rows = audit_log(site).rows()
    return {str(row["study"]): str(row.get("name", "")) for row in rows if row.get("action") == "approve"}


def totals(site: Site, rows: Sequence[Released]) -> tuple[Total, ...]:
    """One a study, in order of its first release."""
    known = names(site)
    here = {str(row["study"]) for row in audit_log(site).rows() if row.get("action") == "pretrain"}
    found = []
    for study in dict.fromkeys(row.study for row in rows):
        mine = [row for row in rows if row.study == study]
        found.append(
            Total(
                study=study,
                name=known.get(study, "pretraining at this site" if study in here else ""),
                releases=len(mine),
                bytes=sum(row.bytes for row in mine),
                rounds=tuple(sorted({row.round for row in mine if row.what in UPDATES})),
                first=mine[0].time,
                last=mine[-1].time,
                withdrawn=is_withdrawn(site, study),
                stayed=study in here,
            )
        )
    return tuple(found)


def replay(site: Site) -> Replay:
    """Compute every release's digest anew from what the outbox keeps.

    Raises:
        ConsiliumError: the log is broken, or the outbox does not hold the bytes of a row (exit code 16).
    """
    rows, outbox = released(site), site.state_dir / "outbox"
    kept = {study: _digests(outbox / study) for study in {row.study for row in rows}}
    lost = [row for row in rows if row.what in KEPT and row.sha256 not in kept[row.study].values()]
    never = {
        study: [name for name, sha in files.items() if sha not in {row.sha256 for row in rows if row.study == study}]
        for study, files in kept.items()
    }
    if lost:
        raise _refused([_lost(site, row, never[row.study]) for row in lost])
    return Replay(
        rows=len(rows),
        matched=sum(row.what in KEPT for row in rows),
        not_kept=sum(row.what not in KEPT for row in rows),
        never_left=tuple(sorted(f"{study}/{name}" for study, files in never.items() for name in files)),
    )


def as_json(site: Site, rows: Sequence[Released]) -> dict[str, Any]:
    """The machine form of the log."""
    told = totals(site, rows)
    known = {total.study: total.name for total in told}
    return {
        "site": site.name,
        "rows": [asdict(row) | {"name": known[row.study]} for row in rows],
        "studies": [asdict(total) for total in told],
    }


def _row(body: Mapping[str, Any]) -> Released:
    return Released(
        row=int(body["seq"]),
        time=str(body["time"]),
        what=str(body["action"]).removeprefix("release-"),
        study=str(body["study"]),
        round=int(body["round"]),
        bytes=int(body["bytes"]),
        sha256=str(body["sha256"]),
    )


def _broken(path: Path, row: int) -> Fault:
    if not path.read_bytes().endswith(b"\n"):
        problem = f"row {row} has no end: the machine stopped while it was written, or it was cut"
        return _fault(path, problem, "If it stopped: nothing left with this row, and the next release removes it.")
    return _fault(path, f"row {row} does not fit the chain: edited, moved or removed", RESTORE, row=row)


def _missing_at_the_end(path: Path, rows: Sequence[Released], answers: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """A chain does not show rows cut off its end: the other log, of answers, does."""
    left = Counter((row.study, "train" if row.what == MASKED else row.what, row.round) for row in rows)
    told: Counter[tuple[str, str, int]] = Counter()
    for answer in answers:
        if answer.get("outcome") != "ok" or answer["action"] not in KEPT:
            continue
        study, what, number = str(answer["study"]), str(answer["action"]), int(answer["round"])
        told[study, what, number] += 1
        if told[study, what, number] > left[study, what, number]:
            problem = f"rows were cut off its end: row {answer['seq']} of audit.jsonl tells of a release that it lacks"
            yield _fault(path, f"{problem} ({what} of round {number}, study {study[:12]})", RESTORE)


def _digests(folder: Path) -> dict[str, str]:
    """File of an outbox -> digest of what it holds; empty for what cannot be read."""
    told = (folder.glob(name) for name in ("evaluation-*.json", "learning_*.json"))
    found = [*folder.glob("[!.]*.safetensors"), *chain.from_iterable(told)]
    return {path.name: _digest(path) for path in sorted(found)}


def _digest(path: Path) -> str:
    try:
        if path.suffix == ".safetensors":
            return digest(safetensors.numpy.load(path.read_bytes()))
        return findings_digest(Findings.model_validate_json(path.read_bytes()))
    except (OSError, ValueError, ValidationError, safetensors.SafetensorError, json.JSONDecodeError):
        return ""


def _lost(site: Site, row: Released, never: Sequence[str]) -> Fault:
    folder = site.state_dir / "outbox" / row.study
    aside = f" (files there that match no row: {', '.join(never[:4])})" if never else ""
    problem = (
        f"row {row.row}, {row.what} of round {row.round}, {row.bytes} bytes, sha256 {row.sha256[:16]}: no file of "
        f"{folder} holds these bytes{aside}"
    )
    mend = "Restore the outbox: a file there was altered or removed."
    return _fault(site.state_dir / LOG, problem, mend, row=row.row)


def _fault(path: Path, problem: str, mend: str, *, row: int | None = None) -> Fault:
    return Fault(file=str(path), key="egress", problem=problem, mend=mend, row=row)


def _refused(faults: Sequence[Fault]) -> ConsiliumError:
    return ConsiliumError("the log of what left does not hold", code=ExitCode.PRIVACY, faults=faults)
