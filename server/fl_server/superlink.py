"""All of Flower's private API that the coordinator uses: SuperLink's processes, its Control API, its Grid.

Pinned to flwr 1.41 and held by a contract test. SuperLink listens on loopback only, since its Control API, on the same
port, has no authentication of its own; the TLS front (``deploy/nginx``) lets only the fleet paths through.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import serialization
from flwr.cli.supernode.register import try_load_public_key
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fl_server import certificates
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.processes import NO_FORK_HANDLERS, end_with_parent, free_port, stop

START_SECONDS, STOP_SECONDS = 60.0, 15.0
BUNDLE = """[project]
name = "consilium"
version = "1.0.0"
license = "Apache-2.0"
description = "names the installed apps; holds no code"
[tool.flwr.app]
publisher = "consilium"
[tool.flwr.app.components]
serverapp = "fl_server.app:app"
clientapp = "fl_client.app:app"
[tool.flwr.app.config]
run = ""
study = ""
"""


@dataclass(frozen=True, kw_only=True)
class Home:
    """A coordinator's folder: certificates, database, endpoint, logs (0700)."""

    path: Path

    @property
    def ca(self) -> Path:
        """The authority that sites trust: give it to them."""
        return self.path / "tls" / "ca.crt"

    @property
    def endpoint(self) -> Path:
        """``{"address", "pid"}`` of the running coordinator."""
        return self.path / "endpoint.json"

    def address(self) -> str:
        """host:port of the running SuperLink.

        Raises:
            ConsiliumError: UNREACHABLE, none runs here.
        """
        if not self.endpoint.exists():
            raise ConsiliumError(
                f"no coordinator runs in {self.path}. Start one: fl-server up --home {self.path}",
                code=ExitCode.UNREACHABLE,
            )
        return str(json.loads(self.endpoint.read_text())["address"])


def is_running(home: Home) -> bool:
    """Whether the process that the endpoint file names is alive (a killed coordinator leaves the file behind)."""
    try:
        os.kill(int(json.loads(home.endpoint.read_text())["pid"]), 0)
    except (OSError, ValueError, KeyError):
        return False
    return True


def environment(home: Home) -> dict[str, str]:
    """What Flower's processes need: no telemetry, no update check, no run-time installs, a home of their own."""
    return os.environ | {
        "FLWR_HOME": str(home.path / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1.0",
        NO_FORK_HANDLERS: "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


@contextlib.contextmanager
def running(home: Home, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[list[subprocess.Popen[bytes]]]:
    """SuperLink and its executor, ready to serve; ended on leaving.

    Raises:
        ConsiliumError: ALREADY_RUNNING, or UNREACHABLE when SuperLink does not start.
    """
    home.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    (home.path / "logs").mkdir(exist_ok=True)
    certificates.ensure(home.path / "tls", host=host)
    port = port or free_port()
    address, tls = f"127.0.0.1:{port}", home.path / "tls"
    link = ["flower-superlink", "--host", "127.0.0.1", "--port", str(port), "--isolation", "process",
            "--database", str(home.path / "superlink.db"), "--enable-supernode-auth",
            "--disable-runtime-dependency-installation", "--ssl-certfile", str(tls / "server.crt"),
            "--ssl-keyfile", str(tls / "server.key"), "--ssl-ca-certfile", str(tls / "ca.crt")]  # fmt: skip
    executor = ["flower-superexec", "--runtime-api-address", address, "--root-certificates", str(tls / "ca.crt")]
    processes = []
    try:
        processes.append(_spawn(link, home, "superlink"))
        _wait_until_up(address, processes[0], home)
        processes.append(_spawn(executor, home, "superexec"))
        home.endpoint.write_text(json.dumps({"address": address, "pid": os.getpid()}))
        yield processes
    finally:
        home.endpoint.unlink(missing_ok=True)
        for process in reversed(processes):
            stop(process, grace=STOP_SECONDS)


def _spawn(command: list[str], home: Home, name: str) -> subprocess.Popen[bytes]:
    with (home.path / "logs" / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            env=environment(home), stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_parent,
        )  # fmt: skip


def _wait_until_up(address: str, process: subprocess.Popen[bytes], home: Home) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"https://{address}/health", verify=_context(home), timeout=2).status_code < 500:
                return
        time.sleep(0.1)
    raise ConsiliumError(
        f"SuperLink did not start; see {home.path / 'logs' / 'superlink.log'}", code=ExitCode.UNREACHABLE
    )


def _context(home: Home) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(home.ca))


@contextlib.contextmanager
def control(home: Home) -> Iterator[ControlHttpClient]:
    """SuperLink's Control API, from the coordinator's own machine.

    Raises:
        ConsiliumError: UNREACHABLE.
    """
    client = ControlHttpClient.from_server_address(
        home.address(), insecure=False, root_certificates=home.ca.read_bytes(),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )  # fmt: skip
    try:
        yield client
    except httpx.HTTPStatusError as error:
        raise ConsiliumError(f"SuperLink refused: {error.response.text[:300]}", code=ExitCode.FAILED) from error
    except httpx.HTTPError as error:
        raise ConsiliumError(f"the coordinator does not answer: {error}", code=ExitCode.UNREACHABLE) from error
    finally:
        client.close()


def register(home: Home, *, site: str, public_key: Path) -> bool:
    """Let the holder of a key take part under a site's name. False when that very key has the name already.

    Raises:
        ConsiliumError: SITE, the name belongs to another key (unregister it first).
    """
    key = try_load_public_key(public_key)
    with control(home) as client:
        known = {n.name: n.public_key for n in client.ListNodes(ListNodesRequest()).nodes_info}
        if known.get(site) == key:
            return False
        if site in known:
            raise ConsiliumError(f"site '{site}' is registered with another key", code=ExitCode.SITE)
        client.RegisterNode(RegisterNodeRequest(public_key=key, name=site))
    return True


def fingerprint(public_key: Path) -> str:
    """SHA-256 of a public key, to be compared by voice before `register`."""
    key = serialization.load_ssh_public_key(public_key.read_bytes())
    raw = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(raw).hexdigest()


def nodes(home: Home) -> Mapping[str, str]:
    """Registered sites -> ``online``, ``offline``, ``registered`` …"""
    with control(home) as client:
        return {n.name: n.status for n in client.ListNodes(ListNodesRequest()).nodes_info if n.name}


def submit(home: Home, *, study: Path, run: Path) -> int:
    """Start the ServerApp on a study; returns Flower's run id."""
    content = bundle({"pyproject.toml": BUNDLE})
    fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
    config = {"study": str(study.resolve()), "run": str(run.resolve())}
    with control(home) as client:
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(config))
        return int(client.StartRun(request).run_id)


def bundle(files: Mapping[str, str]) -> bytes:
    """A Flower app bundle (a zip with a table of contents)."""
    content = "".join(f"{n},{hashlib.sha256(t.encode()).hexdigest()},{len(t.encode()) * 8}\n" for n, t in files.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**files, ".info/CONTENT": content}.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), text)
    return buffer.getvalue()


def run_status(home: Home, run_id: int) -> tuple[str, str]:
    """(status, sub-status) of a run: ``running``, ``finished``/``completed``, ``finished``/``failed`` …"""
    with control(home) as client:
        found = client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
    status = found[run_id].status
    return str(status.status), str(status.sub_status)


def stop_run(home: Home, run_id: int) -> None:
    """End a run."""
    with control(home) as client:
        client.StopRun(StopRunRequest(run_id=run_id))
