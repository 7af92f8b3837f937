"""Prometheus metrics of the site runtime, on loopback only. No patient, run or study is ever a label."""

from __future__ import annotations

from importlib.metadata import version
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server

from fl_client.files import private_dir, write_private
from fl_shared.site import Site

_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400)


class SiteMetrics:
    """The site's metrics in their own registry."""

    def __init__(self, site: Site) -> None:
        self.registry = CollectorRegistry()
        self._port_file = site.state_dir / "metrics.port"
        self._server: tuple[WSGIServer, Thread] | None = None
        self.fit_seconds = Histogram(
            "fl_client_fit_duration_seconds", "Seconds of a training request", buckets=_SECONDS, registry=self.registry
        )
        self.examples = Counter(
            "fl_client_examples_processed", "Expected patients drawn in training", registry=self.registry
        )
        self.failures = Counter(
            "fl_client_failures", "Requests refused or failed, by code", ["kind"], registry=self.registry
        )
        unit = ["unit"]
        self.epsilon_spent = Gauge("fl_privacy_epsilon_spent", "Epsilon spent", unit, registry=self.registry)
        self.epsilon_budget = Gauge("fl_privacy_epsilon_budget", "Epsilon allowed", unit, registry=self.registry)
        self.epsilon_budget.labels(unit="patient").set(site.privacy.epsilon_cap)
        Info("fl_build", "Package version", registry=self.registry).info({"version": version("consilium")})

    def serve(self, port: int = 0) -> int:
        """Serve ``/metrics`` on 127.0.0.1 and write the port to ``state/metrics.port``.

        Returns:
            The port in use (a free one when ``port`` is 0).
        """
        self._server = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        used = int(self._server[0].server_port)
        private_dir(self._port_file.parent)
        write_private(self._port_file, str(used).encode())
        return used

    def stop(self) -> None:
        """Stop serving; harmless when not serving."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._port_file.unlink(missing_ok=True)
            self._server = None
