from __future__ import annotations

import json

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl_shared.parcel import CHUNK, SMALL, from_records, pack, to_records, to_shared_records, unpack


@given(st.dictionaries(st.text(max_size=20), st.binary(max_size=50)))
def test_round_trip(parts: dict[str, bytes]) -> None:
    assert unpack(pack(parts)) == parts


@given(st.binary(max_size=200))
def test_anything_else_is_refused_not_crashed_on(data: bytes) -> None:
    try:
        unpack(data)
    except ValueError:
        return
    assert pack(unpack(data)) or data  # what is accepted is a parcel


@pytest.mark.parametrize(
    "header", ['[["a", 5]]', '[["a", -1], ["b", 1]]', '[["a", 0], ["a", 0]]', '{"a": 1}', "[[1, 0]]"]
)
def test_lies_in_the_header(header: str) -> None:
    with pytest.raises(ValueError):
        unpack(len(header).to_bytes(8, "big") + header.encode())
    assert json.loads(header)


@pytest.mark.parametrize("size", [0, 3, CHUNK - 40, CHUNK, 2 * CHUNK + 1])
def test_a_message_is_one_record_for_each_chunk(size: int) -> None:
    parts = {"fusion.w": b"x" * size, "heads.b": b"y"}
    records = to_records("{}", parts)
    assert from_records(records) == ("{}", parts)
    assert len(records) == 1 + (8 + len(b'[["fusion.w", 00000000], ["heads.b", 1]]') + size) // CHUNK


@pytest.mark.parametrize("size", [3, SMALL + 1, CHUNK + 1])
def test_what_many_sites_get_is_the_same_object(size: int) -> None:
    parts = {"fusion.w": b"x" * size}
    one, other = (to_shared_records(text, pack(parts)) for text in ("{}", '{"a":1}'))
    assert (from_records(one), from_records(other)) == (("{}", parts), ('{"a":1}', parts))
    same = {key for key in one if one[key].object_id == other[key].object_id}
    assert same == set(one) - {"0"} and len(one) == (1 if size == 3 else 2 + size // CHUNK)


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"1": ConfigRecord({"json": "{}", "parcel": pack({})})},
        {"0": ConfigRecord({"json": 1, "parcel": pack({})})},
        {"0": ConfigRecord({"json": "{}", "parcel": "text"})},
        {"0": ConfigRecord({"json": "{}"})},
        {"0": ConfigRecord({"json": "{}", "parcel": pack({})}), "more": ConfigRecord({})},
        {"0": ArrayRecord({"a": Array("uint8", (1,), "", b"")})},
    ],
)
def test_other_contents_are_refused(records: dict[str, ConfigRecord | ArrayRecord]) -> None:
    with pytest.raises(ValueError):
        from_records(RecordDict(records))
