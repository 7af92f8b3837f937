from __future__ import annotations

import urllib.request

from fl_client.metrics import SiteMetrics

NAMES = {
    "fl_client_fit_duration_seconds_count",
    "fl_client_examples_processed_total",
    'fl_client_failures_total{kind="trainer-failed"}',
    'fl_privacy_epsilon_spent{unit="patient"}',
    'fl_privacy_epsilon_budget{unit="patient"}',
    'fl_build_info{version="',
}


def test_served_on_loopback_with_its_port_in_a_file(make_site) -> None:
    site = make_site(cap=3.5)
    metrics = SiteMetrics(site)
    metrics.failures.labels(kind="trainer-failed").inc()
    metrics.epsilon_spent.labels(unit="patient").set(1.25)
    port = metrics.serve(0)
    try:
        assert (site.state_dir / "metrics.port").read_text() == str(port)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    finally:
        metrics.stop()
    assert all(name in text for name in NAMES)
    assert 'fl_privacy_epsilon_budget{unit="patient"} 3.5' in text
    assert not (site.state_dir / "metrics.port").exists()
    metrics.stop()
