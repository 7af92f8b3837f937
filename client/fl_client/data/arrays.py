"""The cohort's arrays: in memory when small, in an unlinked file of the cache folder when large.

The pages of such a file are the kernel's to drop, so memory stays flat however many samples there are, and the file
is gone with its process, whatever ends it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
IN_MEMORY = 64 * 2**20  # bytes of one array


def zeros(shape: tuple[int, ...], dtype: str, *, folder: Path) -> NDArray[np.generic]:
    """An array of zeros.

    Args:
        shape: N first.
        dtype: numpy's name.
        folder: where a large array is kept.

    Raises:
        OSError: the disk has no room for it.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # now: a disk that fills up later would end the process (SIGBUS)
        return np.memmap(file, dtype=dtype, mode="r+", shape=shape)


def keep(array: NDArray[T], rows: NDArray[np.bool_]) -> NDArray[T]:
    """The rows where ``rows`` (N,) is true; a large array is compacted in place instead of copied into memory."""
    if rows.all():
        return array
    if not isinstance(array, np.memmap):
        return array[rows]
    chosen = np.flatnonzero(rows)
    for to, row in enumerate(chosen):
        if to != row:
            array[to] = array[row]
    return array[: len(chosen)]
