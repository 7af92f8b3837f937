"""nginx runs with the shipped configuration in front of a stand-in upstream: only a SuperNode's calls get through."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from fl_server import certificates

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "consilium.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
REGISTRATION = {"register-node", "unregister-node"}  # a SuperNode with a node key never calls these

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian package: nginx-light)")


@dataclass
class Front:
    """A running nginx and what reached the stand-in SuperLink behind it."""

    port: int
    authority: Path
    reached: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, bytes of the body

    def ask(self, method: str, path: str, *, body: bytes | None = None, chunked: bool = False) -> int:
        """Status of one TLS request; ``path`` goes out exactly as given."""
        context = ssl.create_default_context(cafile=str(self.authority))
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=10, context=context)
        try:
            connection.request(method, path, body=iter([body or b""]) if chunked else body, encode_chunked=chunked)
            return connection.getresponse().status
        finally:
            connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_config(folder: Path, *, port: int, upstream: int) -> Path:
    """The shipped server block on a free port, inside a main file that needs no privileges."""
    text = CONFIG.read_text().replace("/var/lib/consilium/server/tls/", f"{folder}/tls/")
    for old, new in {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "server_name coordinator.example.org;": "server_name localhost;",
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{upstream};",
    }.items():
        assert text.count(old) == 1, f"{CONFIG.name} no longer has {old!r} exactly once"
        text = text.replace(old, new)
    (folder / "consilium.conf").write_text(text)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}include {folder}/consilium.conf;\n}}\n"
    )
    return main


def stand_in(reached: list[tuple[str, str, int]], tls: Path) -> ThreadingHTTPServer:
    """A stand-in for SuperLink, not Flower: it notes what arrives and answers 200 to everything."""

    class StandIn(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reached.append((self.command, self.path, len(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_DELETE = do_HEAD = do_POST

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls / "server.crt", tls / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    assert NGINX is not None
    folder = tmp_path_factory.mktemp("nginx")
    reached: list[tuple[str, str, int]] = []
    certificates.ensure(folder / "tls", host="localhost")
    upstream = stand_in(reached, folder / "tls")
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    port = free_port()
    config = write_config(folder, port=port, upstream=upstream.server_address[1])
    check = subprocess.run([NGINX, "-t", "-c", str(config)], capture_output=True, text=True, timeout=30)
    assert check.returncode == 0, check.stderr
    assert "warn" not in check.stderr
    process = subprocess.Popen([NGINX, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "error.log").read_text()
            time.sleep(0.02)
        yield Front(port=port, authority=folder / "tls" / "ca.crt", reached=reached)
    finally:
        process.terminate()
        process.wait(timeout=10)
        upstream.shutdown()
        upstream.server_close()


def allowed_calls() -> set[str]:
    found = re.search(r"\(\?<call>([a-z|-]+)\)\$", CONFIG.read_text())
    assert found is not None
    return set(found.group(1).split("|"))


def flower_calls() -> set[str]:
    """Paths that the installed SuperNode can call, read in its source (importing Flower takes seconds)."""
    flwr = find_spec("flwr")
    assert flwr is not None and flwr.origin is not None
    client = Path(flwr.origin).parent / "supernode" / "fleet_http_client.py"
    return set(re.findall(r'path="/v1/fleet/([a-z-]+)"', client.read_text()))


def test_the_list_is_what_the_installed_supernode_calls_except_registration() -> None:
    assert allowed_calls() == flower_calls() - REGISTRATION
    assert flower_calls() >= REGISTRATION


@pytest.mark.parametrize("call", sorted(allowed_calls()))
def test_a_supernode_call_reaches_superlink(front: Front, call: str) -> None:
    assert front.ask("POST", f"/v1/fleet/{call}", body=b"protobuf") == 200
    assert front.reached[-1] == ("POST", f"/v1/fleet/{call}", 8)


def test_a_chunk_of_an_update_passes_and_an_unbounded_body_does_not(front: Front) -> None:
    chunk = bytes(6 << 20)
    assert front.ask("POST", "/v1/fleet/push-object", body=chunk) == 200
    assert front.ask("POST", "/v1/fleet/push-object", body=chunk, chunked=True) == 200
    assert front.reached[-1] == ("POST", "/v1/fleet/push-object", len(chunk))
    assert refused_before_the_body(front, length=65 << 20) == 413


def refused_before_the_body(front: Front, *, length: int) -> int:
    context = ssl.create_default_context(cafile=str(front.authority))
    connection = http.client.HTTPSConnection("localhost", front.port, timeout=10, context=context)
    try:
        connection.putrequest("POST", "/v1/fleet/push-object")
        connection.putheader("Content-Length", str(length))
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/control/register-node"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/fleet/register-node"),
        ("POST", "/v1/fleet/unregister-node"),
        ("POST", "/v1/fleet/"),
        ("POST", "/v1/fleet/pull-messages/"),
        ("POST", "/v1/fleet/pull-messages/../../control/start-run"),
        ("POST", "/v1/fleet/pull-messages/..%2f..%2fcontrol/start-run"),
        ("POST", "/v1/fleet/..%2fcontrol%2fstart-run"),
        ("POST", "/v1/fleet/pull-messages%00"),
        ("GET", "/v1/fleet/pull-messages"),
        ("PUT", "/v1/fleet/push-object"),
        ("DELETE", "/v1/fleet/pull-messages"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("POST", "/health"),
    ],
)
def test_everything_else_stops_at_the_front(front: Front, method: str, path: str) -> None:
    before = list(front.reached)
    assert front.ask(method, path, body=b"x" if method in {"POST", "PUT"} else None) in {400, 404}
    assert front.reached == before


@pytest.mark.parametrize(
    "path", ["/v1/control/../fleet/get-run", "/v1/fleet/%67et-run?a=../control", "//v1/fleet//get-run"]
)
def test_superlink_never_sees_the_clients_own_spelling(front: Front, path: str) -> None:
    assert front.ask("POST", path, body=b"") == 200
    assert front.reached[-1][:2] == ("POST", "/v1/fleet/get-run")


def test_health_is_a_plain_question(front: Front) -> None:
    assert front.ask("GET", "/health") == 200
    assert front.reached[-1] == ("GET", "/health", 0)


def test_plain_http_is_refused(front: Front) -> None:
    before = list(front.reached)
    connection = http.client.HTTPConnection("localhost", front.port, timeout=10)
    connection.request("POST", "/v1/fleet/pull-messages", body=b"x")
    assert connection.getresponse().status == 400
    connection.close()
    assert front.reached == before


def test_tls_older_than_1_3_is_refused(front: Front) -> None:
    context = ssl.create_default_context(cafile=str(front.authority))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("localhost", front.port), timeout=10) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw, server_hostname="localhost")
