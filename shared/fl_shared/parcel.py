"""Many named byte strings as one, so that Flower stores and moves one object instead of one an array.

Flower sends every `Array` of an `ArrayRecord` by requests of its own (and a database commit each); a model has
hundreds. Form: 8 bytes length of the JSON header, the header ``[[name, bytes], …]``, then the contents in that order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import accumulate, pairwise

MAX_HEADER = 8 * 2**20


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
