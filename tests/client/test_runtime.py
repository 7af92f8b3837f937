from __future__ import annotations

import os
import socket as sockets
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from fl_client import channel, runtime
from fl_client.channel import ChannelError
from fl_client.runtime import Runtime, SiteLock, default_socket_dir
from fl_shared.errors import ConsiliumError, ExitCode


class Echo:
    """Sends back what came."""

    def __init__(self) -> None:
        self.calls = 0

    def handle(self, request_json: str, arrays: dict[str, bytes]) -> tuple[str, dict[str, bytes]]:
        self.calls += 1
        if request_json == "break":
            raise RuntimeError("patient Zhang-San-19570312")
        return request_json, arrays


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def served(make_site, echo):
    running = Runtime(make_site(), echo)
    running.start()
    yield running
    running.stop(grace=1)


def raw(served: Runtime, frames: list[bytes]) -> grpc.RpcError:
    """Send frames by hand; the refusal."""
    with grpc.insecure_channel(channel.address(served.socket)) as link:
        exchange = link.stream_stream(f"/{channel.SERVICE}/{channel.METHOD}")
        with pytest.raises(grpc.RpcError) as error:
            list(exchange(iter(frames), timeout=10))
        return error.value


def test_five_megabytes_there_and_back(served, echo) -> None:
    arrays = {"fusion.a": os.urandom(5_000_000), "fusion.empty": b"", "heads.b": os.urandom(77)}
    token = served.token_file.read_text()
    assert channel.call(served.socket, token, '{"é": 1}', arrays, timeout=30) == ('{"é": 1}', arrays)
    assert echo.calls == 1


def test_socket_and_token_are_private(served) -> None:
    assert served.socket.parent.stat().st_mode & 0o777 == 0o700
    assert served.socket.stat().st_mode & 0o777 == 0o600
    assert served.token_file.stat().st_mode & 0o777 == 0o600
    assert len(served.token_file.read_text()) == 64


@pytest.mark.parametrize("token", ["", "0" * 64, "\ud800"])
def test_wrong_token_is_refused_before_any_array(served, echo, token) -> None:
    with pytest.raises(ChannelError) as error:
        channel.call(served.socket, token, "{}", {"a": b"x" * 1000}, timeout=10)
    assert error.value.kind == "protocol"
    assert echo.calls == 0


def test_refusals_carry_no_text(served, echo) -> None:
    token = served.token_file.read_text()
    lying = next(iter(channel.pack(token, "{}", {"a": b"123"})))
    cases = {
        "wrong token": ([next(iter(channel.pack("wrong", "{}", {})))], grpc.StatusCode.PERMISSION_DENIED),
        "no header": ([b"\x00\xff"], grpc.StatusCode.INVALID_ARGUMENT),
        "nothing": ([], grpc.StatusCode.INVALID_ARGUMENT),
        "too few bytes": ([lying, b"12"], grpc.StatusCode.INVALID_ARGUMENT),
        "too many bytes": ([lying, b"1234"], grpc.StatusCode.INVALID_ARGUMENT),
        "giant frame": ([b"x" * (channel.MAX_HEADER + 1)], grpc.StatusCode.RESOURCE_EXHAUSTED),
    }
    for name, (frames, status) in cases.items():
        error = raw(served, frames)
        assert error.code() is status, name
    assert echo.calls == 0


def test_a_broken_service_tells_nothing(served) -> None:
    error = raw(served, list(channel.pack(served.token_file.read_text(), "break", {})))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "Zhang" not in str(error.details())


def test_slow_senders_are_cut_off(served, echo, monkeypatch) -> None:
    monkeypatch.setattr(runtime, "RECEIVE_SECONDS", 0.2)
    token = served.token_file.read_text()

    pass_on = threading.Event()

    def slow():
        yield next(iter(channel.pack(token, "{}", {"a": b"123"})))
        pass_on.wait(10)

    with grpc.insecure_channel(channel.address(served.socket)) as link:
        exchange = link.stream_stream(f"/{channel.SERVICE}/{channel.METHOD}")
        with pytest.raises(grpc.RpcError) as error:
            list(exchange(slow(), timeout=10))
        pass_on.set()
    assert error.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    assert echo.calls == 0


def test_nobody_there(tmp_path) -> None:
    with pytest.raises(ChannelError) as error:
        channel.call(tmp_path / "none.sock", "t", "{}", {}, timeout=5)
    assert error.value.kind == "unreachable"


def test_second_client_for_a_site_is_refused(served, make_site, echo) -> None:
    with pytest.raises(ConsiliumError, match=f"process {os.getpid()}") as error:
        Runtime(make_site(), echo).start()
    assert error.value.code is ExitCode.ALREADY_RUNNING
    assert served.token_file.exists()  # the running one is untouched
    served.stop(grace=0)
    assert not served.token_file.exists() and not served.socket.exists()
    again = Runtime(make_site(), echo)
    again.start()
    again.stop(grace=0)


def test_the_lock_dies_with_its_process(make_site) -> None:
    site = make_site()
    path = site.folder / "site.toml"
    code = (
        "import os, sys; from pathlib import Path; from fl_client.runtime import SiteLock; from fl_shared.site import "
        f"load_site; SiteLock(load_site(Path({str(path)!r}))).acquire(); print(os.getpid(), flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        pid = other.stdout.readline().strip()
        lock = SiteLock(site)
        with pytest.raises(ConsiliumError, match=f"process {pid}"):
            lock.acquire()
        other.kill()
        other.wait()
        lock.acquire()
        lock.acquire()  # harmless
        lock.release()


def test_stale_socket_of_a_killed_client_is_replaced(make_site, echo) -> None:
    running = Runtime(make_site(), echo)
    running.socket.parent.mkdir(parents=True)
    stale = sockets.socket(sockets.AF_UNIX)
    stale.bind(str(running.socket))
    stale.close()
    running.start()
    assert channel.call(running.socket, running.token_file.read_text(), "{}", {}, timeout=10) == ("{}", {})
    running.stop(grace=0)


def test_what_sandboxed_code_left_is_not_followed(make_site, echo, tmp_path) -> None:
    running = Runtime(make_site(), echo)
    running.socket.parent.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("kept")
    victim.chmod(0o644)
    for name in ("site.sock", "token"):
        (running.socket.parent / name).symlink_to(victim)
    running.start()
    assert channel.call(running.socket, running.token_file.read_text(), "{}", {}, timeout=10) == ("{}", {})
    running.stop(grace=0)
    assert victim.read_text() == "kept" and victim.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["site.sock", "token"])
def test_a_folder_in_the_way_is_said(make_site, echo, name) -> None:
    running = Runtime(make_site(), echo)
    (running.socket.parent / name).mkdir(parents=True)
    with pytest.raises(ConsiliumError, match="Remove the folder") as error:
        running.start()
    assert error.value.code is ExitCode.SITE
    SiteLock(make_site()).acquire()


def test_long_state_paths_get_a_short_socket(make_site, monkeypatch, tmp_path) -> None:
    site = make_site()
    short = tmp_path / "x"
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    monkeypatch.setattr(type(site), "state_dir", property(lambda self: deep))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    folder = default_socket_dir(site)
    assert folder.parent == short and f"-{site.name}-" in folder.name


def test_somebody_elses_folder_is_no_place_for_a_socket(make_site, echo, tmp_path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    running = Runtime(make_site(), echo, socket_dir=tmp_path / "link")
    with pytest.raises(ConsiliumError) as error:
        running.start()
    assert error.value.code is ExitCode.SITE
    SiteLock(make_site()).acquire()  # the lock was given back


def test_real_service_over_the_socket(make_house) -> None:
    house = make_house()
    running = Runtime(house.site, house.service)
    running.start()
    try:
        body = f'{{"kind":"hello","study":"{house.study.identity}"}}'
        reply, arrays = channel.call(running.socket, running.token_file.read_text(), body, {}, timeout=20)
        assert '"approved":true' in reply and arrays == {}
    finally:
        running.stop(grace=1)
    assert isinstance(Path(running.socket), Path)
