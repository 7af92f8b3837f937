"""The SuperNode of a site: Flower's own, with its Runtime API on a UNIX socket and quicker polling.

Flower serves that API on TCP, where any local user could take tasks; a socket in a 0700 folder cannot be reached. Its
loop waits 3 s between questions; this one asks often while a study runs and rarely otherwise.

Private API of flwr 1.41 (contract-tested): the names ``uvicorn`` in `flower_supernode` and ``time`` in
`start_client_internal`.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import time
from typing import Any

import uvicorn

# by name: the packages export functions that hide the modules of the same name
launcher: Any = importlib.import_module("flwr.supernode.cli.flower_supernode")
node_loop: Any = importlib.import_module("flwr.supernode.start_client_internal")

BUSY, IDLE, COOL_DOWN = 0.1, 2.0, 30.0  # seconds: while a study runs, otherwise, and until then
PR_SET_PDEATHSIG = 1


def main() -> None:
    """``python -m fl_client.flower_node SOCKET PARENT_PID <flower-supernode arguments>``."""
    socket, parent = sys.argv[1], int(sys.argv[2])
    die_with_parent(parent)
    launcher.uvicorn = _Uvicorn(socket)
    node_loop.time = _Clock()
    sys.argv = ["flower-supernode", *sys.argv[3:]]
    launcher.flower_supernode()


def die_with_parent(parent: int) -> None:
    """End when the supervisor ends, however it ends (Linux; elsewhere the supervisor's own clean-up must do)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call
            sys.exit(0)


class _Uvicorn:
    """``uvicorn`` whose servers listen on one UNIX socket."""

    Server = uvicorn.Server

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def Config(self, *args: Any, **kwargs: Any) -> uvicorn.Config:
        """A configuration with ``uds`` instead of host and port."""
        kwargs.update(uds=self._socket, log_level="warning")
        return uvicorn.Config(*args, **kwargs)


class _Clock:
    """``time`` for the node's loop: 3 s waits become short while a study runs, 0.5 s waits always."""

    time, monotonic = staticmethod(time.time), staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._last_reply = 0.0

    def sleep(self, seconds: float) -> None:
        """Called with 3 when no message waits, and with 0.5 while a reply is being made."""
        if seconds < 1:
            self._last_reply = time.monotonic()
            time.sleep(BUSY / 2)
        else:
            time.sleep(BUSY if time.monotonic() - self._last_reply < COOL_DOWN else IDLE)


if __name__ == "__main__":
    main()
