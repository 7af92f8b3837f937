"""A Ray that several sites of one host share, for demonstrations and tests only: a hospital runs its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fl_client.files import private_dir, write_private
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.processes import end_with_parent, free_port, stop

START_SECONDS, STOP_SECONDS = 120.0, 20.0
OBJECT_STORE_BYTES = 78_643_200  # Ray's minimum: arrays are small, data stay in the actors
QUIET = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # undocumented, but the only way to keep every listener on loopback
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's coming default; without it every start prints a warning
}


@contextlib.contextmanager
def shared_ray(folder: Path, *, cpus: int) -> Iterator[dict[str, str]]:
    """Start a Ray on loopback behind a token.

    Args:
        folder: log and token go here (0700).
        cpus: actors that may run at a time.

    Yields:
        The environment that lets a client join it: ``CONSILIUM_RAY_ADDRESS`` and Ray's own variables.

    Raises:
        ConsiliumError: UNREACHABLE, it did not start; its log is named.
    """
    token, log = private_dir(folder) / "token", folder / "ray.log"
    write_private(token, secrets.token_hex(32).encode())
    environment = QUIET | {"RAY_AUTH_TOKEN_PATH": str(token.resolve())}
    address = f"127.0.0.1:{free_port()}"
    # Ray puts UNIX sockets below this folder, whose paths are limited to 107 bytes
    with tempfile.TemporaryDirectory(prefix="fl-ray-", ignore_cleanup_errors=True) as scratch:
        command = [
            *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address", "127.0.0.1", "--port", address.rsplit(":", 1)[1], "--num-cpus", str(cpus)),
            *("--object-store-memory", str(OBJECT_STORE_BYTES), "--include-dashboard", "false", "--temp-dir", scratch),
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=end_with_parent,
            )
        try:
            _await(process, log)
            yield environment | {"CONSILIUM_RAY_ADDRESS": address}
        finally:
            stop(process, grace=STOP_SECONDS)


def _await(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if "Ray runtime started" in log.read_text(errors="replace"):
            return
        time.sleep(0.2)
    raise ConsiliumError(f"Ray did not start; see {log}", code=ExitCode.UNREACHABLE)
