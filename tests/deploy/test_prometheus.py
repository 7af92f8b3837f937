"""Alerts: checked and driven by promtool; every metric that they name is one that the product exports."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
PROMTOOL = shutil.which("promtool")
PRODUCT = ("server/fl_server", "client/fl_client", "shared/fl_shared")
METRIC = r"\bfl_(?:server|client|privacy|tls|build)_[a-z_]+[a-z]\b"
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian package: prometheus)")


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    result = subprocess.run([PROMTOOL, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def alerts() -> list[str]:
    return re.findall(r"alert: (\w+)", (FOLDER / "alerts.yml").read_text())


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    cases = (FOLDER / "alerts_test.yml").read_text()
    quiet, _, loud = cases.partition("\n  - name: a site is gone")
    for alert in alerts():
        assert f"alertname: {alert}}}" in quiet
        assert f"alertname: {alert}" in loud


def test_every_metric_named_exists_in_the_product() -> None:
    sources = [path.read_text() for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")]
    exported = {name for source in sources for name in re.findall(rf"[\"']({METRIC})[\"']", source)}
    exported |= {f"{name}_total" for name in exported}  # prometheus_client adds the suffix of a counter itself
    expressions = (FOLDER / "alerts.yml").read_text()
    assert set(re.findall(METRIC, expressions)) <= exported


def test_only_loopback_is_scraped() -> None:
    targets = re.findall(r'targets: \["([^"]+)"\]', (FOLDER / "prometheus.yml").read_text())
    assert len(targets) == 2
    assert all(target.startswith("127.0.0.1:") for target in targets)
