"""What goes wrong, said so that a person can mend it: faults, errors, exit codes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command (documented in the README)."""

    OK = 0
    FAILED = 1  # unexpected; the traceback is in the local log
    USAGE = 2  # wrong options (typer's own code)
    STUDY = 10  # study.toml is invalid
    SITE = 11  # site.toml is invalid or a path in it is missing
    DATA = 12  # the site's data are rejected
    NOT_APPROVED = 13  # the study is not approved at this site
    ALREADY_RUNNING = 14  # a second process for the same site or coordinator
    SANDBOX = 15  # no sandbox for server-sent code on this machine
    PRIVACY = 16  # budget, ledger or provenance forbids the release
    ROUND_FAILED = 17  # a round missed its quorum, every reply was rejected, or a comparison's cell failed
    UNREACHABLE = 18  # the other side cannot be reached
    CHECKPOINT = 19  # a committed round or a model bundle does not verify
    NOT_PROMOTED = 20  # a model misses a threshold of its study


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong, where it stands, and how to mend it."""

    file: str
    key: str
    problem: str
    mend: str
    value: str = ""
    row: int | None = None  # 1-based line of a table, header included

    def __str__(self) -> str:
        where = self.file + (f", row {self.row}" if self.row is not None else "")
        value = f" = {self.value}" if self.value else ""
        return f"{where}: {self.key}{value}: {self.problem}. {self.mend}"


def misfit(key: str, problem: str, mend: str, *, value: str = "") -> Fault:
    """A fault of settings that do not fit together; the file is named later, words are quoted, the mend is ended."""
    shown = f"'{value}'" if value and not value.isdigit() else value
    ended = mend if mend.endswith((".", "?")) else f"{mend}."
    return Fault(file="", key=key, value=shown, problem=problem, mend=ended)


class UnfitError(ValueError):
    """Settings that do not fit together, found while a file is validated; the file is named later."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(str(fault).removeprefix(": ") for fault in faults))
        self.faults = tuple(faults)


class ConsiliumError(Exception):
    """Any error that a user can act on; carries its exit code and all faults found."""

    def __init__(self, message: str, *, code: ExitCode, faults: Sequence[Fault] = ()) -> None:
        super().__init__("\n".join([message, *(f"  - {fault}" for fault in faults)]))
        self.message = message
        self.code = code
        self.faults = tuple(faults)

    def as_json(self) -> dict[str, object]:
        """The machine form, for ``--format json``."""
        return {
            "error": self.message,
            "code": int(self.code),
            "name": self.code.name,
            "faults": [asdict(fault) for fault in self.faults],
        }


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known word was probably meant: ``"did you mean 'rounds'?"`` or the list."""
    options = sorted(known)
    match = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"Did you mean '{match[0]}'?" if match else f"Known: {', '.join(options)}."
