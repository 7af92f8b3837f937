"""Decoded samples on disk, named by the content of their files: a file is decoded once, whatever studies come.

Several processes may read and write at a time: a file appears whole or not at all (rename), and what a kill, a full
disk or a bad sector leaves behind fails its checksum and counts as absent. One safetensors file a sample, mapped into
memory when read; the least recently used go first when the folder outgrows its bound.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fl_client.data.findings import UnreadableError
from fl_client.data.kinds import FileKind, Sample
from fl_client.files import private_dir
from fl_shared.site import FileModality
from fl_shared.study import ModalityPlan

FORM = "1"  # of the cache itself
ABANDONED = 3600.0  # seconds after which a temporary file belongs to nobody
_NAMED = frozenset({".txt", ".nii", ".gz"})  # contours and label maps tell their image or phase by their name
_IRRELEVANT = frozenset({"encoder", "leaky", "dropout", "weights", "weights_sha256"})  # change no array


class SampleCache:
    """A folder of samples (0700, below the site's state).

    Args:
        folder: made when missing.
        max_bytes: what `trim` leaves at most.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder, self._max_bytes = private_dir(folder), max_bytes

    def key(self, kind: FileKind, files: Sequence[Path], *, plan: ModalityPlan, mapped: FileModality) -> str:
        """What names a sample: the content of its files, the preprocessing and its version.

        Raises:
            UnreadableError: a file cannot be read.
        """
        how = [FORM, type(kind).__name__, kind.version, plan.model_dump_json(exclude=set(_IRRELEVANT))]
        how += [mapped.model_dump_json(exclude={"column"}), self._content(files)]
        return hashlib.sha256("\0".join(how).encode()).hexdigest()

    def get(self, key: str) -> Sample | None:
        """The sample, or None when it is not here or damaged."""
        path = self._path(key)
        try:
            with safe_open(path, framework="numpy") as file:
                arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
                told = file.metadata() or {}
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError):
            path.unlink(missing_ok=True)
            return None
        if told.get("crc32") != _checksum(arrays):
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now
        return Sample(arrays=arrays, repairs=tuple(json.loads(told["repairs"])))

    def put(self, key: str, sample: Sample) -> None:
        """Keep a sample.

        Raises:
            OSError: the disk is full or not writable; nothing is left behind.
        """
        told = {"crc32": _checksum(sample.arrays), "repairs": json.dumps(sample.repairs)}
        arrays = {name: np.asarray(array, order="C") for name, array in sample.arrays.items()}
        self._write(self._path(key), save(arrays, metadata=told))

    def trim(self) -> None:
        """Remove the least recently used beyond the bound, and what killed writers left."""
        known: list[tuple[float, int, Path]] = []
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):  # another process trims too
                state = path.stat()
                if path.name.startswith(".") and time.time() - state.st_mtime > ABANDONED:
                    path.unlink()
                elif not path.name.startswith("."):
                    known.append((state.st_mtime, state.st_size, path))
        excess = sum(size for _, size, _ in known) - self._max_bytes
        for _, size, path in sorted(known):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size

    def _files(self) -> Iterable[Path]:
        return (path for path in self.folder.rglob("*") if path.is_file())

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _content(self, files: Sequence[Path]) -> str:
        """Digest of the files' contents; read again only when size, times or inode of one changed."""
        states = []
        for path in files:
            try:
                s = path.stat()
            except OSError as error:
                raise UnreadableError("file-missing", path.name) from error
            states.append(f"{path.name}\0{s.st_size}\0{s.st_mtime_ns}\0{s.st_ctime_ns}\0{s.st_ino}\0{s.st_dev}")
        sign = hashlib.sha256("\0".join(states).encode()).hexdigest()
        known = self.folder / sign[:2] / f"{sign}.digest"
        with contextlib.suppress(OSError):
            if len(found := known.read_text(encoding="ascii")) == 64:
                os.utime(known)
                return found
        digest = _digest(files)
        with contextlib.suppress(OSError):  # a full disk costs time, nothing else
            self._write(known, digest.encode())
        return digest

    def _write(self, path: Path, data: bytes) -> None:
        private_dir(path.parent)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".")  # 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(name).replace(path)  # no fsync: what a power cut leaves fails its checksum
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _digest(files: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                each = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise UnreadableError("file-unreadable", f"{path.name}: {type(error).__name__}") from error
        told = path.name if path.suffix.lower() in _NAMED else path.suffix
        whole.update(told.encode() + b"\0" + each)
    return whole.hexdigest()


def _checksum(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """CRC-32 over names, shapes, dtypes and bytes."""
    crc = 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        crc = zlib.crc32(f"{name}{array.shape}{array.dtype}".encode(), crc)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc)
    return struct.pack(">I", crc).hex()
