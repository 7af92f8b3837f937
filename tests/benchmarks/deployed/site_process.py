"""A site's process as ``fl-client`` runs it, any service behind its door: runtime, SuperNode, sandboxed executor."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from fl_client import sandbox
from fl_client.keys import ensure_key
from fl_client.runtime import Runtime, Service
from fl_client.supervisor import flower_processes, supervise
from fl_shared.site import load_site

GRACE_SECONDS = 5.0


def serve(folder: Path, service: Service, *, superlink: str, certificates: Path) -> None:
    """Serve until SIGTERM.

    Args:
        folder: Of ``site.toml``.
        service: What answers.
        superlink: host:port.
        certificates: CA of the coordinator.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    site = load_site(folder)
    runtime = Runtime(site, service)
    runtime.start()
    try:
        confined = sandbox.choose(exchange=runtime.socket.parent, protected=[site.folder, site.data_dir])
        print(f"sandbox: {confined.kind}", flush=True)
        children = flower_processes(
            site, superlink=superlink, certificates=certificates, key=ensure_key(site)[0], sandbox=confined,
            token=runtime.token_file, socket=runtime.socket,
        )  # fmt: skip
        supervise(children, until=stop, died=lambda *death: print("died:", *death, flush=True))
    finally:
        runtime.stop(grace=GRACE_SECONDS)
