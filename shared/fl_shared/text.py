"""Text as bytes: a vocabulary that needs no file, fits every language and cannot leak patients' words.

Ids: pad 0, cls 1, sep 2, mask 3, byte b -> b + 4. Torch-free, so that readers can use it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PAD, CLS, SEP, MASK = 0, 1, 2, 3
FIRST_BYTE = 4
VOCABULARY = FIRST_BYTE + 256


def byte_ids(text: str, *, max_tokens: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """UTF-8 bytes between cls and sep, padded to ``max_tokens`` (L).

    Args:
        text: any text; what does not fit is cut at the end, on a character boundary.
        max_tokens: L, at least 2.

    Returns:
        ids (L,) int64 and mask (L,) bool, True where a token stands. An empty text gives cls and sep.

    Raises:
        ValueError: ``max_tokens`` leaves no room for cls and sep.
    """
    if max_tokens < 2:
        raise ValueError(f"max_tokens {max_tokens} leaves no room for cls and sep")
    room = max_tokens - 2
    # a lone surrogate cannot be encoded: it becomes '?', as every reader of the file would see it
    cut = text[:room].encode("utf-8", errors="replace")[:room].decode("utf-8", errors="ignore").encode("utf-8")
    ids = np.full(max_tokens, PAD, dtype=np.int64)
    ids[0], ids[1 + len(cut)] = CLS, SEP
    ids[1 : 1 + len(cut)] = np.frombuffer(cut, dtype=np.uint8).astype(np.int64) + FIRST_BYTE
    return ids, np.arange(max_tokens) < len(cut) + 2


def byte_windows(text: str, *, max_tokens: int, window: int) -> tuple[NDArray[np.int64], NDArray[np.bool_], bool]:
    """UTF-8 bytes in windows that each have their own cls and sep, window k from token k * ``window`` on.

    Args:
        text: any text; every window ends on a character boundary, and what does not fit into the last one is cut.
        max_tokens: L; the last window is shorter when L is no multiple of ``window``, and unused below 6 tokens.
        window: tokens of a window, at least 6, so that every character fits.

    Returns:
        ids (L,) int64, mask (L,) bool, and whether the text was cut. A text that fits one window is as in `byte_ids`.

    Raises:
        ValueError: ``max_tokens`` or ``window`` is too small.
    """
    if window < 6:
        raise ValueError(f"a window of {window} has no room for cls, sep and a character")
    ids, mask = np.full(max_tokens, PAD, dtype=np.int64), np.zeros(max_tokens, dtype=bool)
    rest = text
    for start in range(0, max_tokens, window):
        if start and (not rest or max_tokens - start < 6):
            break
        part = slice(start, min(start + window, max_tokens))
        ids[part], mask[part] = byte_ids(rest, max_tokens=part.stop - start)
        taken = (ids[part][mask[part]][1:-1] - FIRST_BYTE).astype(np.uint8).tobytes()
        rest = rest[len(taken.decode("utf-8")) :]
    return ids, mask, bool(rest)
