"""How far each site's privacy ledger has come, over all runs: a counter that only grows, kept outside the sites.

A site can put back both files of its ledger, or go on from a copy of it, and nothing at the site shows that. Here lies
the last row (number and hash) that a site ever told; every request carries it back, so that the site refuses when its
ledger does not hold that row, and an answer that does not reach it is rejected here.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fl_server import durable
from fl_server.validation import Reason
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.wire import Mark, Reply

FILE = "ledgers.json"  # beside the runs
LOCK_SECONDS = 30.0  # another run holds the lock for one small file
_Marks = TypeAdapter(dict[str, Mark])


class Ledgers:
    """The marks of all sites in one file. Safe for several runs at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def marks(self) -> dict[str, Mark]:
        """Site -> the highest mark that it ever told.

        Raises:
            ConsiliumError: the file is unreadable (exit code 19).
        """
        try:
            return _Marks.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise ConsiliumError(
                f"{self._path}: unreadable ({type(error).__name__}). It shows whether a site's privacy ledger was put "
                "back: restore it from a backup.",
                code=ExitCode.CHECKPOINT,
            ) from error

    def judge(self, site: str, asked: Mark | None, reply: Reply) -> Reason | None:
        """Keep the mark of an answer that came in under a site's name; the reason to reject the answer, if any.

        Args:
            site: name under which it came in.
            asked: the mark that its request carried. Other runs may have brought a newer one since, so an answer has
                to reach this one only.
            reply: an answer about a study with privacy, from a site that approved it.
        """
        if (told := reply.ledger) is None:
            return Reason.LEDGER_UNTOLD if reply.status == "ok" else None
        with self._locked():
            marks = self.marks()
            kept = marks.get(site)
            if asked is not None and told.seq < asked.seq:
                return Reason.LEDGER_BEHIND
            if any(known is not None and known.seq == told.seq and known != told for known in (asked, kept)):
                return Reason.LEDGER_FORKED
            if kept is None or kept.seq < told.seq:
                self._write({**marks, site: told})
        return None

    def _write(self, marks: Mapping[str, Mark]) -> None:
        body = {site: marks[site].model_dump() for site in sorted(marks)}
        try:
            durable.write_file(self._path, (json.dumps(body, indent=1) + "\n").encode())
        except OSError as error:
            raise durable.disk_error(self._path, error) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise durable.disk_error(self._path, error) from error
        try:
            end = time.monotonic() + LOCK_SECONDS
            while not _taken(descriptor):
                if time.monotonic() > end:
                    message = f"{self._path} is locked by another process for {LOCK_SECONDS:g} s. Stop it, then resume."
                    raise ConsiliumError(message, code=ExitCode.ALREADY_RUNNING)
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
