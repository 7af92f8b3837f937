"""What importers share: what an import returns, the faults of a download, and the settings of a public site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fl_shared.errors import ConsiliumError, ExitCode, Fault

PUBLIC: Mapping[str, Any] = {
    "privacy": {"epsilon_cap": 20.0, "allow_without_privacy": True},
    "resources": {"actors": 1, "threads": 1},
    "network": {"superlink": "127.0.0.1:9092"},
}
"""Sections of ``site.toml`` for public data on one machine."""
MAX_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import wrote: records and patients by site, records left out by reason, what else is to be told."""

    records: Mapping[str, int]
    patients: Mapping[str, int]
    left_out: Mapping[str, int]
    study: Path
    notes: tuple[str, ...] = ()


def summary(sites: Mapping[str, pd.DataFrame], *, study: Path, left_out: Mapping[str, int] | None = None) -> Imported:
    """Count the samples tables of an import; each has a column ``patient_id``."""
    return Imported(
        records={name: len(table) for name, table in sites.items()},
        patients={name: table["patient_id"].nunique() for name, table in sites.items()},
        left_out=left_out or {},
        study=study,
    )


def missing(source: Path, names: Iterable[str], *, mend: str) -> list[Fault]:
    """A fault for each of the names that is not in the download."""
    absent = [name for name in names if not (source / name).exists()]
    return [Fault(file=str(source), key=name, problem="missing", mend=mend) for name in absent]


def listed(values: Sequence[object]) -> str:
    """The first few of the values, and how many more there are."""
    more = f" and {len(values) - MAX_LISTED} more" if len(values) > MAX_LISTED else ""
    return ", ".join(map(str, values[:MAX_LISTED])) + more


def incomplete(source: Path, what: str, faults: Sequence[Fault]) -> ConsiliumError:
    """The error of a download that is wrong or incomplete (exit code 12)."""
    message = f"{source} is not a complete {what} download: {len(faults)} fault(s)"
    return ConsiliumError(message, code=ExitCode.DATA, faults=faults)
