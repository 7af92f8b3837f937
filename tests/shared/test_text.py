"""The byte vocabulary: a round trip, cuts between characters, fixed sizes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_shared.text import CLS, FIRST_BYTE, PAD, SEP, VOCABULARY, byte_ids, byte_windows


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


@given(st.text(max_size=120), st.integers(8, 70), st.integers(6, 40))
def test_windows_hold_the_text_in_order_and_each_its_own_cls_and_sep(text: str, size: int, window: int) -> None:
    ids, mask, cut = byte_windows(text, max_tokens=size, window=window)
    assert ids.shape == mask.shape == (size,)
    assert (ids[~mask] == PAD).all()
    found = ""
    for start in range(0, size, window):
        part, there = ids[start : start + window], mask[start : start + window]
        if not there.any():
            assert not mask[start:].any()
            break
        assert (part[0], part[there][-1]) == (CLS, SEP)
        assert not (np.diff(there.astype(int)) > 0).any()  # padding only at a window's end
        found += bytes((part[there][1:-1] - FIRST_BYTE).tolist()).decode()
    assert text.encode(errors="replace").decode().startswith(found)
    assert cut == (len(found) < len(text))
    if not cut and len(text.encode()) <= min(window, size) - 2:
        alone, alone_mask = byte_ids(text, max_tokens=size)
        assert (ids == alone).all()
        assert (mask == alone_mask).all()


def test_what_a_window_leaves_over_is_less_than_a_character() -> None:
    ids, mask, cut = byte_windows("心脏病" * 9, max_tokens=64, window=16)  # 27 characters of 3 bytes, 4 a window
    assert cut
    assert [int(mask[k : k + 16].sum()) for k in range(0, 64, 16)] == [14] * 4
    assert not ids[14:16].any()


def test_a_window_without_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="no room"):
        byte_windows("a", max_tokens=64, window=5)


def test_needs_no_torch() -> None:
    code = "import sys, fl_shared.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
