"""Child processes that cannot outlive us, and a free port for them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys

NO_FORK_HANDLERS = "GRPC_ENABLE_FORK_SUPPORT"  # "0"
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def set_environment() -> None:
    """What our processes and their children need, unless the user says otherwise.

    Ray tells nobody that it is used. gRPC leaves forks alone: otherwise a child that is forked while its parent talks
    gRPC crashes before its exec, one in eight when tried (grpc issue 43055).
    """
    for name in ("RAY_USAGE_STATS_ENABLED", NO_FORK_HANDLERS):
        os.environ.setdefault(name, "0")


def end_with_parent() -> None:
    """``preexec_fn`` of a child: SIGTERM when its parent's thread ends, however that ends (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(process: subprocess.Popen[bytes], *, grace: float) -> None:
    """SIGTERM, and SIGKILL after ``grace`` seconds."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
