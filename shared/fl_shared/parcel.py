"""A JSON message and many named byte strings as one Flower record: Flower moves every object by requests of its own.

An `ArrayRecord` costs SuperLink one request and several database commits for itself, for each of its arrays and for
each chunk of those; a model has hundreds. Here a message is one `ConfigRecord`, or one for each 16 MiB.

Form of the bytes: 8 bytes length of the JSON header, the header ``[[name, bytes], …]``, then the contents in order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from flwr.app import ConfigRecord, RecordDict

MAX_HEADER = 8 * 2**20
CHUNK = 16 * 2**20  # bytes of a record: what one request carries
SMALL = 2**18  # bytes of a parcel that is not worth a request of its own


def to_records(message: str, parts: Mapping[str, bytes]) -> RecordDict:
    """The content of a Flower message; `from_records` is its inverse."""
    return _records(message, _chunks(pack(parts)))


def to_shared_records(message: str, parcel: bytes) -> RecordDict:
    """The same of parts that are packed already and go to many sites with a message each.

    A large parcel lies apart from the message, so that the same content is stored once.
    """
    return _records(message, [*([b""] if len(parcel) > SMALL else []), *_chunks(parcel)])


def _chunks(parcel: bytes) -> list[bytes]:
    return [parcel[start : start + CHUNK] for start in range(0, len(parcel), CHUNK)]


def _records(message: str, chunks: Sequence[bytes]) -> RecordDict:
    return RecordDict(
        {str(n): ConfigRecord({"json": message if n == 0 else "", "parcel": chunk}) for n, chunk in enumerate(chunks)}
    )


def from_records(content: RecordDict) -> tuple[str, dict[str, bytes]]:
    """Message and parts.

    Raises:
        ValueError: not exactly such a content (the sender is not trusted).
    """
    records = content.config_records
    if set(content) != {str(n) for n in range(len(content))} or len(records) != len(content) or not records:
        raise ValueError("the message's records are not numbered parts")
    chunks = [records[str(n)].get("parcel") for n in range(len(records))]
    message = records["0"].get("json")
    if not isinstance(message, str) or not all(isinstance(chunk, bytes) for chunk in chunks):
        raise ValueError("a record holds no JSON or no bytes")
    return message, unpack(b"".join(chunk for chunk in chunks if isinstance(chunk, bytes)))


def pack(parts: Mapping[str, bytes]) -> bytes:
    """One byte string."""
    header = json.dumps([[name, len(data)] for name, data in parts.items()]).encode()
    return b"".join([len(header).to_bytes(8, "big"), header, *parts.values()])


def unpack(parcel: bytes) -> dict[str, bytes]:
    """The parts, in order.

    Raises:
        ValueError: not exactly such a parcel (the sender is not trusted).
    """
    start = 8 + (length := int.from_bytes(parcel[:8], "big"))
    if length > MAX_HEADER or start > len(parcel):
        raise ValueError("not a parcel")
    try:
        sizes = [(name, size) for name, size in json.loads(parcel[8:start])]
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError("the parcel's header is unreadable") from error
    if not all(isinstance(name, str) and type(size) is int and size >= 0 for name, size in sizes):
        raise ValueError("a part's name or size is invalid")
    ends = list(accumulate((size for _, size in sizes), initial=start))
    if ends[-1] != len(parcel) or len({name for name, _ in sizes}) != len(sizes):
        raise ValueError("the parts do not fill the parcel")
    return {name: parcel[a:b] for (name, _), (a, b) in zip(sizes, pairwise(ends), strict=True)}
