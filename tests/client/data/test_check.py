"""The check's numbers against plain pandas; what outsiders see, and what only the hospital does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from fl_client.data.check import check_site, examine, render, summary
from fl_client.data.checking.disclosure import FEW, Teller
from fl_client.data.checking.histogram import edges, histogram
from fl_client.data.checking.wanted import wanted_by
from fl_client.data.checking.words import number, unit
from fl_shared import concepts
from fl_shared.site import Site, load_site

TOML = """
schema = 1
name = "drum_tower"
title = "Drum Tower"
timezone = "Asia/Shanghai"
{extra}
[columns.Alter]
concept = "age"
[columns.Geschlecht]
concept = "sex"
codes = {{ m = 0, w = 1 }}
[columns.Krea]
concept = "creatinine"
unit = "mg/dL"
[columns.NYHA]
concept = "nyha"
[columns.Zucker]
concept = "diabetes"
[modalities.ehr]
kind = "table"
[tasks.death]
columns = {{ value = "tot" }}
[tasks.events]
columns = {{ stroke = "schlag", infarct = "infarkt" }}
[tasks.cause]
columns = {{ value = "ursache" }}
classes = {{ H = "heart", K = "cancer", U = "other" }}
[tasks.stay]
type = "regression"
columns = {{ value = "tage" }}
unit = "d"
[tasks.survival]
columns = {{ time = "monate", event = "ereignis" }}
unit = "mo"
"""
LABELS = ["tot", "schlag", "infarkt", "ursache", "tage", "monate", "ereignis"]


def draw(n: int, *, seed: int = 0) -> pd.DataFrame:
    """Samples of n patients as a hospital writes them, a seventh of the patients with two."""
    rng = np.random.default_rng(seed)
    patient = np.sort(np.concatenate([np.arange(n), rng.choice(n, n // 7, replace=False)]))
    size = len(patient)
    frame = pd.DataFrame(
        {
            "patient_id": [f"secret{p:05}" for p in patient],
            "sample_id": [f"hidden{k:05}" for k in range(size)],
            "index_time": "2020-01-01 10:00",
            "Alter": rng.integers(40, 90, size).astype(str),
            "Geschlecht": rng.choice(["m", "w"], size),
            "Krea": np.round(rng.lognormal(0.1, 0.4, size), 2).astype(str),
            "NYHA": rng.choice(["I", "II", "III", "IV"], size, p=[0.5, 0.3, 0.19, 0.01]),
            "Zucker": rng.choice(["no", "yes"], size, p=[0.8, 0.2]),
            "tot": rng.choice(["0", "1"], size, p=[0.7, 0.3]),
            "schlag": rng.choice(["0", "1"], size, p=[0.99, 0.01]),
            "infarkt": rng.choice(["0", "1", ""], size, p=[0.5, 0.2, 0.3]),
            "ursache": rng.choice(["H", "K", "U", ""], size, p=[0.5, 0.27, 0.01, 0.22]),
            "tage": rng.integers(1, 60, size).astype(str),
            "monate": np.round(rng.exponential(20, size) + 0.1, 2).astype(str),
            "ereignis": rng.choice(["0", "1"], size, p=[0.6, 0.4]),
        }
    )
    frame.loc[rng.random(size) < 0.2, "Krea"] = ""
    return frame


@pytest.fixture
def write(tmp_path: Path):
    def make(frame: pd.DataFrame, *, extra: str = "", more: str = "", toml: str = TOML) -> Site:
        frame.to_csv(tmp_path / "samples.csv", index=False)
        (tmp_path / "site.toml").write_text(toml.format(extra=extra) + more, encoding="utf-8")
        return load_site(tmp_path)

    return make


def told(site: Site, *, local: bool, study: Any = None) -> dict[str, Any]:
    cohort, report = examine(site, study, workers=1)
    found = summary(report, cohort, site=site, study=study, local=local)
    return json.loads(json.dumps(found))


def entry(found: dict[str, Any], concept: str) -> dict[str, Any]:
    (item,) = (item for item in found["table_1"] if item["concept"] == concept)
    return item


def counts(value: Any) -> Iterator[int]:
    """Every whole number of a summary, but for the numbers of bins and of faults."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("bins", "rejects", "edges", "from", "to"):
                yield from counts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from counts(inner)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def test_table_1_equals_what_pandas_counts(write):
    frame = draw(300)
    found = told(write(frame), local=True)
    assert [item["concept"] for item in found["table_1"]] == ["age", "sex", "creatinine", "nyha", "diabetes"]
    age, krea = frame["Alter"].astype(float), frame["Krea"].replace("", np.nan).dropna().astype(float) * 88.4
    for item, values in ((entry(found, "age"), age), (entry(found, "creatinine"), krea)):
        expected = {"median": 0.5, "q1": 0.25, "q3": 0.75, "min": 0.0, "max": 1.0}
        for name, q in expected.items():
            assert item[name] == pytest.approx(values.quantile(q), rel=5.01e-3), name  # three digits
        assert (item["observed"], item["missing"]) == (len(values), len(frame) - len(values))
    for concept, column, words in (("sex", "Geschlecht", {"m": "male", "w": "female"}), ("nyha", "NYHA", {})):
        expected = frame[column].replace(words).value_counts()
        parts = {part["value"]: part for part in entry(found, concept)["values"]}
        assert {value: part["count"] for value, part in parts.items()} == expected.to_dict()
        assert all(parts[v]["percent"] == round(100 * n / len(frame), 1) for v, n in expected.items())
    assert (found["rows"], found["samples"], found["patients"]) == (len(frame), len(frame), 300)
    assert found["training_patients"] + found["held_out_patients"] == 300


def test_table_1_needs_no_study_that_wants_the_column(write, study):
    site = write(draw(60))
    only = replace_study(study, modalities={"ehr": {"kind": "table", "fields": ["age"]}})
    found = told(site, local=True, study=only)
    assert found["study"] == "prognosis"
    assert set(found["missing"]["ehr"]["fields"]) == {"age"}
    assert entry(found, "creatinine")["median"] == entry(told(site, local=True), "creatinine")["median"]


def replace_study(study, **changes):
    return type(study).model_validate(study.model_dump(mode="json", by_alias=True) | changes)


def test_outcomes_of_every_type_equal_what_pandas_counts(write):
    frame = draw(400, seed=3)
    found = told(write(frame), local=True)
    labels, n = found["labels"], len(frame)
    assert {name: task["type"] for name, task in found["tasks"].items()} == {
        "death": "binary", "events": "multilabel", "cause": "multiclass", "stay": "regression", "survival": "survival",
    }  # fmt: skip
    assert labels["death"] == [{"labelled": n, "positive": int((frame["tot"] == "1").sum())}]
    infarct = frame["infarkt"]
    assert labels["events"][1] == {
        "label": "infarct", "labelled": int((infarct != "").sum()), "positive": int((infarct == "1").sum()),
    }  # fmt: skip
    cause = frame["ursache"].replace({"H": "heart", "K": "cancer", "U": "other", "": np.nan})
    assert {e["label"]: e["count"] for e in labels["cause"]} == cause.value_counts().to_dict()
    assert {e["labelled"] for e in labels["cause"]} == {int(cause.notna().sum())}
    days = frame["tage"].astype(float)
    stay = labels["stay"][0]
    assert (stay["labelled"], stay["median"], stay["q1"]) == (
        n,
        days.median(),
        pytest.approx(days.quantile(0.25), 5e-3),
    )
    survival = labels["survival"][0]
    assert (survival["labelled"], survival["events"]) == (n, int((frame["ereignis"] == "1").sum()))
    months, event = frame["monate"].astype(float), frame["ereignis"] == "1"
    assert survival["median_follow_up_days"] == pytest.approx(reverse_kaplan_meier(months * 30.4375, event), rel=5e-3)


MORE = """
[tasks.end]
type = "competing"
columns = { time = "monate", cause = "ursache" }
classes = { H = "heart", K = "cancer", U = "other" }
unit = "mo"
"""


def test_competing_causes_are_counted_and_the_censored_are_the_rest(write):
    frame = draw(400, seed=3)
    found = told(write(frame, more=MORE), local=True)
    assert found["tasks"]["end"] == {"type": "competing", "unit": "mo"}
    counted = frame["ursache"].value_counts()
    assert [(e["label"], e["labelled"], e["events"]) for e in found["labels"]["end"]] == [
        (label, len(frame), int(counted[code])) for label, code in (("heart", "H"), ("cancer", "K"), ("other", "U"))
    ]
    days = reverse_kaplan_meier(frame["monate"].astype(float) * 30.4375, frame["ursache"] != "")
    for e in found["labels"]["end"]:
        assert e["median_follow_up_days"] == pytest.approx(days, rel=5e-3)
    outside = told(write(frame, more=MORE), local=False)["labels"]
    ends = {e["label"]: e["events"] for e in outside["end"]}
    # the task 'cause' tells how many have a cause: with both others told, the few could be had by subtraction
    assert outside["cause"][0]["labelled"] == counted[["H", "K", "U"]].sum() and counted["U"] < FEW
    assert ends == {"heart": counted["H"], "cancer": "withheld", "other": "<10"}


def reverse_kaplan_meier(days: pd.Series, event: pd.Series) -> float:
    """Median time to censoring, by the product limit in a plain loop."""
    left = 1.0
    for day in sorted(set(days)):
        at_risk, censored = (days >= day).sum(), ((days == day) & ~event).sum()
        left *= 1 - censored / at_risk
        if left <= 0.5:
            return day
    return np.nan


def test_outsiders_are_told_no_small_cell(write):
    frame = draw(300, seed=1)
    frame.loc[:2, "Geschlecht"] = ""  # three missing: both sexes together would tell it
    found = told(write(frame), local=False)
    assert all(n == 0 or n >= FEW for n in counts(found))
    sex = entry(found, "sex")
    assert (sex["observed"], sex["missing"]) == (f">{len(frame) - FEW}", "<10")
    assert [part["count"] for part in sex["values"]] == [None, None]
    assert [part["percent"] for part in sex["values"]] == [
        round(100 * (frame["Geschlecht"] == code).sum() / (len(frame) - 3)) for code in "mw"
    ]
    nyha = {part["value"]: part["count"] for part in entry(found, "nyha")["values"]}
    assert (frame["NYHA"] == "IV").sum() < FEW
    assert nyha["IV"] == "<10" and nyha["III"] == "withheld"  # else IV were the rest
    assert isinstance(nyha["I"], int) and isinstance(nyha["II"], int)
    cause = {e["label"]: e["count"] for e in found["labels"]["cause"]}
    assert cause["other"] == "<10" and cause["cancer"] == "withheld" and isinstance(cause["heart"], int)
    assert found["labels"]["events"][0] == {"label": "stroke", "labelled": len(frame), "positive": "<10"}
    assert not {"min", "max"} & set(entry(found, "age"))
    assert "quarantined_rows" not in found and found["left_out"] == []


def test_a_table_modality_and_table_1_tell_the_same_of_a_field(write, tmp_path):
    """Of 17 patients without an age 12 have no value at all: the other 5 must not be had by subtraction."""
    frame = draw(200, seed=5)
    (tmp_path / "note.txt").write_text("Sinus rhythm.")
    frame["note"] = "note.txt"
    patients = frame["patient_id"].unique()
    none, no_age = (frame["patient_id"].isin(some) for some in (patients[:12], patients[12:17]))
    frame.loc[none, ["Alter", "Geschlecht", "Krea", "NYHA", "Zucker"]] = ""
    frame.loc[no_age, "Alter"] = ""
    site, left = write(frame, more='[modalities.text]\nkind = "text"\ncolumn = "note"\n'), len(frame) - none.sum()
    found = told(site, local=False)
    assert (found["samples"], found["present"]["ehr"]) == (len(frame), left)
    assert found["missing"]["ehr"]["fields"]["age"] == {"observed": f">{left - FEW}", "missing": "<10"}
    assert entry(found, "age")["observed"] == f">{left - FEW}"
    assert entry(found, "sex")["observed"] == left


def test_statistics_need_ten_patients(write):
    frame = draw(9, seed=2)
    frame = pd.concat([frame, frame.assign(sample_id=[f"again{k}" for k in range(len(frame))])])
    assert len(frame) >= 2 * FEW - 2
    outside, inside = told(write(frame), local=False), told(write(frame), local=True)
    for concept in ("age", "creatinine"):
        assert entry(outside, concept)["median"] is None and entry(outside, concept)["histogram"]["bars"] == []
        assert entry(inside, concept)["median"] is not None
    assert outside["labels"]["stay"][0]["median"] is None
    assert outside["labels"]["survival"][0]["median_follow_up_days"] is None
    assert (outside["samples"], outside["patients"]) == ("withheld", "<10")


def test_the_flow_adds_up(write):
    frame = draw(200, seed=4)
    frame.loc[:29, "index_time"] = "2200-01-01"
    frame.loc[30:49, "monate"] = "-1"
    frame.loc[50:64, ["Alter", "Geschlecht", "Krea", "NYHA", "Zucker"]] = ""
    site, n = write(frame), len(frame)
    found = told(site, local=True)
    assert found["flow"] == {"rows": n, "index_time_ok": n - 30, "after_outcome_check": n - 50, "usable": n - 65}
    reasons = {item["check"]: item["count"] for item in found["quarantined"] if item["modality"] == "(sample)"}
    assert reasons == {"index-time-in-future": 30, "outcome-before-index": 20, "no-modality": 15}
    assert len(found["quarantined_rows"]) == 65
    sides = found["split"]
    assert sum(sides["samples"].values()) == found["samples"] == sum(sides["ehr"].values())
    held = {name for name in frame["patient_id"][65:] if is_held(site, name)}
    assert found["held_out_patients"] == len(held)
    assert sides["samples"]["held_out"] == int(frame["patient_id"][65:].isin(held).sum())
    assert told(site, local=False)["flow"] == found["flow"]  # every difference is 10 or more


def is_held(site: Site, patient: str) -> bool:
    from fl_shared.study import is_held_out

    return is_held_out(patient, site=site.name, plan=wanted_by(None, site)[0].evaluation)


def test_rejects_are_told_without_value_row_or_file(write, capsys):
    frame = draw(30)
    frame.loc[4, "Geschlecht"] = "divers"
    frame.loc[5, "tot"] = "vielleicht"
    site = write(frame)
    outside, inside = told(site, local=False), told(site, local=True)
    assert not outside["accepted"] and outside["rejects"] == inside["rejects"] == 2
    assert {(f["file"], f["key"], f["row"], f["value"]) for f in outside["faults"]} == {
        ("samples table", "Geschlecht", None, ""),
        ("samples table", "tot", None, ""),
    }
    assert {(f["row"], f["value"]) for f in inside["faults"]} == {(6, "'divers'"), (7, "'vielleicht'")}
    for found in (outside, inside):
        render(found, Console(width=100))
    shown = capsys.readouterr().out
    assert "vielleicht" in shown and "secret" not in shown
    assert outside["flow"] == {"rows": len(frame), "index_time_ok": len(frame), "after_outcome_check": len(frame),
                               "usable": len(frame)}  # fmt: skip


def test_nothing_of_a_patient_is_printed_to_outsiders(write, capsys, tmp_path):
    frame = draw(120)
    frame["ecg_path"] = [f"file_of_{sample}" for sample in frame["sample_id"]]
    frame.loc[0, "index_time"] = "never"
    site = write(frame, more='[modalities.ecg]\nkind = "waveform"\ncolumn = "ecg_path"\n')
    render(told(site, local=False), Console(width=120))
    outside = capsys.readouterr().out
    assert not any(word in outside for word in ("secret", "hidden", "file_of", "never", "samples.csv", str(tmp_path)))
    assert "file-missing" in outside and "add --local" in outside
    render(told(site, local=True), Console(width=120))
    inside = capsys.readouterr().out
    assert "file_of_hidden00007" in inside and "add --local" not in inside


def test_without_a_study_all_kinds_are_planned(write):
    more = """
[modalities.cmr]
kind = "cine"
column = "cine_path"
[modalities.lge]
kind = "image"
column = "lge_path"
[modalities.ct]
kind = "embedding"
column = "ct_path"
[modalities.icu]
kind = "events"
file = "samples.csv"
codes = { HF = { concept = "heart_rate" }, K = { concept = "creatinine" }, X = { concept = "unheard_of" } }
[tasks.grade]
type = "multiclass"
columns = { value = "NYHA" }
"""
    wanted, left_out = wanted_by(None, write(draw(20), more=more))
    cmr, icu = wanted.modalities["cmr"], wanted.modalities["icu"]
    assert (cmr.kind, cmr.frames, cmr.slices, cmr.size) == ("cine", 16, 1, 64)
    assert (icu.kind, icu.hours, icu.bins, icu.fields) == ("events", 48.0, 48, ("heart_rate", "creatinine"))
    assert wanted.modalities["lge"].kind == "image" and "ct" not in wanted.modalities
    types = {name: (plan.type, plan.labels) for name, plan in wanted.tasks.items()}
    assert types == {
        "death": ("binary", ()), "events": ("multilabel", ("stroke", "infarct")),
        "cause": ("multiclass", ("heart", "cancer", "other")), "stay": ("regression", ()), "survival": ("survival", ()),
    }  # fmt: skip
    assert len(left_out) == 2 and all("--study" in words for words in left_out)
    assert left_out[0].startswith("modality ct: ") and left_out[1].startswith("task grade: ")


def test_what_is_not_read_is_said(write, capsys):
    site = write(draw(20), more='[modalities.ct]\nkind = "embedding"\ncolumn = "ct_path"\n')
    cohort, report = examine(site, None, workers=1)
    assert check_site(site, None) == report
    render(summary(report, cohort, site=site, study=None, local=False), Console(width=200))
    assert "Not read: modality ct: only a study tells the length of its vectors" in capsys.readouterr().out


def test_of_events_the_last_value_of_the_window_is_taken(write):
    site = write(
        draw(40),
        more="""
[modalities.icu]
kind = "events"
file = "samples.csv"
codes = { HF = { concept = "heart_rate" } }
""",
    )
    wanted, _ = wanted_by(None, site)
    plain = write(draw(40))
    cohort, report = examine(plain, None, workers=1)
    assert cohort is not None
    n = len(cohort)
    values, observed = np.zeros((n, 48, 1), dtype=np.float32), np.zeros((n, 48, 1), dtype=bool)
    rates = np.arange(60.0, 60.0 + n)
    for row in range(n - 12):  # the last twelve have none
        for place, rate in ((row % 40, 44.0), (row % 40 + 3, rates[row])):
            values[row, place, 0] = concepts.scale(np.array([rate]), concepts.concept("heart_rate"))[0]
            observed[row, place, 0] = True
    with_events = replace(
        cohort,
        inputs={**cohort.inputs, "icu": {"values": values, "observed": observed}},
        present={**cohort.present, "icu": observed.any(axis=(1, 2))},
    )
    found = summary(report, with_events, site=site, study=None, local=False)
    assert set(wanted.modalities) == set(found["missing"])
    item = entry(found, "heart_rate")
    assert (item["source"], item["observed"], item["missing"]) == ("icu", n - 12, 12)
    assert item["median"] == pytest.approx(np.median(rates[: n - 12]), rel=5e-3)


def test_histogram_bars_equal_numpy_counts_on_fixed_edges():
    rng = np.random.default_rng(0)
    for name, values in (("age", rng.normal(60, 25, 500)), ("nt_probnp", rng.lognormal(6, 2, 500))):
        concept = concepts.concept(name)
        values = np.append(concepts.unscale(concepts.scale(np.clip(values, 0.5, None), concept), concept), np.nan)
        teller = Teller(patient=np.arange(501), local=True)
        bars = histogram(values, concept, observed=teller.group(np.isfinite(values)), teller=teller)
        fixed = edges(concept)
        expected, _ = np.histogram(values[:-1], bins=[-np.inf, *fixed, np.inf])
        assert [bar.count for bar in bars] == expected.tolist()
        assert fixed[0] >= concept.low * (1 - 1e-9) and fixed[-1] <= concept.high * (1 + 1e-9)


def test_values_on_an_edge_fall_above_it_in_spite_of_float32():
    age = concepts.concept("age")
    decades = np.repeat(np.arange(20.0, 90.0, 10), 20)
    values = concepts.unscale(concepts.scale(decades, age), age)
    teller = Teller(patient=np.arange(len(values)), local=True)
    bars = histogram(values, age, observed=teller.group(values > 0), teller=teller)
    assert [bar.count for bar in bars if bar.low is not None] == [20] * 7 + [0]
    assert [bar.low for bar in bars] == [None, *range(20, 91, 10)]


@pytest.mark.parametrize("missing", [0, 3, 40])
def test_histograms_for_outsiders_hold_ten_patients_a_bar(missing):
    rng = np.random.default_rng(missing)
    patient = rng.integers(0, 150, 300)
    values = rng.normal(60, 12, 300)
    values[:missing] = np.nan
    age, teller = concepts.concept("age"), Teller(patient=patient, local=False)
    observed = teller.group(np.isfinite(values), teller.group(np.ones(300, dtype=bool)))
    bars = histogram(values, age, observed=observed, teller=teller)
    assert len(bars) > 3 and sum(bar.bins for bar in bars) == len(edges(age)) + 1
    for bar in bars:
        inside = (values >= (bar.low or -np.inf)) & (values < (bar.high or np.inf))
        assert len(set(patient[inside])) >= FEW
        assert bar.count == (inside.sum() if observed.exact is not None else inside.sum() // 10 * 10)
    assert {bar.low for bar in bars} - {None} <= set(edges(age).tolist())
    assert (observed.exact is None) is (missing == 3)


@pytest.mark.parametrize(
    ("value", "shown"), [(63.0, "63"), (1230.0, "1230"), (0.05, "0.05"), (139.5, "139.5"), (None, "–")]
)
def test_numbers_are_written_without_powers_of_ten(value, shown):
    assert number(value) == shown


def test_units_are_written_as_clinicians_do():
    assert (unit("a"), unit("umol/L"), unit("mm[Hg]"), unit("1"), unit("ng/L")) == (
        "years",
        "µmol/L",
        "mmHg",
        "",
        "ng/L",
    )


def test_a_single_sample_set_aside_is_not_told_by_subtraction(make_site):
    rows = [{"patient_id": f"p{k:03}", "sample_id": f"s{k:03}", "tot": int(k < 3)} for k in range(40)]
    rows[7]["ecg_path"] = "secret_name"
    rows[8]["index_time"] = "2200-01-01"
    site = make_site(rows)
    outside, inside = told(site, local=False), told(site, local=True)
    assert (outside["rows"], outside["samples"], inside["samples"]) == (40, ">30", 39)
    assert outside["flow"] == {"rows": 40, "index_time_ok": ">30", "after_outcome_check": ">30", "usable": ">30"}
    assert outside["labels"] == {"death": [{"labelled": ">30", "positive": "<10"}]}
    assert {(q["modality"], q["check"], q["count"]) for q in outside["quarantined"]} == {
        ("(sample)", "index-time-in-future", "<10"),
        ("ecg", "file-missing", "<10"),
    }
    assert not any(word in str(outside) for word in ("p007", "s008", "secret_name"))
    assert "secret_name" in str(inside["quarantined_rows"])


def test_without_a_study_all_that_is_mapped_is_read(tmp_path, make_site, write_ecg, capsys):
    write_ecg(tmp_path, "e1")
    rows = [{"patient_id": f"p{k}", "sample_id": f"s{k}", "ecg_path": "e1"} for k in range(3)]
    site = make_site([row | {"text_path": "missing [b].txt"} for row in rows])
    cohort, report = examine(site, None, workers=1)
    assert cohort is not None and cohort.inputs["ecg"]["signal"].shape == (3, 12, 1000)
    render(summary(report, cohort, site=site, study=None, local=True), Console(width=160))
    shown = capsys.readouterr().out
    assert "missing [b].txt" in shown and "ecg: resampled" in shown
