"""``ledger verify``: the ledger against itself, against what the outbox holds, and against the log of what left."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fl_client.approval import approved, audit_log
from fl_client.egress_log import Released, released, replay
from fl_client.payment import site_ledger
from fl_client.privacy.chain import Purpose, Row
from fl_client.privacy.provenance import FOLDER
from fl_shared.accounting import epsilon
from fl_shared.errors import ConsiliumError
from fl_shared.site import Site

FILES: Mapping[Purpose, str] = {
    "training": r"round_(?P<round>\d+)-(?P<base>[0-9a-f]{16})\.safetensors",
    "statistics": r"statistics-(?P<base>[0-9a-f]{16})\.safetensors",
    "recalibration": r"recalibrate-(?P<base>[0-9a-f]{16})\.safetensors",
    "evaluation": r"evaluation-(?P<base>[0-9a-f]{16})\.json",
}
"""Purpose of a ledger row -> the file of the outbox that it pays for."""
KINDS: Mapping[str, Purpose] = {
    "train": "training",
    "statistics": "statistics",
    "recalibrate": "recalibration",
    "evaluate": "evaluation",
}
SHOWN = 5  # problems told of one check


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at: how much of it, and what is wrong with it."""

    name: str
    seen: str
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(site: Site) -> tuple[Check, ...]:
    """Check everything that this site's promises rest on; stops after the ledger when that does not verify."""
    try:
        rows = site_ledger(site).rows()
    except ConsiliumError as error:
        return (Check(name="chain", seen="rows, chain and head", problems=_texts(error)),)
    chain = Check(name="chain", seen=f"{len(rows)} rows, each with the hash of the one before; the head names the last")
    paid = {row.reservation: row for row in rows}
    return (
        chain,
        Check(name="reservations", seen=f"{len(paid)} reservations", problems=_cut(_reservations(rows))),
        _spent(rows),
        _tables(site, rows),
        _outbox(site, list(paid.values())),
        _egress(site, list(paid.values())),
        _try("replay", "digests of what left, computed anew from the outbox", lambda: replay(site)),
        _audit(site),
    )


def _reservations(rows: Sequence[Row]) -> Iterator[str]:
    """Every row is a reservation, or the one fate of an earlier one and otherwise its copy."""
    told = {"seq", "prev_hash", "state", "time", "hash"}
    open_: dict[int, Row] = {}
    for row in rows:
        if row.state == "RESERVED":
            if row.reservation != row.seq or not row.sigma > 0:
                yield f"row {row.seq} reserves number {row.reservation} with sigma {row.sigma:g}"
            open_[row.seq] = row
        elif (first := open_.pop(row.reservation, None)) is None:
            yield f"row {row.seq} is {row.state}, but {row.reservation} is no open reservation"
        elif first.model_dump(exclude=told) != row.model_dump(exclude=told):
            yield f"row {row.seq} differs from its reservation {row.reservation}"


def _spent(rows: Sequence[Row]) -> Check:
    """Epsilon of all events, computed anew at the last reservation's delta."""
    reserved = [row for row in rows if row.state == "RESERVED"]
    if not reserved:
        return Check(name="epsilon", seen="nothing spent")
    last = reserved[-1]
    total = epsilon([row.event for row in reserved], delta=last.delta)
    seen = f"{total:.4f} at delta {last.delta:g}, computed anew"
    wrong = f"row {last.seq} says {last.eps_after:.6g}, not {total:.6g}"
    return Check(name="epsilon", seen=seen, problems=(wrong,) if total > last.eps_after * (1 + 1e-6) else ())


def _tables(site: Site, rows: Sequence[Row]) -> Check:
    """Every row's table of provenance is kept, and hashes to what the row says."""
    wanted = {row.provenance_hash for row in rows}
    wrong = [name for name in sorted(wanted) if _sha256(site.state_dir / FOLDER / f"{name}.json") != name]
    problems = (f"no table {name[:12]} of what a release depended on" for name in wrong)
    return Check(name="provenance", seen=f"{len(wanted)} tables", problems=_cut(problems))


def _outbox(site: Site, paid: Sequence[Row]) -> Check:
    """A committed row has its file, and a file of a study with privacy its row."""
    files = {
        (folder.name, purpose, found.groupdict().get("round", ""), found["base"]): path
        for folder in sorted((site.state_dir / "outbox").glob("[!.]*/"))
        for path in sorted(folder.iterdir())
        for purpose, pattern in FILES.items()
        if (found := re.fullmatch(pattern, path.name))
    }
    keys = {_key(row) for row in paid}
    problems = [
        f"row {row.reservation} paid for {row.purpose} of study {row.study[:12]}, whose bytes are gone"
        for row in paid
        if row.state == "COMMITTED" and _key(row) not in files
    ]
    loose = [key for key in files if key not in keys]
    problems += [
        f"{key[0][:12]}/{files[key].name} was computed without a row" for key in loose if _pays(site, key[0], key[1])
    ]
    seen = f"{len(files) - len(loose)} files with their rows, {len(loose)} of studies without privacy"
    return Check(name="outbox", seen=seen, problems=_cut(problems))


def _key(row: Row) -> tuple[str, Purpose, str, str]:
    return row.study, row.purpose, str(row.round) if row.purpose == "training" else "", row.base_digest[:16]


def _egress(site: Site, paid: Sequence[Row]) -> Check:
    """Nothing of a study with privacy left without a committed row."""
    committed = {(row.study, row.purpose, row.round) for row in paid if row.state == "COMMITTED"}
    try:
        left: Sequence[Released] = released(site)
    except ConsiliumError as error:
        return Check(name="egress", seen="the log of what left", problems=_texts(error))
    problems = (
        f"row {row.row}: {row.what} of round {row.round}, study {row.study[:12]}, left without a committed row"
        for row in left
        if (purpose := KINDS.get(row.what)) is not None
        and (row.study, purpose, row.round) not in committed
        and _pays(site, row.study, purpose)
    )
    return Check(name="egress", seen=f"{len(left)} releases", problems=_cut(problems))


def _audit(site: Site) -> Check:
    bad = audit_log(site).verify()
    problem = () if bad is None else (f"row {bad} of audit.jsonl does not fit the chain: edited, moved or removed",)
    return Check(name="audit", seen="the log of requests and approvals", problems=problem)


def _pays(site: Site, identity: str, purpose: Purpose) -> bool:
    """Whether a study's releases for a purpose are paid for, as its approval says."""
    study = approved(site, identity)
    if study is None:
        return False
    return study.evaluation.epsilon is not None if purpose == "evaluation" else study.privacy.mode != "none"


def _try(name: str, seen: str, look: Callable[[], object]) -> Check:
    try:
        look()
    except ConsiliumError as error:
        return Check(name=name, seen=seen, problems=_texts(error))
    return Check(name=name, seen=seen)


def _texts(error: ConsiliumError) -> tuple[str, ...]:
    return _cut(str(fault) for fault in error.faults) or (error.message,)


def _cut(problems: Iterator[str] | Sequence[str]) -> tuple[str, ...]:
    every = list(problems)
    more = [f"and {len(every) - SHOWN} more"] if len(every) > SHOWN else []
    return (*every[:SHOWN], *more)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
