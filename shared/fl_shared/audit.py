"""A hash-chained, append-only log in JSON lines: who did what, when; a changed or missing row is found.

Each row holds the hash of the row before it (Haber and Stornetta, 1991), so a row cannot be altered, removed or
inserted without breaking the chain. Cutting rows off the end is the one change that a chain alone cannot show.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

Value = str | int | float | bool | None
GENESIS = "0" * 64
_OWN = frozenset({"seq", "time", "prev", "hash"})
_TAIL = 2**16  # bytes: the longest row


class AuditError(ValueError):
    """The log cannot be continued: its last row is damaged, or a row is not writable as JSON."""


class AuditLog:
    """One log file (0600). Safe for threads and processes: every append holds a file lock and is fsynced."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, actor: str, action: str, **fields: Value) -> str:
        """Add a row and return its hash.

        Raises:
            AuditError: reserved field names, an oversized or non-finite row, or a damaged last row.
            OSError: the disk refuses; the file is left as it was.
        """
        if taken := _OWN & set(fields):
            raise AuditError(f"reserved field names: {sorted(taken)}")
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            end, last = _last_row(descriptor)
            row: dict[str, Value] = {
                "seq": int(last["seq"] or 0) + 1,
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            }
            row |= {"actor": actor, "action": action, **fields, "prev": last["hash"]}
            row["hash"] = _row_hash(row)
            _write(descriptor, end, _canonical(row) + b"\n")
            return str(row["hash"])
        finally:
            os.close(descriptor)

    def rows(self) -> Iterator[dict[str, Value]]:
        """All rows in order, unverified; none when there is no log.

        Raises:
            ValueError: a row is not JSON.
        """
        if self.path.exists():
            with self.path.open("rb") as lines:
                for line in lines:
                    yield json.loads(line)

    def verify(self) -> int | None:
        """Number (from 1) of the first row that does not fit the chain, or None when all fit."""
        rows, previous = self.rows(), GENESIS
        for number in count(1):
            try:
                row = next(rows, None)
                if row is None:
                    return None
                if row["seq"] != number or row["prev"] != previous or row["hash"] != _row_hash(row):
                    return number
                previous = str(row["hash"])
            except (ValueError, KeyError, TypeError):
                return number
        return None


def _canonical(row: Mapping[str, Value]) -> bytes:
    try:
        text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise AuditError(f"a field is not JSON: {error}") from error
    if len(text) >= _TAIL:
        raise AuditError(f"a row of {len(text)} bytes exceeds {_TAIL}")
    return text


def _row_hash(row: Mapping[str, Value]) -> str:
    return hashlib.sha256(_canonical({key: value for key, value in row.items() if key != "hash"})).hexdigest()


def _last_row(descriptor: int) -> tuple[int, dict[str, Value]]:
    """End of the complete rows, and the last of them. A row without its newline was never acknowledged: it is cut."""
    size = os.fstat(descriptor).st_size
    start = max(0, size - 2 * _TAIL)
    tail = os.pread(descriptor, size - start, start)
    complete = tail[: tail.rfind(b"\n") + 1]
    if not complete:
        if start:
            raise AuditError("the last row has no end")
        return 0, {"seq": 0, "hash": GENESIS}
    try:
        row: dict[str, Value] = json.loads(complete[:-1].rpartition(b"\n")[2])
        intact = row["hash"] == _row_hash(row)
    except (ValueError, KeyError, TypeError) as error:
        raise AuditError("the last row is not a row") from error
    if not intact:
        raise AuditError(f"row {row['seq']} was changed")
    return start + len(complete), row


def _write(descriptor: int, end: int, line: bytes) -> None:
    """Append ``line`` at ``end`` whole or not at all."""
    os.ftruncate(descriptor, end)
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError("short write")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise
