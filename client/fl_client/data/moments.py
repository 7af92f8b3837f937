"""When samples are predicted, and when rows of long tables happened: both in UTC, so that they can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data.findings import Findings
from fl_client.data.table import times

Stamps = NDArray[np.int64]
"""Microseconds since 1970 in UTC."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """When samples are predicted, by patient.

    patients: the P distinct ids; index_time: (N,) of every sample; order: (N,) sample numbers, patient by patient;
    start, count: (P,) where a patient's samples stand in ``order``.
    """

    patients: pd.Index
    index_time: Stamps
    order: NDArray[np.int64]
    start: NDArray[np.int64]
    count: NDArray[np.int64]

    @classmethod
    def of(cls, frame: pd.DataFrame, zone: ZoneInfo) -> Moments:
        """Those of the samples table; a sample without a readable index time belongs to nobody."""
        stamps, known = utc(frame["index_time"], zone, name="index_time", findings=Findings())
        number, patients = pd.factorize(frame["patient_id"].where(known))
        order = np.argsort(number, kind="stable")[(number < 0).sum() :]
        count = np.bincount(number[number >= 0], minlength=len(patients))
        return cls(
            patients=pd.Index(patients), index_time=stamps, order=order, start=np.cumsum(count) - count, count=count
        )

    def pairs(self, patient: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row numbers and sample numbers of every row with every sample of its patient.

        Args:
            patient: (R,) number in ``patients`` of each row.
        """
        n = self.count[patient]
        row = np.repeat(np.arange(len(patient)), n)
        within = np.arange(len(row)) - np.repeat(np.cumsum(n) - n, n)
        return row, self.order[np.repeat(self.start[patient], n) + within]


def utc(column: pd.Series, zone: ZoneInfo, *, name: str, findings: Findings) -> tuple[Stamps, NDArray[np.bool_]]:
    """Timestamps or ISO text -> stamps (R,) and which are known (R,); naive ones as `table.times` takes them."""
    told = Findings()
    if not pd.api.types.is_datetime64_any_dtype(column):
        column = times(column.astype(str).where(column.notna(), ""), zone, findings=told)
    elif column.dt.tz is None:
        told.repairs["naive"] += int(column.notna().sum())
        first = np.ones(len(column), dtype=bool)
        column = column.dt.tz_localize(zone, ambiguous=first, nonexistent="shift_forward")
    if naive := told.repairs.total():
        findings.repairs[f"{name}: time naive, taken in the site's time zone"] += naive
    stamps = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
    return stamps.astype(np.int64), column.notna().to_numpy()
