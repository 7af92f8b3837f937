"""What the benchmarks of the deployment share: sites' folders, processes that end with us, a submitted run, a table."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fl_client.keys import ensure_key
from fl_server import superlink
from fl_shared.processes import end_with_parent, stop
from fl_shared.site import Site, load_site

BENCHMARKS = Path(__file__).resolve().parents[1]
JOIN_SECONDS, STOP_SECONDS, TAIL = 120.0, 30.0, 1500
RESULT, PLAN = "result.json", "plan.json"


def use_benchmarks_as_path() -> None:
    """Let every process started from here import `deployed`, `measure` and `uci_work`, on one thread each."""
    os.environ |= {"PYTHONPATH": str(BENCHMARKS), "OMP_NUM_THREADS": "1"}


def add_site(home: superlink.Home, folder: Path) -> Site:
    """A site without patients, named after its folder, whose key the coordinator knows."""
    folder.mkdir(parents=True)
    (folder / "samples.csv").write_text("patient_id,sample_id,index_time\n")
    (folder / "site.toml").write_text(f'schema = 1\nname = "{folder.name}"\n')
    site = load_site(folder)
    superlink.register(home, site=site.name, public_key=ensure_key(site)[1])
    return site


@contextlib.contextmanager
def spawned(command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with output to ``log`` and ``env`` over this process's environment; ended on leaving."""
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            preexec_fn=end_with_parent,
        )  # fmt: skip
    try:
        yield process
    finally:
        stop(process, grace=STOP_SECONDS)


def site_command(module: str, site: Site, home: superlink.Home, *more: str) -> list[str]:
    """Command line of a site's process: a module of `deployed` (arguments: folder, SuperLink, its CA, ``more``)."""
    return [sys.executable, "-m", f"deployed.{module}", str(site.folder), home.address(), str(home.ca), *more]


def await_online(home: superlink.Home, processes: Mapping[str, subprocess.Popen[bytes]], *, folder: Path) -> None:
    """Wait until every site is connected; RuntimeError with the ends of all logs when one is not."""
    end = time.monotonic() + JOIN_SECONDS
    while missing := _offline(home, processes):
        if time.monotonic() > end or any(processes[name].poll() is not None for name in missing):
            raise RuntimeError(f"not connected: {', '.join(missing)}\n{tails(folder)}")
        time.sleep(0.5)


def _offline(home: superlink.Home, names: Iterable[str]) -> list[str]:
    state = superlink.nodes(home)
    return [name for name in names if state.get(name) != "online"]


def conduct(
    home: superlink.Home, folder: Path, *, plan: Mapping[str, Any], server: str, client: str, timeout: float
) -> dict[str, Any]:
    """Run a ServerApp that reads ``folder/plan.json`` and writes ``folder/result.json``; gives the result.

    Args:
        home: The running coordinator.
        folder: Of this benchmark.
        plan: What the ServerApp is told.
        server: ServerApp, ``module:name``.
        client: ClientApp that the bundle names (stock SuperNodes load it, ours refuse to).
        timeout: Seconds.

    Raises:
        RuntimeError: The run ended without a result, or too late.
    """
    (folder / PLAN).write_text(json.dumps(plan))
    apps = superlink.BUNDLE.replace("fl_server.app:app", server).replace("fl_client.app:app", client)
    with patch.object(superlink, "BUNDLE", apps):
        run = superlink.submit(home, study=folder / PLAN, run=folder)
    end, asked = time.monotonic() + timeout, time.monotonic()
    while not (folder / RESULT).exists():
        if time.monotonic() - asked > 5:
            asked = time.monotonic()
            ended = superlink.run_status(home, run)[0] == "finished" and not (folder / RESULT).exists()
            if ended or time.monotonic() > end:
                raise RuntimeError(f"no result{'' if ended else f' after {timeout:g} s'}\n{tails(folder)}")
        time.sleep(0.2)
    found: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return found


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """The ServerApp's answer to `conduct`."""
    part = folder / f"{RESULT}.part"
    part.write_text(json.dumps(result))
    part.replace(folder / RESULT)


def tails(folder: Path) -> str:
    """The ends of all logs below ``folder``."""
    return "\n".join(f"== {log}\n{log.read_text(errors='replace')[-TAIL:]}" for log in sorted(folder.rglob("*.log")))


def show(tables: Mapping[str, Sequence[Mapping[str, object]]], *, form: str, notes: Sequence[str] = ()) -> None:
    """Print tables (the same keys in every row; None for what was not measured) as JSON or as plain text."""
    if form == "json":
        print(json.dumps({**tables, "notes": notes}, indent=2))
        return
    for rows in filter(None, tables.values()):
        _show_table(rows)
    print(*notes, sep="\n")


def _show_table(rows: Sequence[Mapping[str, object]]) -> None:
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for what, *figures in lines:
        print("  ".join([what.ljust(widths[0]), *(f.rjust(w) for f, w in zip(figures, widths[1:], strict=True))]))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
    return "" if value is None else str(value)
