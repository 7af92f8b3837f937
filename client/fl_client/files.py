"""Private files of a site's state folder: directories 0700, files 0600, written whole and durably or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_SECONDS = 60.0


def private_dir(path: Path) -> Path:
    """Make ``path`` (and its parents) if missing and close it to other users."""
    for folder in reversed([p for p in (path, *path.parents) if not p.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` (0600): temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: nothing was changed.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")  # mkstemp makes 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file (0600, made when missing), among threads and processes.

    Raises:
        TimeoutError: somebody else held it for `LOCK_SECONDS`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path} is locked by another process") from error
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)
