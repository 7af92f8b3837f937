"""What readers find wrong, and the guard in front of every file that a table names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fl_client.data.cohort import CheckReport, Quarantined
from fl_shared.errors import Fault

MISSING = frozenset({"", "na", "n/a", "nan", "nat", "null", "none", "?", "-"})
MAX_LISTED = 10


@dataclass(kw_only=True)
class Findings:
    """Collected over a whole check, so that every fault is told at once. ``part``: only some patients are read."""

    rejects: list[Fault] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)
    part: bool = False

    def report(self, *, rows: int, flow: Mapping[str, int] | None = None) -> CheckReport:
        """The findings, frozen."""
        ordered = sorted(self.quarantined, key=lambda q: (q.row, q.modality or "", q.check))
        return CheckReport(
            rows=rows,
            rejects=tuple(self.rejects),
            quarantined=ordered,
            repairs=dict(self.repairs),
            flow=flow or {"rows": rows},
        )

    def set_aside(self, line: int, modality: str, why: UnreadableError) -> None:
        """Quarantine one modality of the row at this line of the samples table."""
        self.quarantined.append(Quarantined(row=line, modality=modality, check=why.check, detail=why.detail))

    def reject_values(
        self, *, file: str, key: str, rows: Sequence[int], values: Iterable[str], problem: str, mend: str
    ) -> None:
        """One fault for each distinct value, at its first row; at most `MAX_LISTED` are written out."""
        found: dict[str, list[int]] = {}
        for row, value in sorted(zip(rows, values, strict=True)):
            found.setdefault(value, []).append(row)
        for value, places in list(found.items())[:MAX_LISTED]:
            also = f" (and {len(places) - 1} more rows)" if len(places) > 1 else ""
            fault = Fault(file=file, row=places[0], key=key, value=repr(value) + also, problem=problem, mend=mend)
            self.rejects.append(fault)
        if (rest := len(found) - MAX_LISTED) > 0:
            self.rejects.append(Fault(file=file, key=key, value=f"{rest} more values", problem=problem, mend=mend))


class UnreadableError(Exception):
    """A file cannot be used: a short code for counting, and a detail that stays at the site."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check
        self.detail = detail

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, str]]:
        """Travels between the processes that decode."""
        return UnreadableError, (self.check, self.detail)


def inside(root: Path, named: str) -> Path:
    """Where a path of the table leads, with every symlink followed.

    Raises:
        UnreadableError: it leads out of ``root`` (``..``, an absolute path, a symlink), or is no path at all.
    """
    try:
        path = (root / named).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # NUL bytes, names too long, symlink loops
        raise UnreadableError("path-invalid", repr(named)) from error
    if not path.is_relative_to(root.resolve()):
        raise UnreadableError("path-outside-root", f"{named!r} leads out of {root}")
    return path


def regular_file(path: Path, *, max_bytes: int) -> Path:
    """The path, when it is a regular file of at most ``max_bytes``.

    Raises:
        UnreadableError: missing, no regular file (a device, a pipe), or too large.
    """
    try:
        regular, size = path.is_file(), path.stat().st_size
    except OSError as error:
        raise UnreadableError("file-missing", path.name) from error
    if not regular:
        raise UnreadableError("file-not-regular", path.name)
    if size > max_bytes:
        raise UnreadableError("file-too-large", f"{path.name}: {size} bytes exceed {max_bytes}")
    return path
