"""What must be closed to others: the state folder, the node key, the sandbox, the metrics port."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fl_client import sandbox as sandboxes
from fl_client.doctor.finding import Finding, fail, ok, warn
from fl_client.files import private_dir
from fl_shared.errors import ConsiliumError
from fl_shared.site import Site


def state_folder(site: Site) -> Finding:
    """Approvals, ledger and key are in a folder of this user alone."""
    check, folder = "state folder", site.state_dir
    if not folder.exists():
        return ok(check, f"{folder}: made when it is first needed")
    found = folder.stat()
    if not folder.is_dir():
        return fail(check, f"{folder} is no folder", "Remove it, or name another 'state' in site.toml.")
    if found.st_uid != os.getuid():
        return fail(check, f"{folder} belongs to user {found.st_uid}", f"Run as that user, or chown {folder}.")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        return fail(check, f"{folder} is open to others ({mode:04o})", f"chmod 700 {folder}")
    return ok(check, f"{folder} (0700)")


def node_key(site: Site) -> Finding:
    """The key by which the coordinator knows this site."""
    check, path = "node key", site.state_dir / "node.key"
    again = f"Move it away, run fl-client --site {site.name} key, and have the new key registered."
    try:
        mode, content = path.lstat().st_mode, path.read_bytes()
    except FileNotFoundError:
        mend = f"Run fl-client --site {site.name} key, and give the public half to the coordinator."
        return warn(check, "not made yet", mend)
    except OSError as error:
        return fail(check, f"{path}: {error.strerror}", "Run fl-client as the user that owns the state folder.")
    if not stat.S_ISREG(mode):
        return fail(check, f"{path} is no regular file", again)
    if mode & 0o077:
        found = f"{path} is open to others ({stat.S_IMODE(mode):04o})"
        return fail(check, found, f"chmod 600 {path}; if others may have read it, make a new one and unregister it.")
    try:
        key = serialization.load_ssh_private_key(content, password=None)
    except ValueError:
        return fail(check, f"{path} is damaged", again)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        return fail(check, f"{path} is no EC P-384 key", again)
    return ok(check, f"{path} (0600)")


def sandbox(site: Site, *, opt_out: str) -> Finding:
    """Start the sandbox once, as joining would.

    Args:
        site: its folders must not be visible inside.
        opt_out: the words that allow to go without (`fl_client.sandbox.OPT_OUT`).
    """
    with tempfile.TemporaryDirectory(prefix="fl-doctor-") as scratch:
        try:
            found = sandboxes.choose(
                exchange=private_dir(Path(scratch) / "exchange"),
                protected=[site.folder, site.data_dir],
                opt_out=opt_out,
            )
        except ConsiliumError as error:
            return fail("sandbox", "none", error.message)
    if found.kind == "bubblewrap":
        return ok("sandbox", "bubblewrap starts")
    if found.kind == "landlock":
        mend = "Install bubblewrap and allow user namespaces: Landlock leaves UNIX sockets reachable by their path."
        return warn("sandbox", "Landlock and seccomp; no bubblewrap", mend)
    return warn("sandbox", "none, as CONSILIUM_SANDBOX asks", "Only with public data. Install bubblewrap.")


def metrics_port(site: Site) -> Finding:
    """Whether Prometheus will find the metrics where ``site.toml`` says."""
    check, port = "metrics port", site.network.metrics_port
    if port == 0:
        return ok(check, "a free one is chosen at the start (state/metrics.port)")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the metrics server does
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return fail(check, f"{port} needs privileges", "Choose network.metrics_port above 1023.")
        except OSError:
            if _is_running(site):
                return ok(check, f"127.0.0.1:{port}, in use by this site's client")
            mend = f"Find who listens there (ss -ltnp 'sport = :{port}'), or choose another network.metrics_port."
            return fail(check, f"127.0.0.1:{port} is taken by another program", mend)
    return ok(check, f"127.0.0.1:{port} is free")


def _is_running(site: Site) -> bool:
    """Whether a client of this site holds its lock."""
    try:
        descriptor = os.open(site.state_dir / "site.lock", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
