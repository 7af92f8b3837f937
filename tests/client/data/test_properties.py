"""What holds for every file: order means nothing, and damage is never fatal and never silent."""

from __future__ import annotations

import csv
import io
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_client.data.cohort import CheckReport, Cohort
from fl_client.data.ecg import WAVEFORM
from fl_client.data.findings import Findings, UnreadableError
from fl_client.data.load import load_cohort
from fl_client.data.table import times
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import Site, load_site
from fl_shared.study import Study

sys.path.insert(0, str(Path(__file__).parent))
from ecg_files import LEADS, edf_plus, group_of, heart, mapped, plan, read, write_dicom, write_wfdb

quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
few = settings(quick, max_examples=15)

SITE = """schema = 1
name = "drum_tower"
[columns]
age = { concept = "age" }
krea = { concept = "creatinine" }
[modalities.ehr]
kind = "table"
[modalities.ecg]
kind = "waveform"
column = "ecg_path"
[tasks.death]
columns = { value = "died" }
[tasks.survival]
columns = { time = "days", event = "died" }
unit = "d"
"""
COLUMNS = ("patient_id", "sample_id", "index_time", "age", "krea", "ecg_path", "died", "days")
ROWS = (
    ("00123", "a", "2020-01-01 10:00", "61", "80", "", "0", "300"),
    ("1e5", "b", "2020-02-01 11:30", "45.5", "<40", "", "1", "12"),
    ("病人三", "c", "2020-03-01T09:00Z", "70", "120", "", "0", "410"),
    ("00123", "d", "2021-01-01", "62", "95", "", "1", "33"),
)
STUDY = Study.model_validate(
    {
        "schema": 1,
        "name": "properties",
        "seed": 1,
        "sites": {"drum_tower": {"role": "train", "patients": 10}},
        "tasks": {"death": {"type": "binary"}, "survival": {"type": "survival"}},
        "modalities": {
            "ecg": {"kind": "waveform", "leads": LEADS, "rate": 50, "seconds": 1},
            "ehr": {"kind": "table", "fields": ["age", "creatinine"]},
        },
        "training": {"rounds": 1, "steps": 1, "batch": 2},
        "privacy": {"mode": "none"},
        "rounds": {"quorum": 1},
        "evaluation": {"salt": "salt and pepper"},
    }
)
SHORT = plan(rate=100.0, seconds=2.0)


def table(rows: list[tuple[str, ...]], columns: tuple[str, ...] = COLUMNS) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([columns, *rows])
    return out.getvalue().encode("utf-8", errors="replace")


def load(folder: Path, samples: bytes) -> tuple[Cohort, CheckReport]:
    return load_cohort(site_in(folder, samples), STUDY, workers=1)


def site_in(folder: Path, samples: bytes) -> Site:
    (folder / "site.toml").write_text(SITE)
    (folder / "samples.csv").write_bytes(samples)
    return load_site(folder)


def bits(cohort: Cohort) -> dict[str, Any]:
    """Everything in a cohort, arrays as bytes."""
    named: dict[str, Any] = {"ids": (cohort.sample_ids, cohort.patient_ids), "patient": cohort.patient.tobytes()}
    groups = {**cohort.inputs, "present": cohort.present, "targets": cohort.targets, "mask": cohort.target_mask}
    for group, arrays in groups.items():
        named |= {f"{group}.{name}": (array.shape, array.tobytes()) for name, array in arrays.items()}
    return named | {"held_out": cohort.held_out.tobytes()}


# order


def write_ecg(folder: Path, name: str, kind: str, seed: int, order: list[int]) -> str:
    """Sample ``seed`` in any format, its leads in any order."""
    x = (heart(rate=500, seconds=2) // (1 + seed % 3))[:, order]
    leads = [LEADS[k] for k in order]
    if kind == "wfdb":
        return write_wfdb(folder, name, x, leads=[lead.upper() for lead in leads])
    if kind == "dicom":
        return write_dicom(folder / f"{name}.dcm", group_of(x, leads=leads))
    (folder / f"{name}.edf").write_bytes(edf_plus(x, leads=leads))
    return f"{name}.edf"


@st.composite
def arrangements(draw: st.DrawFn) -> list[tuple[int, str, str, list[int]]]:
    """Row number, file name, format and lead order of every sample, rows in any order."""
    rows = draw(st.permutations(range(len(ROWS))))
    names = draw(st.permutations(["f1", "心电", "x-y", "z.9"]))
    kinds = draw(st.lists(st.sampled_from(["wfdb", "edf", "dicom"]), min_size=len(ROWS), max_size=len(ROWS)))
    return [
        (row, name, kind, draw(st.permutations(range(12)))) for row, name, kind in zip(rows, names, kinds, strict=True)
    ]


def arranged(arrangement: list[tuple[int, str, str, list[int]]], *, columns: list[int]) -> tuple[Cohort, CheckReport]:
    with tempfile.TemporaryDirectory() as made:
        rows = []
        for row, name, kind, order in arrangement:
            path = write_ecg(Path(made), name, kind, row, order)
            full = (*ROWS[row][:5], path, *ROWS[row][6:])
            rows.append(tuple(full[c] for c in columns))
        return load(Path(made), table(rows, tuple(COLUMNS[c] for c in columns)))


@cache
def in_order() -> dict[str, Any]:
    plain = [(row, f"f{row}", "wfdb", list(range(12))) for row in range(len(ROWS))]
    return bits(arranged(plain, columns=list(range(len(COLUMNS))))[0])


@few
@given(arrangements(), st.permutations(range(len(COLUMNS))))
def test_order_of_rows_columns_leads_and_files_and_their_format_change_no_bit(arrangement, columns):
    cohort, report = arranged(arrangement, columns=columns)
    assert bits(cohort) == in_order()
    assert not report.quarantined
    assert cohort.inputs["ecg"]["lead_mask"].all()


# damage of ECG files


@cache
def sound() -> tuple[Mapping[str, bytes], Mapping[str, bytes]]:
    """The files of one heart in every format, and the signal as bits."""
    with tempfile.TemporaryDirectory() as made:
        folder, x = Path(made), heart(seconds=3.0)
        write_wfdb(folder, "w", x)
        (folder / "e.edf").write_bytes(edf_plus(x))
        write_dicom(folder / "d.dcm", group_of(x))
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        signals = {name: read(folder, name, of=SHORT).arrays["signal"].tobytes() for name in ("w", "e.edf", "d.dcm")}
    return files, signals


OF = {"w.hea": "w", "w.dat": "w", "e.edf": "e.edf", "d.dcm": "d.dcm"}


def reread(part: str, data: bytes) -> bytes | UnreadableError:
    """The signal of a sample of which one file was replaced; whatever else is raised fails the test."""
    with tempfile.TemporaryDirectory() as made:
        for name, content in sound()[0].items():
            (Path(made) / name).write_bytes(data if name == part else content)
        try:
            WAVEFORM.files(Path(made), OF[part], mapped())
            sample = read(Path(made), OF[part], of=SHORT)
        except UnreadableError as error:
            assert error.check
            assert error.detail
            return error
    assert {n: (a.shape, a.dtype.name) for n, a in sample.arrays.items()} == dict(WAVEFORM.layout(SHORT))
    assert np.isfinite(sample.arrays["signal"]).all()
    assert sample.arrays["lead_mask"].any()
    return sample.arrays["signal"].tobytes()


@st.composite
def damages(draw: st.DrawFn, content: bytes) -> bytes:
    """Changed, cut out, inserted or cut off bytes, most of them where headers are."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        end = draw(st.sampled_from([300, 4000, len(content)]))
        at = draw(st.integers(0, min(end, len(data)) - 1)) if data else 0
        new = draw(
            st.one_of(
                st.binary(max_size=4), st.sampled_from([b"9999", b"-1", b"1e99", b"nan ", b"\0\0\0\0", b"\xff" * 4])
            )
        )
        data[at : at + draw(st.integers(0, 4))] = new
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.integers(0, 5)) == 0 else bytes(data)


@quick
@given(st.data(), st.sampled_from(sorted(OF)))
def test_damaged_ecg_files_are_set_aside_or_read_whole(data, part):
    reread(part, data.draw(damages(sound()[0][part])))


@quick
@given(st.data())
def test_a_changed_sample_of_a_wfdb_record_never_passes(data):
    content = bytearray(sound()[0]["w.dat"])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    found = reread("w.dat", bytes(content))
    assert isinstance(found, UnreadableError)
    assert found.check == "ecg-checksum"


@quick
@given(st.data(), st.sampled_from(["e.edf", "d.dcm"]))
def test_a_changed_sample_of_a_format_without_checksums_changes_the_signal(data, part):
    files, signals = sound()
    content, first = bytearray(files[part]), heart(seconds=3.0)[0].tobytes()
    start, length = (
        (256 * 14, 24 * 500) if part == "e.edf" else (content.index(first), 24 * 1000)
    )  # of the first seconds
    at = start + data.draw(st.integers(0, length - 1))
    content[at] ^= 1 << data.draw(st.integers(2, 7))
    assert reread(part, bytes(content)) != signals[part]


# times


ZONES = st.sampled_from(["UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])


@quick
@given(st.datetimes(datetime(1900, 1, 1), datetime(2036, 12, 31)), ZONES, st.sampled_from([" ", "T"]))
def test_times_are_those_of_the_standard_library(when, zone, between):
    aware = when.replace(tzinfo=ZoneInfo(zone))
    exists = aware.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == when
    written = [when.isoformat(between), aware.isoformat(between, "seconds"), "2020-01-01"]
    found = times(pd.Series(written), ZoneInfo(zone), findings=Findings())
    if exists:  # an hour that the clock skips is moved on
        assert found[0] == aware.astimezone(UTC)
    offset = aware.utcoffset()
    if offset is not None and offset.seconds % 60 == 0:  # local mean time has seconds, which ISO 8601 has no place for
        assert found[1] == aware.replace(microsecond=0).astimezone(UTC)


@quick
@given(
    st.lists(st.from_regex(r"[12][089]\d\d-?[01]\d-?[0-3]\d([T ][\d:.+Z -]{0,14})?", fullmatch=True), min_size=1), ZONES
)
def test_whatever_stands_for_a_time_is_a_time_or_unreadable(written, zone):
    found = times(pd.Series(written), ZoneInfo(zone), findings=Findings())
    assert str(found.dtype).endswith("UTC]")
    assert found.dropna().dt.year.between(1799, 3000).all()


# damage of the samples table


def cells(content: bytes) -> list[list[Any]] | None:
    """What a table tells (numbers as numbers), the index time left out; None when it is no table."""
    try:
        rows = [[c.strip() for c in row] for row in csv.reader(io.StringIO(content.decode("utf-8"), newline=""))]
    except (UnicodeDecodeError, csv.Error):
        return None
    keep = [c for c, name in enumerate(rows[0]) if name in COLUMNS and name != "index_time"] if rows else []
    return [[_number(row[c]) if c < len(row) else None for c in keep] for row in rows if any(row)]


def _number(text: str) -> Any:
    try:
        return float(text) if text not in {row[0] for row in ROWS} else text
    except ValueError:
        return text


def tables() -> bytes:
    return table([(*row[:5], "w", *row[6:]) for row in ROWS])


def outcome(content: bytes) -> tuple[str, Any]:
    """The cohort with its report, or the rejection; whatever else is raised fails the test."""
    with tempfile.TemporaryDirectory() as made:
        for name in ("w.hea", "w.dat"):
            (Path(made) / name).write_bytes(sound()[0][name])
        try:
            cohort, report = load(Path(made), content)
        except ConsiliumError as error:
            assert error.code == ExitCode.DATA
            assert error.faults
            return "rejected", None
        return "read", (bits(cohort), list(report.quarantined), dict(report.repairs))


@cache
def sound_outcome() -> tuple[str, Any]:
    return outcome(tables())


@quick
@given(damages(tables()))
def test_a_damaged_table_is_rejected_or_reported_or_tells_the_same(content):
    found = outcome(content)
    if found == sound_outcome():
        assert cells(content) == cells(tables())


@quick
@given(st.lists(st.tuples(*[st.one_of(st.text(max_size=12), st.sampled_from(ROWS[0]))] * len(COLUMNS)), max_size=4))
def test_any_text_in_a_table_is_rejected_or_set_aside(rows):
    outcome(table(rows))
