"""Wait for a run in another process while a person looks on."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from rich.console import Console

from fl_server import superlink
from fl_server.events import follow
from fl_server.launch import outcome
from fl_server.progress import show
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import Results

LOOK = 0.5  # seconds between looks at the run's outcome
ASK_EVERY = 5.0  # seconds between questions to SuperLink


def submit_and_wait(home: superlink.Home, study: Path, folder: Path, *, console: Console) -> Results:
    """Submit a prepared study and wait for its end; arguments and errors as `wait`."""
    events = folder / "events.jsonl"
    start = events.stat().st_size if events.exists() else 0
    return wait(home, superlink.submit(home, study=study, run=folder), folder, start=start, console=console)


def wait(home: superlink.Home, run_id: int, folder: Path, *, start: int, console: Console) -> Results:
    """Show live progress until the run has ended.

    Args:
        home: the coordinator.
        run_id: Flower's run.
        folder: the run's folder.
        start: size of ``events.jsonl`` before the run.
        console: where progress is drawn (stderr).

    Raises:
        ConsiliumError: what ended the run.
        Exception: what ended the watching; the run goes on.
    """
    done = threading.Event()
    found: list[Results | Exception] = []
    watcher = threading.Thread(target=_watch, args=(home, run_id, folder, found, done), daemon=True)
    watcher.start()
    show(follow(folder / "events.jsonl", stop=done.is_set, start=start), console=console)
    watcher.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _watch(
    home: superlink.Home, run_id: int, folder: Path, found: list[Results | Exception], done: threading.Event
) -> None:
    asked = time.monotonic()
    try:
        while True:
            if (result := outcome(folder)) is not None:
                found.append(result)
                return
            if time.monotonic() - asked > ASK_EVERY:
                asked = time.monotonic()
                status, detail = superlink.run_status(home, run_id)
                if status == "finished" and outcome(folder) is None:
                    found.append(_ended(folder, detail))
                    return
            time.sleep(LOOK)
    except Exception as error:  # noqa: BLE001 - raised where a person waits, not lost with this thread
        found.append(error)
    finally:
        done.set()


def _ended(folder: Path, detail: str) -> ConsiliumError:
    return ConsiliumError(
        f"the run ended ({detail}) without a result. Committed rounds are in {folder}; run the same command again to "
        "continue.",
        code=ExitCode.FAILED,
    )
