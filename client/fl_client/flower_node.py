"""The SuperNode of a site: Flower's own, with its Runtime API on a UNIX socket and quicker polling.

Flower serves that API on TCP, where any local user could take tasks; a socket in a 0700 folder cannot be reached. Its
loop waits 3 s between questions; this one asks often while a study runs and rarely otherwise.

Private API of flwr 1.41 (contract-tested): the names ``uvicorn`` in `flower_supernode` and ``time`` in
`start_client_internal`.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

import uvicorn

from fl_shared.pacing import pause

# by name: the packages export functions that hide the modules of the same name
launcher: Any = importlib.import_module("flwr.supernode.cli.flower_supernode")
node_loop: Any = importlib.import_module("flwr.supernode.start_client_internal")

SHORTEST, LONGEST_FOR_WORK, LONGEST_FOR_REPLY = 0.15, 2.0, 0.5  # seconds between polls


def main() -> None:
    """``python -m fl_client.flower_node SOCKET <flower-supernode arguments>``."""
    launcher.uvicorn = _Uvicorn(sys.argv[1])
    node_loop.time = _Clock()
    sys.argv = ["flower-supernode", *sys.argv[2:]]
    launcher.flower_supernode()


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
    """``time`` for the node's loop: its fixed waits become short at first and longer with the time waited."""

    time, monotonic = staticmethod(time.time), staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._waiting_for_reply = False
        self._since = 0.0

    def sleep(self, seconds: float) -> None:
        """Called with 3 when no message waits, and with 0.5 while a reply is being made."""
        for_reply, now = seconds < 1, time.monotonic()
        if for_reply != self._waiting_for_reply:
            self._waiting_for_reply, self._since = for_reply, now
        longest = LONGEST_FOR_REPLY if for_reply else LONGEST_FOR_WORK
        time.sleep(pause(now - self._since, shortest=SHORTEST, longest=longest))


if __name__ == "__main__":
    main()
