"""The live log of a run: one JSON object a line, appended while it happens, tailed by whoever shows progress.

Nothing in it was written by a site: names come from the study, reasons from fixed lists. Losses do not occur: under
privacy they would describe patients, and sites do not send them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from fl_server import durable
from fl_shared.toml import Section

POLL = 0.2  # seconds between two looks at the file
_log = logging.getLogger(__name__)


class Event(Section):
    """One thing that happened.

    run_started: ``sites``, ``round`` (last committed) of ``rounds``, ``budget`` (epsilon); phase: ``status`` names what
    is done in ``round``; site: its ``status`` and ``reason``; round_committed, round_failed: ``seconds``;
    run_finished; run_failed: ``reason`` is the name of the exit code.
    """

    kind: Literal["run_started", "phase", "site", "round_committed", "round_failed", "run_finished", "run_failed"]
    time: float = Field(default_factory=time.time, description="seconds since 1970")
    round: int = 0
    rounds: int = 0
    sites: dict[str, Literal["train", "external"]] = Field(default={})
    budget: float | None = None
    site: str = ""
    status: Literal[
        "",
        "hello",
        "statistics",
        "keys",
        "shares",
        "train",
        "unmask",
        "aggregate",
        "commit",
        "learning",
        "encoders",
        "recalibrate",
        "evaluate",
        "asked",
        "answered",
        "accepted",
        "rejected",
        "failed",
        "absent",
    ] = ""
    reason: str = ""
    epsilon: float | None = None
    seconds: float = 0.0


class EventLog:
    """Appends events to a file. Progress is no record: a full disk must not end a run here, so it only warns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        """Append one event."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            durable.append_line(self._path, event.model_dump_json(exclude_defaults=True))
        except OSError as error:
            _log.warning("progress cannot be written to %s: %s", self._path, error.strerror)


def follow(path: Path, *, stop: Callable[[], bool], start: int = 0) -> Iterator[Event]:
    """Yield events as they are written, also when the file does not exist yet.

    Args:
        path: ``events.jsonl``.
        stop: asked when nothing is left to read; True ends the iteration.
        start: byte to start at (the file's size before the run: what earlier runs wrote is skipped).
    """
    rest = b""
    while True:
        ending = stop()  # before reading, so that what was written until now is still read
        if path.exists():
            with path.open("rb") as file:
                file.seek(start)
                new = file.read()
            start += len(new)
            *lines, rest = (rest + new).split(b"\n")
            yield from (event for line in lines if (event := _parse(line)) is not None)
        if ending:
            return
        time.sleep(POLL)


def _parse(line: bytes) -> Event | None:
    try:
        return Event.model_validate_json(line)
    except ValidationError:
        _log.warning("a torn line of an interrupted write is skipped")
        return None
