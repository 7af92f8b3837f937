"""What training needs installed: Ray, pretrained weights, time zone data."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import zoneinfo
from datetime import UTC, datetime
from pathlib import Path

from fl_client.doctor.finding import Finding, fail, ok, warn
from fl_client.training.cluster import QUIET
from fl_shared.site import Site

IMPORT_SECONDS = 120.0  # a cold disk
_PROBE = """
import ray
from ray._private.ray_constants import ENABLE_RAY_CLUSTER
print(ray.__version__, "all" if ENABLE_RAY_CLUSTER else "loopback")
"""


def ray() -> Finding:
    """Import Ray as joining would; by its own constant, it must listen on loopback alone."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], env=os.environ | QUIET, capture_output=True, text=True,
            timeout=IMPORT_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return fail("Ray", f"cannot be imported ({type(error).__name__})", "Install the package again.")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return fail("Ray", f"cannot be imported: {last[:200]}", "Install the package again, in a fresh environment.")
    version, listens = done.stdout.split()[-2:]
    if listens != "loopback":
        mend = "This version of Ray ignores the setting that keeps it local: install the version that is pinned."
        return fail("Ray", f"{version} would listen on every interface", mend)
    return ok("Ray", f"{version}, loopback only")


def weights(site: Site) -> list[Finding]:
    """Every pretrained directory of ``[weights]`` can be read and holds safetensors."""
    return [_weights(name, site.folder / path) for name, path in site.weights.items()]


def _weights(name: str, path: Path) -> Finding:
    check = f"weights {name}"
    if not path.is_dir():
        return fail(check, f"{path} is no folder", f"Correct weights.{name} in site.toml.")
    files = [file for file in path.rglob("*") if file.is_file()]
    if closed := [file.name for file in files if not os.access(file, os.R_OK)]:
        return fail(check, f"{path}: {closed[0]} cannot be read", "Let the user that runs fl-client read it.")
    if not any(file.suffix == ".safetensors" for file in files):
        mend = "Pickled weights (.bin, .pt) are never loaded: get the directory with model.safetensors."
        return fail(check, f"{path} holds no .safetensors", mend)
    return ok(check, f"{path}, {sum(file.stat().st_size for file in files) / 2**20:.0f} MiB")


def time_zone(site: Site) -> Finding:
    """Time zone data are there, so that naive times of the tables can be placed."""
    try:
        zone = zoneinfo.ZoneInfo.no_cache(site.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, OSError):
        mend = "Install the system's tzdata (Debian: apt install tzdata), or pip install tzdata."
        return fail("time zone", f"no data for {site.timezone}", mend)
    now = datetime.now(UTC).astimezone(zone)
    found = f"{site.timezone}, now {now:%Y-%m-%d %H:%M %Z (UTC%z)}"
    version = _tz_version()
    if version is None:
        return warn("time zone", f"{found}; version unknown", "Install tzdata, so that updates arrive.")
    return ok("time zone", f"{found}; data {version}")


def _tz_version() -> str | None:
    """Version of the system's data, or of the package that stands in for them."""
    for folder in zoneinfo.TZPATH:
        file = Path(folder) / "tzdata.zi"
        if file.is_file():
            with file.open(encoding="utf-8") as stream:
                return stream.readline().removeprefix("# version ").strip()
    try:
        return importlib.metadata.version("tzdata")
    except importlib.metadata.PackageNotFoundError:
        return None
