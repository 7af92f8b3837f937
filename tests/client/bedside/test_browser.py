"""The pages in a real browser: they load whole, ask for nothing, and break no rule of their own content policy."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from fl_client.bedside.page import percent, signed, times
from fl_client.bedside.predict import Register, folder_of, ward_of, write_all

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
MOST = 3_000_000  # bytes


def test_a_real_browser_shows_the_pages(made, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs a browser (Debian: apt install chromium)")
    site, opened = made.site(), made.opened()
    wanted = frozenset({made.whole, made.half})
    ward = ward_of(site, opened, Register.of(site), wanted)
    folder = folder_of(site, opened, None)
    body = write_all(ward, folder, done=lambda n, of: None)
    names = [each["page"] for each in body["patients"]]
    assert len(names) == 2
    for name in (*names, "index.html"):
        page = folder / name
        assert page.stat().st_size < MOST
        assert not any(word in page.read_text() for word in ("<script", "http://", "https://", "@import", "url("))
        picture = tmp_path / "page.png"
        command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,3000",
                   f"--screenshot={picture}", "--dump-dom", page.as_uri()]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "SYNTHETIC DATA" in done.stdout and "</html>" in done.stdout
        assert [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Refused to" in line] == []
        assert picture.stat().st_size > 40_000  # not a blank page


def test_numbers_in_words():
    told = {
        0.0: "0 %",
        0.0004: "< 0.1 %",
        0.034: "3.4 %",
        0.34: "34 %",
        0.995: "99.5 %",
        0.9999: "> 99.9 %",
        1.0: "100 %",
    }
    assert {share: percent(share) for share in told} == told
    assert (signed(-0.254), signed(1.0), signed(-0.001)) == ("−0.25", "+1.00", "0.00")
    assert (times(0.0), times(0.6931)) == ("× 1", "× 2")
