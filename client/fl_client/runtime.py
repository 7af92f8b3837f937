"""The site runtime's door: the `SiteService` behind one gRPC method on a private UNIX socket.

The caller is a process that runs code sent by the coordinator. Python's gRPC shows no peer uid, so a call needs a path
that only this user can open and the session's token; everything after that is checked again by the service.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import grpc

from fl_client import channel
from fl_client.files import private_dir, write_private
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.site import Site

MAX_SOCKET_PATH = 107  # bytes of sockaddr_un.sun_path, less its end
WORKERS = 4  # calls at a time; training itself is one at a time
RECEIVE_SECONDS = 300.0  # for a whole request to arrive


class Service(Protocol):
    """What the door opens to."""

    def handle(self, request_json: str, arrays: dict[str, bytes], /) -> tuple[str, dict[str, bytes]]:
        """Answer a request; never raises."""


class SiteLock:
    """One running client a site: a lock on ``state/site.lock``, which names the process that holds it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock; harmless when this object holds it already.

        Raises:
            ConsiliumError: another process serves this site (exit code 14).
        """
        if self._descriptor is not None:
            return
        path = private_dir(self._site.state_dir) / "site.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(descriptor, 32).decode().strip()
            os.close(descriptor)
            message = f"a client for site '{self._site.name}' is already running (process {pid})"
            fault = Fault(file=str(path), key="pid", value=pid, problem="lock is held", mend=f"Stop process {pid}.")
            raise ConsiliumError(message, code=ExitCode.ALREADY_RUNNING, faults=[fault]) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; harmless when not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Runtime:
    """Serves one site on ``socket``; callers need the token in ``token_file`` (both exist while it runs)."""

    def __init__(
        self, site: Site, service: Service, socket_dir: Path | None = None, *, lock: SiteLock | None = None
    ) -> None:
        folder = socket_dir or default_socket_dir(site)
        self.socket = folder / "site.sock"
        self.token_file = folder / "token"
        self._service = service
        self._lock = lock or SiteLock(site)
        self._token = secrets.token_hex(32)
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Lock the site, publish the token and open the socket.

        Raises:
            ConsiliumError: another process serves this site (14); the socket cannot be made (11).
        """
        self._lock.acquire()
        try:
            _own_dir(self.socket.parent)
            self.socket.unlink(missing_ok=True)  # sandboxed code can write here: nothing it left is kept or followed
            write_private(self.token_file, self._token.encode())
            self._server = self._open()
        except (OSError, RuntimeError) as error:
            self.stop(grace=0)
            message = f"{self.socket}: the socket cannot be made. Remove the folder that holds it and start again."
            raise ConsiliumError(message, code=ExitCode.SITE) from error
        except BaseException:
            self.stop(grace=0)
            raise

    def stop(self, grace: float) -> None:
        """Take no more calls, give running ones ``grace`` seconds, close the socket and free the site."""
        if self._server is not None:
            self._server.stop(grace).wait()
            self._server = None
        with contextlib.suppress(OSError):  # a folder in its place is no reason to keep the lock
            self.token_file.unlink()
        self._lock.release()

    def _open(self) -> grpc.Server:
        pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="site-runtime")
        server = grpc.server(pool, options=channel.OPTIONS, maximum_concurrent_rpcs=WORKERS)
        method = grpc.stream_stream_rpc_method_handler(self._exchange)
        handler = grpc.method_handlers_generic_handler(channel.SERVICE, {channel.METHOD: method})
        server.add_generic_rpc_handlers((handler,))
        server.add_insecure_port(channel.address(self.socket))
        self.socket.chmod(0o600)
        server.start()
        return server

    def _exchange(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """One call. A refusal carries a status and no text: gRPC would send an exception's text to the caller."""
        try:
            answer = self._answer(frames, context)
        except channel.ChannelError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "")
        except PermissionError:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "")
        except Exception:  # noqa: BLE001 - no exception text may leave
            context.abort(grpc.StatusCode.INTERNAL, "")
        yield from answer

    def _answer(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Token first, then the arrays, then the service."""
        timer = threading.Timer(RECEIVE_SECONDS, context.cancel)
        timer.daemon = True
        timer.start()
        try:
            header = channel.read_header(next(frames, b""))
            if not hmac.compare_digest(header.token.encode(errors="replace"), self._token.encode()):
                raise PermissionError
            arrays = channel.read_arrays(header, frames)
        finally:
            timer.cancel()
        reply, out = self._service.handle(header.message, arrays)
        return channel.pack("", reply, out)


def default_socket_dir(site: Site) -> Path:
    """``state/run``, or a private folder elsewhere when that makes the socket's path too long."""
    folder = site.state_dir / "run"
    if len(os.fsencode(folder / "site.sock")) <= MAX_SOCKET_PATH:
        return folder
    key = hashlib.sha256(os.fsencode(site.state_dir)).hexdigest()[:12]
    root = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(root) / f"consilium-{os.getuid()}-{site.name[:24]}-{key}"


def _own_dir(folder: Path) -> None:
    """Make ``folder``, closed to others; somebody else's folder or a link in its place is refused."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        fault = Fault(file=str(folder), key="owner", problem="not a folder of this user", mend="Remove it.")
        raise ConsiliumError(f"{folder}: no safe place for a socket", code=ExitCode.SITE, faults=[fault])
    folder.chmod(0o700)
    if len(os.fsencode(folder / "site.sock")) > MAX_SOCKET_PATH:
        raise ConsiliumError(f"{folder}: path too long for a UNIX socket", code=ExitCode.SITE)
