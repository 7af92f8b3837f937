"""The folder that an import writes: what it may replace, and what belongs to somebody else.

A site folder also comes to hold the site's approvals, privacy ledger and audit log. They are never touched: a new
import must not refund a privacy budget.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.toml import Section

MARKER = ".fl-sites.json"
_DATA = ("samples.csv", "events.parquet", "prescriptions.csv", "cine", "contours", "ecg", "masks", "text")


class _Marker(Section):
    """What fl-sites wrote under a folder: site folders, and ``*.toml`` files with their SHA-256."""

    folders: tuple[str, ...] = ()
    files: dict[str, str] = Field(default={})


def claim(out: Path, *, folders: Sequence[str]) -> None:
    """Make ``out`` and its site folders ready to be written, removing the data of an earlier run.

    Raises:
        ConsiliumError: (exit code 11) a folder holds files that fl-sites did not write, or a ``*.toml`` was edited
            since. Nothing has been touched then.
    """
    known = _read(out)
    if faults := [*_foreign(out, folders, known), *_edited(out, folders, known)]:
        raise ConsiliumError(f"{out}: {len(faults)} thing(s) would be overwritten", code=ExitCode.SITE, faults=faults)
    for folder in folders:
        (out / folder).mkdir(parents=True, exist_ok=True)
        for name in _DATA:
            _remove(out / folder / name)
    _write(out, _Marker(folders=tuple(sorted({*known.folders, *folders})), files=known.files))


def seal(out: Path) -> None:
    """Remember the ``*.toml`` files as written, so that a later run sees whether a person edited them."""
    folders = _read(out).folders
    written = [name for name in _tomls(folders) if (out / name).is_file()]
    _write(out, _Marker(folders=folders, files={name: _digest(out / name) for name in written}))


def _foreign(out: Path, folders: Sequence[str], known: _Marker) -> Iterator[Fault]:
    for name in folders:
        folder = out / name
        if name in known.folders or not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            continue
        problem = "is there already and was not written by fl-sites"
        yield Fault(file=str(folder), key="--out", problem=problem, mend="Choose another --out, or move it away.")


def _edited(out: Path, folders: Sequence[str], known: _Marker) -> Iterator[Fault]:
    for name in _tomls([folder for folder in folders if folder in known.folders]):
        path = out / name
        if path.exists() and known.files.get(name) != _digest(path):
            mend = "Move it away to have it written anew, or choose another --out."
            yield Fault(file=str(path), key="--out", problem="is not as fl-sites wrote it", mend=mend)


def _tomls(folders: Sequence[str]) -> list[str]:
    return ["study.toml", *(f"{folder}/site.toml" for folder in folders)]


def _read(out: Path) -> _Marker:
    path = out / MARKER
    return _Marker.model_validate_json(path.read_bytes()) if path.is_file() else _Marker()


def _write(out: Path, marker: _Marker) -> None:
    (out / MARKER).write_text(marker.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
