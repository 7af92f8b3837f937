"""The ledger's file: hash-chained rows, a head that shows a cut, one lock, fsync before anything is acknowledged."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from fl_client.files import private_dir, write_private
from fl_shared.accounting import Event
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.toml import Section

LOCK_SECONDS = 60.0  # another process holds the lock for one row only
State = Literal["RESERVED", "COMMITTED", "VOID"]
Purpose = Literal["training", "statistics", "recalibration", "evaluation"]
Unit = Literal["patient", "site"]


class Row(Section):
    """One line. COMMITTED and VOID rows repeat their reservation (its ``seq``) and cost nothing more."""

    seq: int
    prev_hash: str
    cohort_id: str
    unit: Unit
    adjacency: Literal["add-remove"] = "add-remove"
    mechanism: Literal["poisson-sampled-gaussian", "gaussian"]
    purpose: Purpose
    state: State
    reservation: int
    study: str
    round: int
    base_digest: str
    q: float
    sigma: float
    clip: float
    steps: int
    parameter_set_hash: str
    provenance_hash: str
    delta: float
    eps_after: float  # of all events of the cohort, this one included, at `delta`
    accountant: str
    time: str
    hash: str = ""

    @property
    def event(self) -> Event:
        """What the accountant sees."""
        return Event(self.q, self.sigma, self.steps)

    def sealed(self) -> Row:
        """The row with its hash."""
        body = json.dumps(self.model_dump(mode="json", exclude={"hash"}), sort_keys=True, separators=(",", ":"))
        return self.model_copy(update={"hash": hashlib.sha256(body.encode()).hexdigest()})


class Chain:
    """Rows in ``ledger.jsonl``, number and hash of the last one in ``ledger.head``. Safe for threads and processes."""

    def __init__(self, folder: Path, *, cohort: str) -> None:
        self.path = folder / "ledger.jsonl"
        self._head = folder / "ledger.head"
        self._lock = folder / "ledger.lock"
        self._cohort = cohort
        # length and digest of the bytes that were checked, and their rows: a long ledger is read at every release
        self._verified: tuple[int, bytes, tuple[Row, ...]] = (0, hashlib.sha256(b"").digest(), ())
        self.genesis = hashlib.sha256(f"ledger\0{cohort}".encode()).hexdigest()

    def create(self) -> None:
        """Start an empty chain; an existing one is verified and kept."""
        private_dir(self.path.parent)
        with self.locked():
            if self._head.exists() or (self.path.exists() and self.path.stat().st_size):
                self.read()
                return
            write_private(self.path, b"")
            write_private(self._head, _head(0, self.genesis))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the file."""
        if not self._lock.parent.is_dir():
            raise self.error("the ledger is missing", "Restore it; only a new cohort starts a new ledger.")
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise self.error("locked by another process", "Stop it, then try again.") from error
                    time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> list[Row]:
        """All acknowledged rows; a last line without its newline was never acknowledged and is left out."""
        if not (self.path.exists() and self._head.exists()):
            raise self.error("the ledger is missing", "Restore it; only a new cohort starts a new ledger.")
        content = self.path.read_bytes()
        content = content[: content.rfind(b"\n") + 1]
        size, digest, known = self._verified
        if hashlib.sha256(content[:size]).digest() != digest:  # not the very bytes that were checked: all anew
            size, known = 0, ()
        rows = list(known)
        for number, line in enumerate(content[size:].split(b"\n")[:-1], start=len(rows) + 1):
            try:
                row = Row.model_validate_json(line)
            except ValidationError as error:
                raise self.error("unreadable row", "Restore the ledger.", row=number) from error
            previous = rows[-1].hash if rows else self.genesis
            if row.seq != number or row.prev_hash != previous or row.cohort_id != self._cohort or row != row.sealed():
                raise self.error("row does not fit the chain: edited, moved or removed", "Restore it.", row=number)
            rows.append(row)
        self._check_head(rows)
        self._verified = len(content), hashlib.sha256(content).digest(), tuple(rows)
        return rows

    def _check_head(self, rows: Sequence[Row]) -> None:
        """The head names a row of this file: the last one, or (crash between two writes) the one before it."""
        try:
            head: dict[str, Any] = json.loads(self._head.read_bytes())
            seq, digest = int(head["seq"]), str(head["hash"])
        except (ValueError, KeyError, TypeError) as error:
            raise self.error("unreadable head", "Restore the ledger.") from error
        if not len(rows) - 1 <= seq <= len(rows):
            raise self.error(f"{len(rows)} rows, but the head names {seq}: cut or rolled back", "Restore the ledger.")
        if digest != (rows[seq - 1].hash if seq else self.genesis):
            raise self.error("the head names another row: forked", "Restore the ledger.")

    def append(self, row: Row) -> None:
        """Seal and add a row; durable when this returns. Call it under the lock, after `read`."""
        row = row.sealed()
        with self.path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)  # drops a torn line that was never acknowledged
            file.seek(0, os.SEEK_END)
            file.write(row.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        write_private(self._head, _head(row.seq, row.hash))

    def error(self, problem: str, mend: str, *, row: int | None = None) -> ConsiliumError:
        """A refusal that names this file."""
        fault = Fault(file=str(self.path), key="ledger", problem=problem, mend=mend, row=row)
        return ConsiliumError("the privacy ledger refuses", code=ExitCode.PRIVACY, faults=[fault])


def _head(seq: int, digest: str) -> bytes:
    return json.dumps({"seq": seq, "hash": digest}).encode()
