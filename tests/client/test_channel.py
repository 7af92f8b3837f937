from __future__ import annotations

import json
import subprocess
import sys
from itertools import chain

import pytest

from fl_client import channel
from fl_client.channel import ChannelError


def header(**changes) -> bytes:
    return json.dumps({"token": "t", "message": "{}", "arrays": [["a", 3]]} | changes).encode()


def read(*frames: bytes, **limits: int) -> dict[str, bytes]:
    stream = iter(frames)
    return channel.read_arrays(channel.read_header(next(stream), **limits), stream)


def test_pack_and_read_are_inverse() -> None:
    arrays = {"a": b"x" * (channel.CHUNK + 1), "empty": b"", "c": b"123"}
    frames = list(channel.pack("token", "message", arrays))
    assert all(0 < len(frame) <= channel.CHUNK for frame in frames)
    parsed = channel.read_header(frames[0])
    assert (parsed.token, parsed.message) == ("token", "message")
    assert channel.read_arrays(parsed, frames[1:]) == arrays


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        header(token=1),
        header(message=None),
        header(arrays=None),
        header(arrays=["ab", 1]),
        header(arrays=[["a", -1]]),
        header(arrays=[["a", True]]),
        header(arrays=[["a", 1.0]]),
        header(arrays=[["", 1]]),
        header(arrays=[["a" * 300, 1]]),
        header(arrays=[["a", 1], ["a", 1]]),
        header(arrays=[["a", 10**15]]),
        b" " * (channel.MAX_HEADER + 1),
    ],
)
def test_bad_headers_are_refused(frame) -> None:
    with pytest.raises(ChannelError) as error:
        channel.read_header(frame)
    assert error.value.kind == "protocol"


@pytest.mark.parametrize("chunks", [(), (b"12",), (b"1234",), (b"12", b"34"), (b"123", b"4"), (b"", b"123")])
def test_lying_sizes_are_refused(chunks) -> None:
    with pytest.raises(ChannelError):
        read(header(), *chunks)


def test_endless_chunks_stop_at_the_announced_size() -> None:
    with pytest.raises(ChannelError):
        channel.read_arrays(channel.read_header(header()), chain.from_iterable(iter(lambda: [b"x"], None)))


def test_byte_limit() -> None:
    assert read(header(), b"123", max_bytes=3) == {"a": b"123"}
    with pytest.raises(ChannelError):
        read(header(), b"123", max_bytes=2)


def test_too_large_messages_are_not_sent() -> None:
    with pytest.raises(ChannelError):
        channel.pack("", "x" * (channel.MAX_HEADER + 1), {})


def test_the_thin_process_loads_no_heavy_library() -> None:
    code = "import sys, fl_client.channel; print({'torch','ray','numpy','pandas','pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
