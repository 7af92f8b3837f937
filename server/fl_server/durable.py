"""Files that are either wholly there or not there, also after a power cut (POSIX rename and fsync)."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fl_shared.errors import ConsiliumError, ExitCode

TEMPORARY = ".tmp-"


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Create the folder ``target`` with ``files``; it appears complete or not at all.

    Raises:
        OSError: the disk is full or not writable, or ``target`` exists; nothing is left behind.
    """
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=target.parent))
    try:
        for name, content in files.items():
            _write(folder / name, content)
        sync_folder(folder)
        folder.rename(target)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sync_folder(target.parent)


def write_file(target: Path, content: bytes) -> None:
    """Replace ``target`` atomically. Raises OSError; the old file stays then."""
    temporary = target.with_name(f"{TEMPORARY}{target.name}")
    try:
        _write(temporary, content)
        temporary.rename(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def append_line(target: Path, line: str) -> None:
    """Add a line and fsync. A torn last line of an earlier crash is closed first, so that readers skip only it."""
    with target.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
        torn = end > 0 and file.read(1) != b"\n"
        file.write((b"\n" if torn else b"") + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def sweep(folder: Path) -> None:
    """Remove what a crash left half-written in ``folder``."""
    for left in folder.glob(f"{TEMPORARY}*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, *, what: str) -> Iterator[None]:
    """Hold ``path`` as a lock; the kernel frees it when the process ends, however it ends.

    Raises:
        ConsiliumError: another process holds it (ALREADY_RUNNING), or the disk refuses (CHECKPOINT).
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("a+"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        except BlockingIOError as error:
            file.seek(0)
            raise ConsiliumError(
                f"{what} is already running (process {file.read() or 'unknown'}). Wait for it, or stop that process.",
                code=ExitCode.ALREADY_RUNNING,
            ) from error
        except OSError as error:
            raise disk_error(path, error) from error
        yield


def disk_error(target: Path, error: OSError) -> ConsiliumError:
    """What a person reads when ``target`` could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ConsiliumError(
        f"{target}: {'the disk is full' if full else f'cannot be written ({error.strerror})'}. Nothing was committed "
        f"there and everything committed before is intact. {'Free space' if full else 'Mend the disk'} and resume.",
        code=ExitCode.CHECKPOINT,
    )


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
