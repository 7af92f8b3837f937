"""Prometheus metrics of the coordinator, served by ``fl-server up`` on loopback and read off the runs' event logs.

They live in the long-lived process: the ServerApp ends with its run. No run, study or patient is ever a label.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from cryptography import x509
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server

from fl_server.events import Event, follow

SECONDS = (1, 5, 15, 60, 300, 900, 3600, 14400)


class CoordinatorMetrics:
    """Call `refresh` now and then; it reads what is new in ``runs/*/events.jsonl``."""

    def __init__(self, runs: Path, *, certificate: Path) -> None:
        self._runs = runs
        self._read: dict[Path, int] = {p: p.stat().st_size for p in runs.glob("*/events.jsonl")}
        self._phase: dict[Path, tuple[str, float]] = {}
        self.registry = r = CollectorRegistry()
        self.round = Gauge("fl_server_round", "Last committed round", registry=r)
        self.duration = Histogram("fl_server_round_duration_seconds", "Seconds", ["phase"], buckets=SECONDS, registry=r)
        self.rounds = Counter("fl_server_rounds", "Rounds by outcome", ["outcome"], registry=r)
        self.success = Gauge("fl_server_round_last_success_timestamp_seconds", "Time of the last commit", registry=r)
        self.received = Counter("fl_server_updates_received", "Accepted updates", ["site"], registry=r)
        self.rejected = Counter("fl_server_updates_rejected", "Rejected updates", ["site", "reason"], registry=r)
        self.up = Gauge("fl_server_site_up", "1 while a site is connected", ["site"], registry=r)
        self.seen = Gauge("fl_server_site_last_seen_timestamp_seconds", "Time a site was seen", ["site"], registry=r)
        expiry = Gauge("fl_tls_certificate_not_after_timestamp_seconds", "Expiry of the certificate", registry=r)
        expiry.set(x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.timestamp())
        Info("fl_build", "Package version", registry=r).info({"version": version("consilium")})

    def serve(self, port: int) -> int:
        """Serve ``/metrics`` on 127.0.0.1; returns the port in use."""
        server, _ = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        return int(server.server_port)

    def refresh(self, nodes: Mapping[str, str]) -> None:
        """Take in new events of every run, and which sites are connected now."""
        for name, state in nodes.items():
            self.up.labels(site=name).set(float(state == "online"))
            if state == "online":
                self.seen.labels(site=name).set(time.time())
        for path in self._runs.glob("*/events.jsonl"):
            start = self._read.get(path, 0)
            with contextlib.suppress(FileNotFoundError):  # a demonstration's folder may vanish
                self._read[path] = path.stat().st_size
                for event in follow(path, stop=lambda: True, start=start):
                    self._take(path, event)

    def _take(self, path: Path, event: Event) -> None:
        match event.kind:
            case "phase":
                if path in self._phase:
                    name, began = self._phase[path]
                    self.duration.labels(phase=name).observe(max(0.0, event.time - began))
                self._phase[path] = (event.status, event.time)
            case "site" if event.status == "accepted":
                self.received.labels(site=event.site).inc()
            case "site" if event.status == "rejected":
                self.rejected.labels(site=event.site, reason=event.reason).inc()
            case "round_committed":
                self.round.set(event.round)
                self.success.set(event.time)
                self.rounds.labels(outcome="committed").inc()
            case "round_failed":
                self.rounds.labels(outcome="failed").inc()
            case _:
                pass
