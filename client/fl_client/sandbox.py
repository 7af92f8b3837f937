"""The sandbox around every process that meets what the coordinator sent: no network, no data, no keys.

bubblewrap gives it namespaces of its own: it sees the interpreter and the installed packages read-only, an empty
``/tmp``, and one folder with two sockets and a token. Where user namespaces are forbidden, Landlock and seccomp
(`fl_client.landlock`) do most of the same. Without either the site refuses to join.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fl_client import landlock
from fl_shared import pacing
from fl_shared.errors import ConsiliumError, ExitCode

Kind = Literal["bubblewrap", "landlock", "none"]
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/alternatives")
ISOLATION = (
    "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--unshare-net",
    "--disable-userns", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
    "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--clearenv",
)  # fmt: skip
PACKAGES = (Path(__file__).parent, Path(pacing.__file__).parent)
OPT_OUT = "I run server-sent code without a sandbox"


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """How to start a confined process that sees only code and ``exchange``, a folder of sockets, read-only."""

    kind: Kind
    exchange: Path

    @property
    def scratch(self) -> Path:
        """The only writable place: a ``/tmp`` of its own, or a folder where namespaces cannot give one."""
        return Path("/tmp") if self.kind == "bubblewrap" else self.exchange.parent / "scratch"

    def command(self, argv: Sequence[str], *, env: dict[str, str]) -> list[str]:
        """The command line that runs ``argv`` confined, with exactly the environment ``env``."""
        # the launcher's own environment would be readable inside as /proc/1/environ
        folder = str(self.exchange)
        clean = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in env.items())]
        if self.kind == "bubblewrap":
            binds = [part for path in code_paths() for part in ("--ro-bind", path, path)]
            variables = [part for name, value in env.items() for part in ("--setenv", name, value)]
            inner = [*ISOLATION, *binds, "--ro-bind", folder, folder, *variables, "--chdir", "/tmp", *argv]
            return [*clean, "bwrap", *inner]
        if self.kind == "landlock":
            rules = [f"--read={path}" for path in [*code_paths(), folder]] + [f"--write={self.scratch}"]
            rules += [f"--list={package.parent}" for package in PACKAGES]
            return [*clean, sys.executable, "-m", "fl_client.landlock", *rules, "--", *argv]
        return [*clean, *argv]


def choose(*, exchange: Path, protected: Sequence[Path], opt_out: str = "") -> Sandbox:
    """The strongest sandbox that really starts here.

    Args:
        exchange: the folder of sockets and token.
        protected: data and state folders; they must not lie in a folder that the sandbox shows.
        opt_out: `OPT_OUT`, word for word, to run without a sandbox (demonstrations with public data only).

    Raises:
        ConsiliumError: SANDBOX, nothing confines here; or a protected folder would be visible.
    """
    shown = [Path(path) for path in code_paths()]
    if seen := [p for p in protected for s in shown if p.resolve().is_relative_to(s)]:
        raise ConsiliumError(
            f"{seen[0]} lies in a folder that sandboxed code can read. Keep data and state outside the installation.",
            code=ExitCode.SANDBOX,
        )
    for kind in ("bubblewrap", "landlock"):
        sandbox = Sandbox(kind=kind, exchange=exchange)
        if _starts(sandbox):
            return sandbox
    if opt_out == OPT_OUT:
        return Sandbox(kind="none", exchange=exchange)
    raise ConsiliumError(
        "no sandbox starts on this machine: bubblewrap is missing or user namespaces are forbidden, and the kernel "
        "has no Landlock (ABI 4 or newer). Install bubblewrap (Debian: apt install bubblewrap), or, for public data "
        f"only, set CONSILIUM_SANDBOX='{OPT_OUT}'.",
        code=ExitCode.SANDBOX,
    )


def code_paths() -> list[str]:
    """What a confined process may read: system libraries, the interpreter, its packages and the thin client's code."""
    own = [
        *PACKAGES,
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.executable).resolve().parent,
    ]
    paths = dict.fromkeys([p for p in SYSTEM if Path(p).exists()] + [str(p) for p in own])
    return [p for p in paths if not any(p != q and Path(p).is_relative_to(q) for q in paths)]


def _starts(sandbox: Sandbox) -> bool:
    sandbox.scratch.mkdir(mode=0o700, exist_ok=True)
    if sandbox.kind == "bubblewrap" and shutil.which("bwrap") is None:
        return False
    if sandbox.kind == "landlock" and landlock.abi() < landlock.MIN_ABI:
        return False
    try:
        probe = sandbox.command(
            [sys.executable, "-c", "import ssl, fl_client.channel, fl_shared.pacing"], env={"PATH": "/usr/bin"}
        )
        return subprocess.run(probe, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
