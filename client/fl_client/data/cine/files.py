"""Which files make up a sample: a single file, or all that lie in a folder and the folders below it."""

from __future__ import annotations

import os
from pathlib import Path

from fl_client.data.findings import UnreadableError, inside, regular_file

MAX_FILES = 10_000
MAX_FILE_BYTES = 1024**3
MAX_TOTAL_BYTES = 8 * 1024**3
NIFTI = (".nii", ".nii.gz")


def sample_files(root: Path, named: str) -> tuple[Path, ...]:
    """Regular files of a sample, sorted by path. Links to files are followed as long as they stay under ``root``.

    Raises:
        UnreadableError: missing, empty, outside ``root``, no regular files, a linked folder, or beyond a limit.
    """
    start = inside(root, named)
    if not start.is_dir():
        return (regular_file(start, max_bytes=MAX_FILE_BYTES),)
    found: set[Path] = set()
    for folder, below, names in os.walk(start):
        if any((Path(folder) / name).is_symlink() for name in below):  # it could lead in circles
            raise UnreadableError("path-linked-folder", f"{named}: a folder in it is a link. Copy the folder.")
        for name in names:
            path = Path(folder) / name
            found.add(inside(root, str(path)) if path.is_symlink() else path)
        if len(found) > MAX_FILES:
            raise UnreadableError("too-many-files", f"{named}: more than {MAX_FILES}")
    files = tuple(regular_file(path, max_bytes=MAX_FILE_BYTES) for path in sorted(found))
    if not files:
        raise UnreadableError("folder-empty", named)
    if (total := sum(path.stat().st_size for path in files)) > MAX_TOTAL_BYTES:
        raise UnreadableError("folder-too-large", f"{named}: {total} bytes exceed {MAX_TOTAL_BYTES}")
    return files


def dicom_files(root: Path, named: str) -> tuple[tuple[Path, ...], int]:
    """The DICOM files (DICOM PS3.10: ``DICM`` at byte 128) of a sample, and how many other files lie among them.

    Raises:
        UnreadableError: as `sample_files`, or none is DICOM.
    """
    files = sample_files(root, named)
    dicom = tuple(path for path in files if _is_dicom(path))
    if not dicom:
        raise UnreadableError("not-dicom", f"{named}: none of {len(files)} file(s) is DICOM")
    return dicom, len(files) - len(dicom)


def is_nifti(named: str) -> bool:
    """Whether the name is that of a NIfTI file."""
    return named.lower().endswith(NIFTI)


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise UnreadableError("file-unreadable", f"{path.name}: {type(error).__name__}") from error
