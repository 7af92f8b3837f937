"""Keeps a site's two Flower processes alive: the SuperNode (node key, network) and the sandboxed executor (neither).

Either may die at any time; it is started again after a growing pause, for ever, since a coordinator may be away for
days. Flower refuses a node's return until its old heartbeat has lapsed (up to about 90 s): that is waited out too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fl_client.sandbox import Sandbox
from fl_shared.processes import NO_FORK_HANDLERS, end_with_parent, stop
from fl_shared.site import Site

FIRST_PAUSE, LONGEST_PAUSE, HEALTHY_AFTER = 1.0, 30.0, 60.0  # seconds
STOP_SECONDS, TICK = 10.0, 0.5
REPLY_SECONDS = 24 * 3600.0  # the coordinator's deadline decides; this only bounds a lost exchange


@dataclass(kw_only=True)
class Child:
    """One supervised process and when it may be started again."""

    name: str
    command: Sequence[str]
    env: dict[str, str] | None
    log: Path
    process: subprocess.Popen[bytes] | None = None
    pause: float = FIRST_PAUSE
    started: float = 0.0
    due: float = 0.0
    restarts: int = field(default=-1)

    def start(self) -> None:
        """Start it; output goes to its log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.log.parent,
                preexec_fn=end_with_parent,
            )
        self.started = time.monotonic()
        self.restarts += 1

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after a grace."""
        if self.process is None or self.process.poll() is not None:
            return
        stop(self.process, grace=STOP_SECONDS)


def supervise(children: Sequence[Child], *, until: threading.Event, died: Callable[[str, int, float], None]) -> None:
    """Run until ``until`` is set. ``died(name, exit code, pause)`` is told of every death."""
    for child in children:
        child.start()
    try:
        while not until.wait(TICK):
            for child in children:
                _tend(child, died)
    finally:
        for child in reversed(children):
            child.stop()


def _tend(child: Child, died: Callable[[str, int, float], None]) -> None:
    now = time.monotonic()
    if child.process is not None and (code := child.process.poll()) is not None:
        child.process = None
        child.pause = FIRST_PAUSE if now - child.started > HEALTHY_AFTER else min(2 * child.pause, LONGEST_PAUSE)
        child.due = now + child.pause
        died(child.name, code, child.pause)
    elif child.process is None and now >= child.due:
        child.start()


def flower_processes(
    site: Site, *, superlink: str, certificates: Path, key: Path, sandbox: Sandbox, token: Path, socket: Path
) -> list[Child]:
    """The SuperNode and the executor of a site, ready to be supervised."""
    logs = site.state_dir / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    node_socket = sandbox.exchange / "node.sock"
    node = [
        *(sys.executable, "-m", "fl_client.flower_node", str(node_socket)),
        *("--root-certificates", str(certificates), "--superlink", superlink),
        *("--auth-supernode-private-key", str(key), "--isolation", "process"),
    ]
    executor = [sys.executable, "-m", "fl_client.executor", "--node-socket", str(node_socket)]
    scratch = str(sandbox.scratch)
    flower = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", NO_FORK_HANDLERS: "0"}
    inside = {
        "PATH": "/usr/bin:/bin", "HOME": scratch, "TMPDIR": scratch, "FLWR_HOME": f"{scratch}/flwr", **flower,
        "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
        "CONSILIUM_SITE": site.name, "CONSILIUM_SOCKET": str(socket), "CONSILIUM_TOKEN_FILE": str(token),
        "CONSILIUM_TIMEOUT": str(REPLY_SECONDS),
    }  # fmt: skip
    outside = os.environ | flower | {"FLWR_HOME": str(site.state_dir / "flwr")}
    return [
        Child(name="supernode", command=node, env=outside, log=logs / "supernode.log"),
        Child(name="executor", command=sandbox.command(executor, env=inside), env={}, log=logs / "executor.log"),
    ]
