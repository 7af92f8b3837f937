"""Who is in the samples table: patients, their records in time, and which line of the file each is."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from fl_client.data.cohort import Quarantined
from fl_client.data.findings import Findings
from fl_client.data.table import HEADER_LINES, REQUIRED, read_samples, require, times
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import Site


@dataclass(frozen=True, kw_only=True)
class Record:
    """A row of the samples table; line: in the file; when: the index time, None where it cannot be read."""

    patient: str
    sample: str
    line: int
    when: pd.Timestamp | None


@dataclass(frozen=True, kw_only=True)
class Register:
    """All records, in the order of the file."""

    records: Sequence[Record]

    @classmethod
    def of(cls, site: Site) -> Register:
        """Read the samples table.

        Raises:
            ConsiliumError: it cannot be read (exit code 12).
        """
        findings, file = Findings(), site.samples_path.name
        frame = read_samples(site.samples_path, encoding=site.encoding, findings=findings)
        if not findings.rejects:
            require(frame, dict.fromkeys(REQUIRED, "required"), file=file, findings=findings)
        if findings.rejects:
            message = f"{site.name}: the data are rejected, {len(findings.rejects)} fault(s)"
            raise ConsiliumError(message, code=ExitCode.DATA, faults=findings.rejects)
        moments = times(frame["index_time"], site.zone, findings=Findings())
        columns = (frame["patient_id"], frame["sample_id"], frame.index, moments)
        return cls(
            records=tuple(
                Record(patient=p, sample=s, line=int(at) + HEADER_LINES, when=None if pd.isna(when) else when)
                for p, s, at, when in zip(*columns, strict=True)
            )
        )

    @cached_property
    def of_patient(self) -> Mapping[str, tuple[Record, ...]]:
        """Patient -> records, the latest first."""
        found: dict[str, list[Record]] = {}
        for record in self.records:
            found.setdefault(record.patient, []).append(record)
        first = pd.Timestamp.min.tz_localize("UTC")
        return {p: tuple(sorted(each, key=lambda r: r.when or first, reverse=True)) for p, each in found.items()}

    def known(self, patient: str) -> str:
        """The id itself, when there is such a patient.

        Raises:
            ConsiliumError: there is none; the nearest ids are named, on this site's own screen (exit code 2).
        """
        if patient in self.of_patient:
            return patient
        close = difflib.get_close_matches(patient, self.of_patient, n=3, cutoff=0.6)
        mend = (
            f"Did you mean {' or '.join(map(repr, close))}?" if close else f"It names {len(self.of_patient)} patients."
        )
        raise ConsiliumError(f"no patient '{patient}' in the samples table. {mend}", code=ExitCode.USAGE)

    def aside(self, quarantined: Sequence[Quarantined]) -> dict[str, list[Quarantined]]:
        """Patient -> what of theirs was set aside."""
        patient = {record.line: record.patient for record in self.records}
        found: dict[str, list[Quarantined]] = {}
        for item in quarantined:
            found.setdefault(patient[item.row], []).append(item)
        return found
