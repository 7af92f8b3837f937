"""Joining: one long-lived process that holds the data, the actors and the ledger, and serves the coordinator's asks."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fl_client import sandbox
from fl_client.data.check import check_site
from fl_client.keys import ensure_key
from fl_client.runtime import Runtime, SiteLock
from fl_client.service import SiteService
from fl_client.supervisor import flower_processes, supervise
from fl_client.training.actors import RayPool
from fl_shared.audit import AuditLog
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import Site

GRACE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    """What the command line may set over ``site.toml``."""

    superlink: str
    certificates: Path
    ray_address: str | None = None


def resolve(site: Site, *, superlink: str | None, certificates: Path | None, ray_address: str | None) -> JoinOptions:
    """Options over ``site.toml``.

    Raises:
        ConsiliumError: SITE, no certificate of the coordinator.
    """
    path = certificates or (site.network.root_certificates and site.folder / site.network.root_certificates)
    if path is None or not path.exists():
        raise ConsiliumError(
            "no certificate of the coordinator. Set network.root_certificates in site.toml (the coordinator's "
            "ca.crt), or give --root-certificates.",
            code=ExitCode.SITE,
        )
    return JoinOptions(superlink=superlink or site.network.superlink, certificates=path, ray_address=ray_address)


def join(site: Site, options: JoinOptions, *, console: Console) -> None:
    """Serve until SIGTERM or SIGINT, then end every process cleanly.

    Raises:
        ConsiliumError: second start (14), rejected data (12), no sandbox (15).
    """
    lock = SiteLock(site)
    lock.acquire()
    try:
        _serve(site, options, lock=lock, console=console)
    finally:
        lock.release()


def _serve(site: Site, options: JoinOptions, *, lock: SiteLock, console: Console) -> None:
    say = _Speaker(console, site)
    report = check_site(site, None)
    if report.rejects:
        raise ConsiliumError(
            f"{site.name}: the data are rejected ({len(report.rejects)} fault(s))",
            code=ExitCode.DATA,
            faults=report.rejects,
        )
    say(f"data checked: {report.rows} rows, {len(report.quarantined)} set aside (fl-client --site {site.name} check)")
    key, _ = ensure_key(site)
    pool = RayPool(site, address=options.ray_address, namespace=f"consilium-{site.name}")
    try:
        service = SiteService(site, pool)
        runtime = Runtime(site, service, lock=lock)
        runtime.start()
        try:
            confined = sandbox.choose(
                exchange=runtime.socket.parent,
                protected=[site.folder, site.data_dir],
                opt_out=os.environ.get("CONSILIUM_SANDBOX", ""),
            )
            port = service.metrics.serve(site.network.metrics_port)
            say(f"sandbox: {confined.kind}; metrics: http://127.0.0.1:{port}/metrics; coordinator: {options.superlink}")
            children = flower_processes(
                site,
                superlink=options.superlink,
                certificates=options.certificates.resolve(),
                key=key,
                sandbox=confined,
                token=runtime.token_file,
                socket=runtime.socket,
            )
            AuditLog(site.state_dir / "audit.jsonl").append("site", "joined", sandbox=confined.kind)
            supervise(children, until=_stop_event(), died=say.died)
            say("stopping")
        finally:
            runtime.stop(grace=GRACE_SECONDS)
            service.metrics.stop()
    finally:
        pool.close()


def _stop_event() -> threading.Event:
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    return stop


class _Speaker:
    """Prints what the operator should know, each line with the site's name."""

    def __init__(self, console: Console, site: Site) -> None:
        self._console, self._site = console, site

    def __call__(self, text: str) -> None:
        self._console.print(f"[bold]{self._site.name}[/] {text}", highlight=False)

    def died(self, name: str, code: int, pause: float) -> None:
        """A Flower process ended; it is started again."""
        log = self._site.state_dir / "logs" / f"{name}.log"
        self(f"[yellow]{name} ended with code {code}; starting it again in {pause:.0f} s[/] (log: {log})")
