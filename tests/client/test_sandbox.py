"""Hostile code in the sandbox, against real targets; the same probe unconfined shows that the targets are open."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fl_client import sandbox
from fl_shared.errors import ConsiliumError, ExitCode

PROBE = """
import json, os, socket, sys
secret, port, abstract, parent, exchange = sys.argv[1:6]
def unix():
    s = socket.socket(socket.AF_UNIX); s.connect(exchange + "/site.sock")
tries = {
    "secret": lambda: open(secret).read(),
    "environment": lambda: open(f"/proc/{parent}/environ", "rb").read().index(b"PROBE_SECRET"),
    "tcp": lambda: socket.create_connection(("127.0.0.1", int(port)), 2),
    "abstract": lambda: socket.socket(socket.AF_UNIX).connect("\\0" + abstract),
    "signal": lambda: os.kill(int(parent), 0) if open("/proc/self/comm") else None,
    "write": lambda: open(exchange + "/full", "w"),
    "exchange": unix,
}
open_ = []
for name, attempt in tries.items():
    try:
        attempt()
        open_.append(name)
    except Exception:
        continue
print(json.dumps(open_))
"""


@pytest.fixture
def target(tmp_path: Path):
    """A secret file, a TCP listener, an abstract socket, and the socket that may be reached."""
    exchange = tmp_path / "run"
    exchange.mkdir()
    (tmp_path / "scratch").mkdir()
    (exchange / "probe.py").write_text(PROBE)
    (tmp_path / "secret.txt").write_text("patient")
    name = f"consilium-probe-{os.getpid()}"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as hidden, socket.socket(socket.AF_UNIX) as door:
        tcp.bind(("127.0.0.1", 0))
        hidden.bind("\0" + name)
        door.bind(str(exchange / "site.sock"))
        for listener in (tcp, hidden, door):
            listener.listen()
        arguments = [str(tmp_path / "secret.txt"), str(tcp.getsockname()[1]), name, str(os.getpid()), str(exchange)]
        yield exchange, arguments


def probe(kind: sandbox.Kind, exchange: Path, arguments: list[str]) -> set[str]:
    confined = sandbox.Sandbox(kind=kind, exchange=exchange)
    command = confined.command([sys.executable, str(exchange / "probe.py"), *arguments], env={"PATH": "/usr/bin"})
    os.environ["PROBE_SECRET"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def works(kind: sandbox.Kind, exchange: Path) -> None:
    if not sandbox._starts(sandbox.Sandbox(kind=kind, exchange=exchange)):
        pytest.skip(
            f"{kind} does not start on this machine (Debian: apt install bubblewrap; Landlock needs Linux 6.12)"
        )


def test_unconfined_everything_is_open(target) -> None:
    assert probe("none", *target) >= {"secret", "tcp", "abstract", "signal", "write", "exchange"}


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_confined_code_reaches_the_site_socket_and_nothing_else(kind, target) -> None:
    works(kind, target[0])
    assert probe(kind, *target) - {"signal"} == {"exchange"}  # in its own PID namespace the number is another process
    if kind == "landlock":
        assert "signal" not in probe(kind, *target)


def test_data_inside_the_installation_are_refused(tmp_path: Path) -> None:
    inside = Path(sandbox.__file__).parent / "data"
    with pytest.raises(ConsiliumError, match="can read") as caught:
        sandbox.choose(exchange=tmp_path, protected=[inside])
    assert caught.value.code == ExitCode.SANDBOX


def test_without_any_sandbox_the_site_refuses_unless_told_in_words(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "_starts", lambda _: False)
    with pytest.raises(ConsiliumError, match="apt install bubblewrap"):
        sandbox.choose(exchange=tmp_path, protected=[])
    assert sandbox.choose(exchange=tmp_path, protected=[], opt_out=sandbox.OPT_OUT).kind == "none"
