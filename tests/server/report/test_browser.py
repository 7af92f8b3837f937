"""The report in a real browser: it loads whole, asks for nothing, and breaks no rule of its own content policy."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import invented
import pytest

from fl_server.report.page import write_report
from fl_shared.results import Results

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0",
)  # fmt: skip


@pytest.mark.parametrize("made", [invented.everything, invented.nothing])
def test_a_real_browser_shows_the_report(made: Callable[[], Results], tmp_path: Path) -> None:
    results = made()
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs a browser (Debian: apt install chromium)")
    write_report(results, tmp_path / "report.html")
    picture = tmp_path / "report.png"
    command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1366,3000",
               f"--screenshot={picture}", "--dump-dom", (tmp_path / "report.html").as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert results.study.name in done.stdout and "</html>" in done.stdout and 'id="metrics"' in done.stdout
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Refused to" in line]
    assert console == []
    assert picture.stat().st_size > 50_000  # not a blank page
