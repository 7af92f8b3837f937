from __future__ import annotations

import csv
import gzip
from collections import Counter, defaultdict
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from mimic_iv_tables import CENTURIES, INDEX, NEEDS_DEMO, SOURCE, moment, rows, table, write

from fl_shared import concepts
from fl_sites.importers import mimic_iv_source
from fl_sites.importers.mimic_iv import import_mimic_iv
from fl_sites.importers.mimic_iv_codes import CODES
from fl_sites.importers.mimic_iv_source import REQUIRED, stream

pytestmark = NEEDS_DEMO


def word(row):
    """The word of a result without a number: what is written, or the limit that only the comment tells."""
    if row["valuenum"]:
        return ""
    value = row["value"] if row["value"].strip("_ ") else ""
    text = (value or row["comments"]).strip().replace("LESS THAN ", "<").replace("GREATER THAN ", ">")
    if text[:1] in ("<", ">"):
        sign = text[:2] if text[1:2] == "=" else text[:1]
        rest = text.removeprefix(sign)
        digits = rest[: next((i for i, c in enumerate(rest) if c not in "0123456789."), len(rest))].rstrip(".")
        if digits and rest[len(digits) :].strip()[:1] in ("", ".", "*"):
            return sign + digits
    return value


def expected_events(stays, source=SOURCE):
    """The rows that must be written, as a multiset: (subject, time, code, number, word)."""
    of_patient = defaultdict(list)
    for stay in stays.values():
        of_patient[stay["subject"]].append(stay["index"])
    found, late = Counter(), 0
    for name, prefix in (("hosp/labevents", "LAB"), ("icu/outputevents", "OUTPUT")):
        for r in rows(name, source):
            mine = of_patient.get(r["subject_id"], [])
            time, stored = (moment(r["charttime"]), moment(r["storetime"])) if mine else (None, None)
            if not any(index - timedelta(days=7) < time <= index for index in mine):
                continue
            if stored and any(time <= index < stored for index in mine):
                late += 1
                continue
            number = r["valuenum" if prefix == "LAB" else "value"]
            said = word(r) if prefix == "LAB" else ""
            if number or said:
                code = f"{prefix}//{r['itemid']}//{r['valueuom'].strip() or 'UNK'}"
                number = float(np.float32(number)) if number else None
                found[int(r["subject_id"]), time - CENTURIES, code, number, said or None] += 1
    return found, late


def read_events(out, sites):
    """All sites' events as a multiset, and each site's frame."""
    frames = {site: pd.read_parquet(out / site / "events.parquet") for site in sites}
    found = Counter()
    for frame in frames.values():
        plain = frame.astype(object).where(frame.notna(), None)
        found.update((s, t.to_pydatetime(), c, v, w) for s, t, c, v, w in plain.itertuples(index=False, name=None))
    return found, frames


def test_events_equal_a_loop_over_the_tables(imported, samples, expected):
    out, done = imported
    want, late = expected_events(expected[0])
    found, frames = read_events(out, done.records)
    assert found == want
    assert late > 50  # results that nobody knew at the index time
    for site, frame in frames.items():
        assert set(frame["subject_id"].astype(str)) <= set(samples.loc[samples["site"] == site, "patient_id"])
        assert frame[["subject_id", "time", "code"]].equals(
            frame[["subject_id", "time", "code"]].sort_values(["subject_id", "time", "code"])
        )
    schema = pq.read_schema(out / "icu_medical" / "events.parquet")
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        **{"subject_id": "int64", "time": "timestamp[us]", "code": "string"},
        **{"numeric_value": "float", "text_value": "string"},
    }


def test_nothing_is_later_than_the_last_index_time(imported, samples):
    out, done = imported
    last = samples.assign(index=pd.to_datetime(samples["index_time"])).groupby("patient_id")["index"].max()
    _, frames = read_events(out, done.records)
    for site, frame in frames.items():
        assert (frame["time"] <= frame["subject_id"].astype(str).map(last)).all()
        table = pd.read_csv(out / site / "prescriptions.csv", dtype=str)
        assert (pd.to_datetime(table["time"]) <= table["subject_id"].map(last)).all()


def test_troponin_below_the_limit_is_a_result(imported):
    """Most are written as an empty value and '<0.01' among the comments."""
    _, frames = read_events(*imported[:1], imported[1].records)
    troponin = pd.concat(frames.values()).query("code == 'LAB//51003//ng/mL'")
    assert (troponin["text_value"] == "<0.01").sum() > 5
    assert troponin["numeric_value"].isna().equals(troponin["text_value"].notna())


def test_result_stored_after_the_index_time_is_not_an_input(small, tmp_path):
    labs = table(small, "hosp/labevents")
    row = labs[(labs["subject_id"] == "10004422") & (labs["itemid"] == "50912")].iloc[[0]]
    times = [(-1, 1, "1.11"), (-1, -0.5, "2.22"), (0, 0, "3.33"), (0.001, 1, "4.44"), (-7 * 24, -100, "5.55")]
    made = [
        row.assign(
            charttime=str(INDEX + timedelta(hours=at)), storetime=str(INDEX + timedelta(hours=to)), valuenum=value
        )
        for at, to, value in times
    ]
    made.append(row.assign(charttime=str(INDEX - timedelta(hours=2)), storetime="", valuenum="6.66"))
    write(small / "hosp" / "labevents.csv.gz", pd.concat([labs, *made]))
    import_mimic_iv(small, tmp_path / "out")
    found = pd.read_parquet(tmp_path / "out" / "icu_cardiac_surgery" / "events.parquet")["numeric_value"]
    assert {v for v in ("1.11", "2.22", "3.33", "4.44", "5.55", "6.66") if (found == np.float32(v)).any()} == {
        *("2.22", "3.33", "6.66")
    }


def test_prescriptions_equal_a_loop_over_the_table(imported, expected):
    out, done = imported
    until = defaultdict(list)
    for stay in expected[0].values():
        until[stay["hadm"]].append((stay["index"], stay["site"]))
    want = {site: set() for site in done.records}
    for r in rows("hosp/prescriptions"):
        last, site = max(until.get(r["hadm_id"], [(datetime.min, "")]))
        if r["drug_type"] != "BASE" and r["drug"] and r["starttime"] and moment(r["starttime"]) <= last:
            doses = float(r["doses_per_24_hrs"] or 0)
            often = f"{doses:g} in 24 h" if doses else ""
            time = str(moment(r["starttime"]) - CENTURIES)
            want[site].add((r["subject_id"], time, r["drug"], r["dose_val_rx"], r["dose_unit_rx"], r["route"], often))
    for site in done.records:
        with (out / site / "prescriptions.csv").open(encoding="utf-8", newline="") as lines:
            header, *found = csv.reader(lines)
        assert header == ["subject_id", "time", "drug", "dose", "unit", "route", "frequency"]
        assert len(found) == len(want[site]) and {tuple(row) for row in found} == want[site]
    assert sum(map(len, want.values())) > 2000


def test_codes_name_items_of_the_release_in_its_units():
    """Concepts and units are known; the unit in a code is the one that nearly all rows of the item have."""
    for held in CODES.values():
        assert held.unit in concepts.concept(held.concept).known_units
    labels = {r["itemid"]: r for r in rows("hosp/d_labitems")} | {r["itemid"]: r for r in rows("icu/d_items")}
    units = defaultdict(Counter)
    for r in rows("hosp/labevents"):
        units[r["itemid"]][r["valueuom"].strip() or "UNK"] += 1
    seen = 0
    for name in CODES:
        prefix, item, unit = name.split("//", 2)
        assert item in labels
        if prefix == "LAB":
            assert labels[item]["fluid"] == "Blood"
            seen += item in units
            assert not units[item] or unit in units[item]
            mapped = sum(n for u, n in units[item].items() if f"LAB//{item}//{u}" in CODES)
            assert mapped >= 0.99 * units[item].total()
        elif unit != "UNK":
            assert labels[item]["unitname"].lower() == unit.lower()
    assert seen >= 55


def test_a_table_four_times_as_large_takes_no_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(mimic_iv_source, "_BLOCK", 2**16)
    whole = gzip.decompress((SOURCE / "hosp" / "labevents.csv.gz").read_bytes())
    head, body = whole.split(b"\n", 1)
    most = {}
    for times in (1, 4):
        path = tmp_path / f"{times}.csv.gz"
        path.write_bytes(gzip.compress(head + b"\n" + body * times, 1))
        before, held, total = pa.total_allocated_bytes(), [], 0
        for block in stream(path, REQUIRED["hosp/labevents.csv.gz"], subjects=range(10_000_000, 10_010_000)):
            total += block.num_rows
            held.append(pa.total_allocated_bytes() - before)
        assert total == times * sum(int(row["subject_id"]) < 10_010_000 for row in rows("hosp/labevents"))
        most[times] = max(held)
    assert most[4] < 1.2 * most[1] < len(whole) / 2
