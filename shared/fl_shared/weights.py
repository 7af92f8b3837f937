"""Local pretrained directories: named in ``site.toml``, pinned by the study through a digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fl_shared.errors import ConsiliumError, ExitCode, Fault


def directory_digest(path: Path) -> str:
    """SHA-256 over relative names, sizes and contents of every file below ``path``, in name order."""
    sha = hashlib.sha256()
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    for name in sorted(files):
        sha.update(f"{name}\0{files[name].stat().st_size}\0".encode())
        with files[name].open("rb") as stream:
            while block := stream.read(2**20):
                sha.update(block)
    return sha.hexdigest()


def verified_directory(path: Path, *, name: str, sha256: str) -> Path:
    """The directory, when its content is what the study pinned.

    Raises:
        ConsiliumError: missing, or its digest differs (exit code 11).
    """
    key, code = f"weights.{name}", ExitCode.SITE
    if not path.is_dir():
        mend = "Copy the pretrained directory there, or correct the path."
        fault = Fault(file="site.toml", key=key, value=str(path), problem="directory does not exist", mend=mend)
        raise ConsiliumError("pretrained weights are missing", code=code, faults=[fault])
    if (found := directory_digest(path)) != sha256:
        mend = f"Obtain the directory whose SHA-256 is {sha256}."
        fault = Fault(file="site.toml", key=key, value=found, problem="differs from what the study pinned", mend=mend)
        raise ConsiliumError("pretrained weights differ", code=code, faults=[fault])
    return path
