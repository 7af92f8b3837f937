from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_shared.parcel import pack, unpack


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
