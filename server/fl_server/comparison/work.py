"""What one worker does at a time: the studies of one cell, from their files to their results on disk."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fl_server.launch import outcome, prepare
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import Results
from fl_shared.wire import Code

LONGEST_REASON = 600  # characters
BY_PRIVACY = (Code.LEDGER, Code.BUDGET, Code.PROVENANCE, Code.NO_PRIVACY_FORBIDDEN)
_MODULE = re.compile(r"^([a-z_]\w*\.)+")
_RAISED = re.compile(r"^([A-Za-z_]\w*\.)*([A-Za-z_]\w*)(: |$)")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One study: its file, and site -> the sites whose patients it holds."""

    path: Path
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The studies of one cell, done one after the other; all paths are absolute.

    Attributes:
        title: for people.
        parts: the studies.
        runs: folder in which each gets its own.
        sites_dir: folder of all sites.
        weights: name -> directory of the pretrained weights that the studies name.
    """

    title: str
    parts: tuple[Part, ...]
    runs: Path
    sites_dir: Path
    weights: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of it. ``seconds``: of this process's work; None when all had finished before."""

    state: Literal["finished", "refused", "failed"]
    reason: str = ""
    seconds: float | None = None


def do(work: Work) -> Done:
    """Run what has not finished; a failure is told, never raised."""
    return tried(lambda: _do(work), where=work.runs)


def tried(run: Callable[[], bool], *, where: Path) -> Done:
    """What came of ``run``, which says whether there was anything to do."""
    from torch import set_num_threads

    set_num_threads(1)  # many run at a time
    logging.getLogger("flwr").setLevel(logging.ERROR)  # its own lines would tear the display
    began = time.perf_counter()
    try:
        return Done(state="finished", seconds=time.perf_counter() - began if run() else None)
    except ConsiliumError as error:
        state: Literal["refused", "failed"] = "refused" if refused_by_privacy(error) else "failed"
        return Done(state=state, reason=_shortened(reason(error, where)), seconds=time.perf_counter() - began)
    except Exception as error:  # noqa: BLE001 - the other cells go on
        told = f"unexpected {type(error).__name__}: {error}"
        return Done(state="failed", reason=_shortened(told), seconds=time.perf_counter() - began)


def _do(work: Work) -> bool:
    from fl_server.comparison.fleet import run_here

    worked = False
    for part in work.parts:
        folder = prepare(part.path, runs=work.runs, weights=work.weights)
        if not isinstance(outcome(folder), Results):
            run_here(part.path, folder=folder, sites_dir=work.sites_dir, pools=part.pools)
            worked = True
    return worked


def refused_by_privacy(error: ConsiliumError) -> bool:
    """Whether nothing but privacy forbids it: the sites', their ledgers', or that no patient's gradient exists."""
    if error.code == ExitCode.PRIVACY:
        return True
    return bool(error.faults) and all(
        fault.problem in BY_PRIVACY or (error.code == ExitCode.NOT_APPROVED and fault.key == "privacy.mode")
        for fault in error.faults
    )


def reason(error: ConsiliumError, runs: Path) -> str:
    """Why, in words: a coordinator sees codes only, but here the sites' own logs lie beside it."""
    words = []
    for fault in error.faults:
        site = fault.key.removeprefix("sites.")
        logged = _logged(runs / fault.file / "simulation" / site / "log.jsonl") if fault.file else ""
        words.append(f"{site}: {logged}" if logged else f"{fault.key}: {fault.problem}")
    if len({word.partition(": ")[2] for word in words}) == 1:  # the same everywhere
        words = [words[0].partition(": ")[2]]
    return "; ".join([*words] if words else [error.message])


def _logged(path: Path) -> str:
    """The last error in a site's log, as raised there."""
    if not path.exists():
        return ""
    found = [str(json.loads(line).get("traceback", "")) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = next((text.strip().splitlines() for text in reversed(found) if text), list[str]())
    raised = [number for number, line in enumerate(lines) if _RAISED.match(line) and not line.startswith("Traceback")]
    if not raised:
        return ""
    said = " ".join(line.strip().removeprefix("- ") for line in lines[raised[-1] :])
    return _MODULE.sub("", said).removeprefix("ConsiliumError: ")


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"
