"""The byte vocabulary: a round trip, cuts between characters, fixed sizes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_shared.text import CLS, FIRST_BYTE, PAD, SEP, VOCABULARY, byte_ids


@given(st.text(max_size=40), st.integers(2, 60))
def test_what_fits_comes_back(text: str, size: int) -> None:
    ids, mask = byte_ids(text, max_tokens=size)
    assert ids.shape == mask.shape == (size,)
    assert ids.dtype == np.int64
    assert mask.dtype == np.bool_
    assert ids[0] == CLS
    assert ids[mask][-1] == SEP
    assert (ids[~mask] == PAD).all()
    assert ids.max() < VOCABULARY
    inner = ids[mask][1:-1]
    assert (inner >= FIRST_BYTE).all()
    back = bytes((inner - FIRST_BYTE).tolist()).decode()  # would fail on a cut character
    assert text.startswith(back)
    if len(text.encode()) <= size - 2:
        assert back == text
    else:
        assert len(back.encode()) > size - 2 - 4


def test_a_cut_never_splits_a_character() -> None:
    ids, mask = byte_ids("心脏", max_tokens=7)  # room for 5 bytes, a character takes 3
    assert bytes((ids[mask][1:-1] - FIRST_BYTE).tolist()).decode() == "心"


def test_no_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="no room"):
        byte_ids("a", max_tokens=1)


def test_needs_no_torch() -> None:
    code = "import sys, fl_shared.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
