"""Events against a plain loop over rows: windows, borders, clocks, units, words; damaged and foreign files."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_client.data.events import read_events
from fl_client.data.findings import Findings
from fl_shared.concepts import concept
from fl_shared.site import EventTable, Site
from fl_shared.study import ModalityPlan

BERLIN = ZoneInfo("Europe/Berlin")
CODES = {
    "HR": {"concept": "heart_rate"},
    "K//mmol": {"concept": "potassium"},
    "K//meq": {"concept": "potassium", "unit": "meq/L"},
    "CREA": {"concept": "creatinine", "unit": "mg/dL"},
    "VENT": {"concept": "mechanical_ventilation"},
    "NYHA": {"concept": "nyha", "codes": {"I": 1, "II": 2, "2": 2}},
}
FIELDS = ("heart_rate", "potassium", "creatinine", "mechanical_ventilation", "nyha")
COLUMNS = ["subject_id", "time", "code", "numeric_value", "text_value"]


def plan_of(*, hours: float = 48.0, bins: int = 4, gap_hours: float = 0.0, fields=FIELDS) -> ModalityPlan:
    return ModalityPlan(kind="events", hours=hours, bins=bins, gap_hours=gap_hours, fields=fields)


def read(folder: Path, samples, events, *, plan=None, codes=None, file="events.parquet", zone="Europe/Berlin", **site):
    """``samples``: (patient, index time); ``events``: rows of COLUMNS, or a frame."""
    if events is not None:
        table = events if isinstance(events, pd.DataFrame) else pd.DataFrame(events, columns=COLUMNS)
        table.to_csv(folder / file, index=False) if ".csv" in file else table.to_parquet(folder / file, index=False)
    frame = pd.DataFrame(samples, columns=["patient_id", "index_time"], dtype=str)
    at = Site.model_validate({"schema": 1, "name": "s", "timezone": zone, **site})
    at._folder = folder
    mapped = EventTable.model_validate({"kind": "events", "file": file, "codes": CODES if codes is None else codes})
    findings = Findings()
    found = read_events(frame, site=at, plan=plan or plan_of(), mapped=mapped, name="vitals", findings=findings)
    return found, findings


def loop(samples, events, plan) -> tuple[np.ndarray, np.ndarray]:
    """The definition, an event and a sample at a time."""
    cells: dict[tuple[int, int, int], list[float]] = {}
    for i, (patient, index) in enumerate(samples):
        end = local(index) - timedelta(hours=plan.gap_hours)
        for subject, time, code, number, _ in events:
            if subject != patient or number is None or code not in CODES:
                continue
            age = (end - local(time)).total_seconds() / 3600
            if not 0 <= age < plan.hours:
                continue
            what = concept(CODES[code]["concept"])
            value = number * (88.40 if code == "CREA" else 1.0)
            if not what.min <= value <= what.max:
                continue
            at = math.ceil(round((plan.hours - age) * plan.bins / plan.hours, 9)) - 1
            low, high, value = (math.log(x) if what.log else x for x in (what.low, what.high, value))
            cells.setdefault((i, at, plan.fields.index(what.name)), []).append(2 * (value - low) / (high - low) - 1)
    values = np.zeros((len(samples), plan.bins, len(plan.fields)), dtype=np.float32)
    for cell, found in cells.items():
        values[cell] = math.fsum(found) / len(found)
    observed = np.zeros(values.shape, dtype=bool)
    observed[tuple(zip(*cells, strict=True))] = bool(cells) if cells else False
    return values, observed


def local(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if datetime(2020, 3, 29, 2) <= when < datetime(2020, 3, 29, 3):  # the hour that the clock skips
        when = datetime(2020, 3, 29, 3)
    return when.replace(tzinfo=BERLIN).astimezone(UTC)


def many(seed: int, n: int = 400) -> tuple[list, list]:
    rng = np.random.default_rng(seed)
    samples = [
        (f"{p:03d}", f"2020-03-{day:02d} 12:00")
        for p, day in zip(rng.integers(0, 6, 12), rng.integers(26, 32, 12), strict=True)
    ]
    start = datetime(2020, 3, 23)
    events = []
    for _ in range(n):
        code = str(rng.choice(["HR", "K//mmol", "K//meq", "CREA", "other"]))
        number = float(rng.uniform(20, 200)) if code == "HR" else float(rng.uniform(0.5, 13))
        when = start + timedelta(minutes=int(rng.integers(0, 9 * 24 * 60)))
        events.append((f"{rng.integers(0, 8):03d}", when.isoformat(sep=" "), code, number, None))
    return samples, events


@pytest.mark.parametrize("file", ["events.parquet", "events.csv", "events.csv.gz"])
@pytest.mark.parametrize(("hours", "bins", "gap"), [(48.0, 4, 0.0), (24.0, 7, 6.0), (5.5, 1, 0.0), (96.0, 96, 12.5)])
def test_equals_the_loop_over_the_change_to_summer_time(tmp_path, file, hours, bins, gap):
    samples, events = many(3)
    plan = plan_of(hours=hours, bins=bins, gap_hours=gap)
    found, findings = read(tmp_path, samples, events, plan=plan, file=file)
    values, observed = loop(samples, events, plan)
    np.testing.assert_array_equal(found.observed, observed)
    np.testing.assert_allclose(found.values, values, atol=1e-6)
    assert not findings.rejects
    assert observed.any()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), order=st.randoms(use_true_random=False))
def test_shuffled_rows_give_the_same_bits(tmp_path, seed, order):
    samples, events = many(seed, n=120)
    plain, _ = read(tmp_path, samples, events, plan=plan_of(bins=2))
    order.shuffle(events)
    shuffled, _ = read(tmp_path, samples, events, plan=plan_of(bins=2))
    assert plain.values.tobytes() == shuffled.values.tobytes()
    assert plain.observed.tobytes() == shuffled.observed.tobytes()


def heart_rates(found, sample: int = 0) -> list[float]:
    """Heart rates by bin; NaN where there is none."""
    what, scaled = concept("heart_rate"), found.values[sample, :, 0].astype(float)
    back = (scaled + 1) / 2 * (what.high - what.low) + what.low
    return np.where(found.observed[sample, :, 0], back.round(3), np.nan).tolist()


def test_borders_of_window_and_bins(tmp_path):
    times = {
        "2020-01-01 12:00:00": 60,  # begins the window: left out
        "2020-01-01 12:00:01": 70,
        "2020-01-02 00:00:00": 80,  # still in the first bin
        "2020-01-02 00:00:00.000001": 90,
        "2020-01-03 12:00:00": 100,  # the index time: kept
        "2020-01-03 12:00:00.000001": 250,  # a microsecond later: never
        "2020-01-04 12:00:00": 250,
    }
    events = [("7", time, "HR", value, None) for time, value in times.items()]
    found, findings = read(tmp_path, [("7", "2020-01-03 12:00")], events)
    np.testing.assert_array_equal(heart_rates(found), [75, 90, np.nan, 100])
    assert findings.repairs["vitals: after the index time, never used"] == 2
    found, _ = read(tmp_path, [("7", "2020-01-03 12:00")], events, plan=plan_of(gap_hours=0.5))
    np.testing.assert_array_equal(heart_rates(found), [65, 85, np.nan, np.nan])  # all bins begin half an hour earlier


def test_nothing_after_the_index_time_changes_anything(tmp_path):
    samples, events = many(5)
    late = [(p, "2020-04-02 08:00", "HR", 299.0, None) for p, _ in samples] * 3
    future = [(p, "2999-01-01", "HR", 299.0, None) for p, _ in samples]
    plain, _ = read(tmp_path, samples, events)
    found, findings = read(tmp_path, samples, [*late, *events, *future])
    assert plain.values.tobytes() == found.values.tobytes()
    assert findings.repairs["vitals: dated in the future, never used"] == 12


def test_repeated_hours_of_autumn_are_told_apart_by_offsets(tmp_path):
    events = [
        ("7", "2020-10-25 02:30:00+02:00", "HR", 60.0, None),
        ("7", "2020-10-25 02:30:00", "HR", 62.0, None),  # naive: the first
        ("7", "2020-10-25T01:30:00Z", "HR", 100.0, None),  # 02:30 again, an hour later
    ]
    found, findings = read(tmp_path, [("7", "2020-10-25 03:00")], events, plan=plan_of(hours=2.0, bins=2))
    np.testing.assert_array_equal(heart_rates(found), [61, 100])
    assert findings.repairs["vitals: time naive, taken in the site's time zone"] == 1


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Shanghai"])
def test_timestamps_are_naive_in_the_sites_zone_or_say_theirs(tmp_path, unit, zone):
    stamps = pd.to_datetime(["2020-10-25 02:30", "2020-03-29 02:30"]).as_unit(unit)  # twice there; never there
    stamps = stamps if zone is None else stamps.tz_localize(zone)
    events = pd.DataFrame({"subject_id": [7, 7], "time": stamps, "code": "HR", "numeric_value": [60.0, 80.0]})
    found, findings = read(
        tmp_path, [("7", "2020-10-25T00:30Z"), ("7", "2020-03-29T01:00Z")], events, plan=plan_of(hours=0.5, bins=1)
    )
    shown = [heart_rates(found, 0), heart_rates(found, 1)]
    assert (shown == [[60], [80]]) == (zone is None)  # daylight saving is settled as in the samples table
    assert findings.repairs.get("vitals: time naive, taken in the site's time zone", 0) == (2 if zone is None else 0)


def test_ids_are_compared_as_text(tmp_path):
    samples = [("00123", "2020-01-02"), ("123", "2020-01-02"), ("1e5", "2020-01-02")]
    rows = [(p, "2020-01-01 12:00", "HR", 60.0, None) for p in ("00123", " 1e5 ")]
    found, _ = read(tmp_path, samples, rows)
    assert found.observed.any((1, 2)).tolist() == [True, False, True]
    found, _ = read(tmp_path, samples, rows, file="events.csv")
    assert found.observed.any((1, 2)).tolist() == [True, False, True]
    integers = pd.DataFrame(rows, columns=COLUMNS).assign(subject_id=[123, 5])
    found, findings = read(tmp_path, samples, integers)
    assert found.observed.any((1, 2)).tolist() == [False, True, False]
    assert not findings.rejects
    found, findings = read(tmp_path, samples[:1], integers)
    assert [fault.problem for fault in findings.rejects] == ["no id is a patient_id of the samples table"]
    found, findings = read(tmp_path, samples, integers.assign(subject_id=[123.0, 5.0]))
    assert [fault.problem for fault in findings.rejects] == ["ids are floating-point"]
    assert not found.observed.any()


def test_codes_of_one_concept_have_their_own_units_and_the_implausible_is_missing(tmp_path):
    day = "2020-01-01 12:00"
    events = [
        ("7", day, "K//mmol", 4.0, None), ("7", day, "K//meq", 5.0, None), ("7", day, "K//mmol", 400.0, None),
        ("7", day, "CREA", 1.0, None), ("7", day, "CREA", 120.0, None), ("7", day, "CREA", 95.0, None),
        ("7", day, "CREA", np.inf, None),
    ]  # fmt: skip
    found, findings = read(tmp_path, [("7", "2020-01-02")], events, plan=plan_of(bins=1))
    potassium, creatinine = concept("potassium"), concept("creatinine")
    mean = (4.5 - potassium.low) / (potassium.high - potassium.low) * 2 - 1
    assert found.values[0, 0, 1] == pytest.approx(mean, abs=1e-6)
    log = np.log(88.4 / creatinine.low) / np.log(creatinine.high / creatinine.low) * 2 - 1
    assert found.values[0, 0, 2] == pytest.approx(log, abs=1e-6)
    assert findings.repairs["creatinine: implausible, set missing (is the unit 'umol/L', not 'mg/dL'?)"] == 2
    assert findings.repairs["potassium: implausible, set missing"] == 1
    assert findings.repairs["creatinine: not a number, set missing"] == 1


@pytest.mark.parametrize("file", ["events.parquet", "events.csv"])
def test_limits_and_words_stand_in_the_text(tmp_path, file):
    day = "2020-01-01 12:00"
    events = [
        ("1", day, "CREA", None, "<0.5"), ("2", day, "CREA", None, "HEMOLYZED"), ("3", day, "CREA", None, " n/a "),
        ("4", day, "CREA", 1.0, "normal"), ("1", day, "VENT", 1.0, None), ("2", day, "VENT", None, "no"),
        ("1", day, "NYHA", None, "II"), ("2", day, "NYHA", 2.0, None),
    ]  # fmt: skip
    found, findings = read(tmp_path, [(p, "2020-01-02") for p in "1234"], events, plan=plan_of(bins=1), file=file)
    assert found.observed[:, 0, 2].tolist() == [True, False, False, True]
    assert found.observed[:, 0, 3].tolist() == [True, True, False, False]
    assert found.values[:2, 0, 3].tolist() == [1, -1]
    assert found.values[:2, 0, 4].tolist() == pytest.approx([-1 / 3] * 2)
    assert findings.repairs["creatinine: beyond the assay's limit, the limit taken"] == 1
    assert findings.repairs["creatinine: not a number, set missing"] == 1
    assert not findings.rejects


def test_a_csv_may_hold_limits_in_the_column_of_numbers(tmp_path):
    (tmp_path / "events.csv").write_text(
        "code,subject_id,time,numeric_value\nCREA,1,2020-01-01,<0.5\nCREA,2,2020-01-01,NA\n"
    )
    found, findings = read(
        tmp_path, [("1", "2020-01-02"), ("2", "2020-01-02")], None, plan=plan_of(bins=1), file="events.csv"
    )
    assert found.observed[:, 0, 2].tolist() == [True, False]
    assert findings.repairs["creatinine: beyond the assay's limit, the limit taken"] == 1


def test_unknown_words_concepts_and_units_are_rejects(tmp_path):
    events = [("1", "2020-01-01", "NYHA", None, "V?")] * 2
    _, findings = read(tmp_path, [("1", "2020-01-02")], events)
    [fault] = findings.rejects
    assert (fault.key, fault.value, fault.problem) == (
        "modalities.vitals.codes.NYHA.codes",
        "'V?' (2 rows)",
        "unknown code",
    )
    codes = {"a": {"concept": "heart_rat"}, "b": {"concept": "creatinine", "unit": "mg/l"}}
    _, findings = read(tmp_path, [("1", "2020-01-02")], events, codes=codes)
    assert [(fault.key, fault.problem) for fault in findings.rejects] == [
        ("modalities.vitals.codes.a", "unknown concept"), ("modalities.vitals.codes.b.unit", "unknown unit"),
    ]  # fmt: skip
    assert "heart_rate" in findings.rejects[0].mend


def test_what_is_not_mapped_or_never_occurs_is_told(tmp_path):
    events = [("1", "2020-01-01", "HR", 70.0, None), ("1", None, "HR", 70.0, None), ("1", "soon", "HR", 70.0, None)]
    _, findings = read(
        tmp_path, [("1", "2020-01-02")] * 3, events, plan=plan_of(fields=("heart_rate", "potassium", "lactate"))
    )
    assert findings.repairs["vitals: lactate not mapped at this site, nowhere observed"] == 3
    assert findings.repairs["vitals: code 'K//meq' occurs for no patient"] == 1
    assert findings.repairs["vitals: time missing or unreadable, never used"] == 2


def test_encodings_and_categories(tmp_path):
    text = "subject_id,time,code,numeric_value\n张三,2020-01-01,心率,70\n"
    (tmp_path / "events.csv").write_bytes(text.encode("gb18030"))
    codes = {"心率": {"concept": "heart_rate"}}
    found, findings = read(tmp_path, [("张三", "2020-01-02")], None, codes=codes, file="events.csv", encoding="gb18030")
    assert found.observed.any()
    _, findings = read(tmp_path, [("张三", "2020-01-02")], None, codes=codes, file="events.csv")
    assert [fault.problem for fault in findings.rejects] == ["not in the declared encoding"]
    table = pd.DataFrame([("1", "2020-01-01", "HR", 70, "x")], columns=COLUMNS).astype(
        {"code": "category", "text_value": "category", "time": "category", "subject_id": "category"}
    )
    found, findings = read(tmp_path, [("1", "2020-01-02")], table)
    assert heart_rates(found)[2] == 70 or heart_rates(found)[1] == 70
    assert not findings.rejects


def test_a_folder_of_shards_is_one_table(tmp_path):
    samples, events = many(2)
    whole, _ = read(tmp_path, samples, events)
    (tmp_path / "data" / "train").mkdir(parents=True)
    for k in range(3):
        pd.DataFrame(events[k::3], columns=COLUMNS).to_parquet(tmp_path / "data" / "train" / f"{k}.parquet")
    shards, findings = read(tmp_path, samples, None, file="data")
    assert shards.values.tobytes() == whole.values.tobytes()
    (tmp_path / "empty").mkdir()
    _, findings = read(tmp_path, samples, None, file="empty")
    assert [fault.problem for fault in findings.rejects] == ["cannot be read"]


def test_a_csv_of_many_blocks_with_line_breaks_in_cells(tmp_path):
    """The reader takes a MiB at a time."""
    filler = [("9", "2020-01-01", "note", None, "two\nlines, and more " * 40)] * 2000
    found, findings = read(
        tmp_path, [("7", "2020-01-02")], [*filler, ("7", "2020-01-01 12:00", "HR", 70.0, None), *filler],
        plan=plan_of(bins=1), file="events.csv",
    )  # fmt: skip
    assert (tmp_path / "events.csv").stat().st_size > 3 * 2**20
    assert heart_rates(found) == [70]
    assert not findings.rejects


def test_foreign_columns_and_types_are_rejects(tmp_path):
    rows = pd.DataFrame([("1", "2020-01-01", "HR", 70.0, None)], columns=COLUMNS)
    _, findings = read(
        tmp_path,
        [("1", "2020-01-02")],
        rows.rename(columns={"subject_id": "subject", "numeric_value": "value"}).drop(columns="text_value"),
    )
    assert [(fault.key, fault.problem) for fault in findings.rejects] == [
        ("subject_id", "column is missing (MEDS)"), ("numeric_value", "column is missing (MEDS)"),
    ]  # fmt: skip
    _, findings = read(tmp_path, [("1", "2020-01-02")], rows.assign(time=20200101))
    assert [(fault.key, fault.problem) for fault in findings.rejects] == [("time", "not a time")]
    found, findings = read(tmp_path, [], rows)
    assert found.values.shape == (0, 4, 5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), file=st.sampled_from(["events.parquet", "events.csv"]))
def test_damage_is_a_reject_or_leaves_readable_values(tmp_path, data, file):
    samples, events = many(1, n=40)
    read(tmp_path, samples, events, file=file)
    body = bytearray((tmp_path / file).read_bytes())
    kind = data.draw(st.sampled_from(["cut", "flip", "garbage"]))
    at = data.draw(st.integers(0, len(body) - 1))
    if kind == "cut":
        body = body[:at]
    elif kind == "flip":
        body[at] ^= data.draw(st.integers(1, 255))
    else:
        body[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    (tmp_path / file).write_bytes(body)
    found, findings = read(tmp_path, samples, None, file=file)
    assert np.isfinite(found.values).all()
    assert not any("2020" in str(fault) for fault in findings.rejects)  # no row is quoted
    if kind == "cut" and file.endswith("parquet"):
        assert findings.rejects


CHILD = """
import sys
from pathlib import Path
import pandas as pd
from fl_client.data.events import read_events
from fl_client.data.findings import Findings
from fl_shared.site import EventTable, Site
from fl_shared.study import ModalityPlan
frame = pd.DataFrame({"patient_id": ["0"], "index_time": ["2020-01-03"]})
site = Site.model_validate({"schema": 1, "name": "s"})
plan = ModalityPlan(kind="events", hours=48.0, fields=("heart_rate",))
mapped = EventTable.model_validate(
    {"kind": "events", "file": sys.argv[1], "codes": {"HR": {"concept": "heart_rate"}}}
)
found = read_events(frame, site=site, plan=plan, mapped=mapped, name="vitals", findings=Findings())
assert found.observed.any()
[peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
print(peak)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Ten times the rows; the text that comes with them is 360 MB more."""
    n = 5_000
    rows = {
        "subject_id": np.arange(n),
        "time": pd.Timestamp("2020-01-01 01:00") + pd.to_timedelta(np.arange(n) % 1000, unit="m"),
        "code": np.where(np.arange(n) % 100 == 0, "HR", "other"),
        "numeric_value": np.full(n, 70.0, dtype=np.float32),
        "text_value": ["a long text that nobody reads" + " and reads" * 200] * n,
    }
    group, peaks = pa.Table.from_pandas(pd.DataFrame(rows)), []
    for groups in (4, 40):
        with pq.ParquetWriter(tmp_path / "events.parquet", group.schema) as writer:
            for _ in range(groups):
                writer.write_table(group)
        command = [sys.executable, "-c", CHILD, str(tmp_path / "events.parquet")]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 120_000  # KiB
