"""The units are read by systemd's own checker; nothing is started."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fl_shared.errors import ExitCode

UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
ANALYZE = shutil.which("systemd-analyze")
INSTANCES = {"fl-server.service": "fl-server.service", "fl-client@.service": "fl-client@drum_tower.service"}
# systemd's exposure score, 0 (sealed) to 10; the site's unit must leave room for bubblewrap, GPUs and the network.
EXPOSURE = {"fl-server.service": 2.0, "fl-client@.service": 3.5}
BREAKS_BUBBLEWRAP = {
    "RestrictNamespaces",
    "ProtectKernelTunables",
    "ProtectKernelLogs",
    "ProtectHostname",
    "ProcSubset",
    "PrivateDevices",  # hides the GPUs
}
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed (Debian package: systemd)")
each_unit = pytest.mark.parametrize("unit", sorted(INSTANCES))


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^([A-Za-z]+)=(.*)$", (UNITS / unit).read_text(), flags=re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, timeout=60)


@needs_systemd
@each_unit
def test_systemd_knows_every_setting(unit: str, tmp_path: Path) -> None:
    """``verify`` exits 0 on unknown keys, so nothing may be said at all; the product is not installed in /opt here."""
    text, replaced = re.subn(r"^ExecStart=\S+", "ExecStart=/bin/true", (UNITS / unit).read_text(), flags=re.MULTILINE)
    assert replaced == 1
    copy = tmp_path / INSTANCES[unit]
    copy.write_text(text)
    result = analyze("verify", "--man=no", str(copy))
    assert (result.returncode, result.stderr) == (0, "")


@needs_systemd
@each_unit
def test_exposure_stays_low(unit: str, tmp_path: Path) -> None:
    copy = tmp_path / INSTANCES[unit]
    shutil.copy(UNITS / unit, copy)
    result = analyze("security", "--offline=true", f"--threshold={EXPOSURE[unit] * 10:.0f}", str(copy))
    assert result.returncode == 0, result.stdout[-300:]


@each_unit
def test_a_fault_that_a_restart_cannot_mend_is_not_restarted(unit: str) -> None:
    stops = {int(code) for code in settings(unit)["RestartPreventExitStatus"][0].split()}
    configuration = {"USAGE", "STUDY", "SITE", "DATA", "ALREADY_RUNNING", "SANDBOX", "PRIVACY"}
    assert stops >= {ExitCode[name] for name in configuration}
    assert not stops & {ExitCode.FAILED, ExitCode.ROUND_FAILED, ExitCode.UNREACHABLE}


@each_unit
def test_secrets_stay_with_the_user_of_the_unit(unit: str) -> None:
    found = settings(unit)
    assert found["User"] != ["root"]
    assert found["UMask"] == ["0077"]
    assert found["LimitCORE"] == ["0"]
    assert found["StateDirectoryMode"] == ["0700"]
    assert found["NoNewPrivileges"] == ["yes"]


def test_the_coordinator_speaks_on_loopback_only() -> None:
    found = settings("fl-server.service")
    assert (found["IPAddressDeny"], found["IPAddressAllow"]) == (["any"], ["localhost"])


def test_the_site_unit_leaves_the_sandbox_and_the_gpus_alone() -> None:
    found = settings("fl-client@.service")
    assert not BREAKS_BUBBLEWRAP & found.keys()
    assert "@mount" in " ".join(found["SystemCallFilter"])
    assert "AF_NETLINK" in found["RestrictAddressFamilies"][0]
