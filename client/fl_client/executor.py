"""The task executor of a site, inside the sandbox: takes tasks from the SuperNode and forks the installed ClientApp.

It stands where ``flower-superexec`` would, for two reasons. Speed: Flower starts a new interpreter for every message
(about 1.2 CPU seconds); a fork of this process, which has imported Flower already, costs hundredths. Safety: code
that the coordinator sends in its bundle is inspected and refused here, never unpacked and never imported.

Private API of flwr 1.41: `run_clientapp` and the two names that it looks up in its module (see `_harden`), and
`httpx.Client` in the protobuf client. A contract test holds them against the pinned version.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import sys
import time
import zipfile
from functools import partial
from typing import Any

import httpx
from flwr.clientapp.client_app import ClientApp, LoadClientAppError
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf import client as protobuf_client
from flwr.supercore.runtime import RuntimeHttpClient

from fl_client.app import app
from fl_shared.pacing import pause

# by name: the package exports a function that hides the module of the same name
clientapp_runtime: Any = importlib.import_module("flwr.supernode.runtime.run_clientapp")

ADDRESS = "site"  # a host name only for the URL: the transport is the UNIX socket
ALLOWED = {"pyproject.toml", ".info/CONTENT"}
SHORTEST, LONGEST = 0.1, 1.0  # seconds between polls
MOST = 8  # forks at a time
PULL_SECONDS = 900.0  # for a message to come whole; Flower waits two hours


def main() -> None:
    """Poll for tasks until the SuperNode has gone or a signal ends this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node-socket", required=True, help="UNIX socket of the SuperNode's Runtime API")
    args = parser.parse_args()
    _use_unix_socket(args.node_socket)
    _harden()
    client = RuntimeHttpClient.from_server_address(
        ADDRESS, insecure=True, root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
    )  # fmt: skip
    wanted = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    last, running = 0.0, 0
    while True:
        running -= _ended(wait=running >= MOST)
        try:
            found = client.AcquireTask(wanted)
        except httpx.HTTPError:  # the SuperNode restarts: its supervisor says so, this process only waits
            time.sleep(LONGEST)
            continue
        if found.HasField("task") and found.token:
            _fork(found.token)
            running, last = running + 1, time.monotonic()
        else:
            time.sleep(pause(time.monotonic() - last, shortest=SHORTEST, longest=LONGEST))


def _ended(*, wait: bool) -> int:
    """How many forks have ended since the last call; with ``wait``, at least one."""
    ended = 0
    try:
        while os.waitpid(-1, 0 if wait and not ended else os.WNOHANG)[0]:
            ended += 1
    except ChildProcessError:  # none is left
        pass
    return ended


def _fork(token: str) -> None:
    """One task in a fork, so that nothing of one message lives on into the next.

    It is not waited for: a task whose run was ended before its message came whole waits for the rest in vain.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        return
    code = 1
    try:
        clientapp_runtime.run_clientapp(ADDRESS, token, insecure=True)
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _use_unix_socket(path: str) -> None:
    """Let Flower's protobuf client speak HTTP over a UNIX socket."""
    transport = partial(httpx.HTTPTransport, uds=path)

    class UnixClient(httpx.Client):
        def __init__(self, **kwargs: Any) -> None:
            kwargs.pop("verify", None)
            super().__init__(transport=transport(), **kwargs)

    if protobuf_client.httpx.Client is not httpx.Client:
        raise RuntimeError("flwr's protobuf client no longer uses httpx.Client")
    protobuf_client.httpx = _Namespace(httpx, Client=UnixClient)


class _Namespace:
    """A module with some names replaced, for one importing module only."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _harden() -> None:
    """Never unpack the coordinator's bundle, load the installed ClientApp whatever the bundle names."""
    for name in ("install_from_fab", "get_load_client_app_fn", "get_project_dir"):
        if not hasattr(clientapp_runtime, name):
            raise RuntimeError(f"flwr no longer has {name}: the executor refuses to run without its guard")
    clientapp_runtime.install_from_fab = refuse_code
    clientapp_runtime.get_load_client_app_fn = lambda **_: _installed
    clientapp_runtime.get_project_dir = lambda *_: ""
    pull_objects.__kwdefaults__["max_time"] = PULL_SECONDS


def _installed(_fab_id: str, _fab_version: str, _fab_hash: str) -> ClientApp:
    return app


def refuse_code(bundle: bytes, **_: object) -> None:
    """A bundle may hold a ``pyproject.toml`` and nothing else.

    Raises:
        LoadClientAppError: it holds more; the site's log names the files, the coordinator gets a fixed sentence.
    """
    digest = hashlib.sha256(bundle).hexdigest()
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            extra = sorted(set(archive.namelist()) - ALLOWED)
    except zipfile.BadZipFile:
        extra = ["(not a zip archive)"]
    if extra:
        event = {"event": "server-code-refused", "sha256": digest, "files": extra[:20], "count": len(extra)}
        print(json.dumps(event), flush=True)
        raise LoadClientAppError("the bundle holds code; this site runs installed code only")


if __name__ == "__main__":
    main()
