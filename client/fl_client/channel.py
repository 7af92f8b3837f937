"""The protocol on the site's UNIX socket: one gRPC ``stream_stream`` method, no serializers, no generated code.

Frame 1 is a JSON header ``{"token", "message", "arrays": [[name, nbytes], …]}``; then come the concatenated ``.npy``
bytes in chunks. Both directions alike (a reply's token is empty). The thin ClientApp process imports this module, so it
needs grpc and the standard library only, and hands array bytes through unread.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import grpc

SERVICE, METHOD = "consilium.Site", "Exchange"
MAX_HEADER = 2**23  # bytes: a reply's curves and metrics travel in it
CHUNK = 2**20  # bytes
MAX_TOTAL = 2**31  # bytes of all arrays of one message
MAX_NAME = 256  # characters of a parameter name
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_HEADER),
    ("grpc.max_send_message_length", MAX_HEADER),
    ("grpc.enable_http_proxy", 0),
)


class ChannelError(Exception):
    """The exchange failed; ``kind`` says how, the text stays on this machine."""

    def __init__(self, kind: Literal["unreachable", "deadline", "protocol"], text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class Header:
    """The first frame: token, message (JSON of a Request or Reply) and the (name, bytes) of each array."""

    token: str
    message: str
    sizes: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        """Bytes of all arrays."""
        return sum(size for _, size in self.sizes)


def pack(token: str, message: str, arrays: Mapping[str, bytes]) -> Iterator[bytes]:
    """Header and chunks, ready to send.

    Raises:
        ChannelError: the header or the arrays exceed the limits.
    """
    sizes = [[name, len(data)] for name, data in arrays.items()]
    frame = json.dumps({"token": token, "message": message, "arrays": sizes}).encode()
    read_header(frame)  # never send what the other side must refuse
    body = memoryview(b"".join(arrays.values()))
    return _frames(frame, body)


def _frames(header: bytes, body: memoryview) -> Iterator[bytes]:
    yield header
    for start in range(0, len(body), CHUNK):
        yield bytes(body[start : start + CHUNK])


def read_header(frame: bytes, *, max_bytes: int = MAX_TOTAL) -> Header:
    """Parse and check the first frame.

    Raises:
        ChannelError: not a header, or what it announces is over a limit.
    """
    if len(frame) > MAX_HEADER:
        raise ChannelError("protocol", f"header of {len(frame)} bytes exceeds {MAX_HEADER}")
    try:
        body = json.loads(frame)
        sizes = tuple((name, size) for name, size in body["arrays"])
        header = Header(token=body["token"], message=body["message"], sizes=sizes)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ChannelError("protocol", "the first frame is not a header") from error
    if not (isinstance(header.token, str) and isinstance(header.message, str)):
        raise ChannelError("protocol", "token and message must be text")
    if not all(isinstance(n, str) and 0 < len(n) <= MAX_NAME and type(s) is int and s >= 0 for n, s in sizes):
        raise ChannelError("protocol", "an array's name or size is invalid")
    if len({name for name, _ in sizes}) != len(sizes):
        raise ChannelError("protocol", "an array is named twice")
    if header.total > max_bytes:
        raise ChannelError("protocol", f"{header.total} bytes of arrays exceed {max_bytes}")
    return header


def read_arrays(header: Header, frames: Iterable[bytes]) -> dict[str, bytes]:
    """Collect exactly the bytes that the header announced.

    Raises:
        ChannelError: an empty chunk, or more or fewer bytes than announced.
    """
    body = bytearray()
    for chunk in frames:
        if not chunk or len(body) + len(chunk) > header.total:
            raise ChannelError("protocol", "the chunks do not fit the announced sizes")
        body += chunk
    if len(body) != header.total:
        raise ChannelError("protocol", f"{len(body)} bytes came, {header.total} were announced")
    view, ends = memoryview(body), accumulate((size for _, size in header.sizes), initial=0)
    return {name: bytes(view[a:b]) for (name, _), (a, b) in zip(header.sizes, pairwise(ends), strict=True)}


def call(
    socket: Path,
    token: str,
    message: str,
    arrays: Mapping[str, bytes],
    *,
    timeout: float,
    max_bytes: int = MAX_TOTAL,
) -> tuple[str, dict[str, bytes]]:
    """One exchange with the site runtime.

    Args:
        socket: path of the UNIX socket.
        token: what the runtime handed to this process.
        message: JSON of a `fl_shared.wire.Request`.
        arrays: name -> ``.npy`` bytes, passed through unread.
        timeout: seconds for the whole exchange, the site's computing included.
        max_bytes: most bytes of arrays accepted in the reply.

    Returns:
        JSON of a `fl_shared.wire.Reply`, and its arrays.

    Raises:
        ChannelError: ``unreachable``, ``deadline`` or ``protocol``.
    """
    with grpc.insecure_channel(address(socket), options=OPTIONS) as channel:
        exchange = channel.stream_stream(f"/{SERVICE}/{METHOD}")
        try:
            frames = exchange(pack(token, message, arrays), timeout=timeout)
            header = read_header(next(frames, b""), max_bytes=max_bytes)
            return header.message, read_arrays(header, frames)
        except grpc.RpcError as error:
            raise _failure(error.code()) from error


def address(socket: Path) -> str:
    """The gRPC address of a UNIX socket (the path is percent-decoded by gRPC)."""
    return f"unix:{quote(str(socket))}"


def _failure(status: grpc.StatusCode) -> ChannelError:
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ChannelError("deadline", "the site runtime did not answer in time")
    if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return ChannelError("unreachable", f"no answer from the site runtime ({status.name})")
    return ChannelError("protocol", f"the site runtime refused the call ({status.name})")
