"""Series of measurements and prescriptions, as pyarrow and pandas read them; labels of every file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from fl_shared.concepts import concept, convert
from fl_shared.site import load_site
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.measures import MEASURES, in_unit

SITES = ("berlin", "nanjing", "london", "wuhan")
IDS = {"patient_id": str, "sample_id": str, "subject_id": str}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize(folder, sites=SITES, patients=40, seed=11, modalities=("ehr", "series", "text"))
    return folder


def events_of(out: Path, name: str) -> pd.DataFrame:
    """Events in the concepts' units, with each record's index time and truth; days from the patient's last record."""
    site = load_site(out / name)
    table = pq.read_table(out / name / "events.parquet").to_pandas().astype({"subject_id": str})
    samples = pd.read_csv(site.samples_path, encoding=site.encoding, dtype=IDS)
    truth = pd.read_csv(out / "truth" / f"{name}.csv", dtype=IDS)
    last = samples.merge(truth[["sample_id", "severity", "kidney", "risk_death"]], on="sample_id")
    last = last.groupby("patient_id").tail(1)
    table = table.merge(last, left_on="subject_id", right_on="patient_id", validate="many_to_one")
    codes = site.modalities["series"].codes
    table["concept"] = table["code"].map({code: mapped.concept for code, mapped in codes.items()})
    for code, mapped in codes.items():
        own, what = table["code"] == code, concept(mapped.concept)
        table.loc[own, "value"] = convert(table.loc[own, "numeric_value"].to_numpy(), mapped.unit or what.unit, what)
    return table.assign(days=(table["time"] - pd.to_datetime(table["index_time"])) / pd.Timedelta(days=1))


@pytest.mark.parametrize("name", SITES)
def test_events_are_meds(out, name):
    stored = pq.read_table(out / name / "events.parquet")
    padded = name in {"berlin", "wuhan"}
    assert stored.schema.types == [
        pa.string() if padded else pa.int64(), pa.timestamp("us"), pa.string(), pa.float32(), pa.string()
    ]  # fmt: skip
    assert b"SYNTHETIC" in stored.schema.metadata[b"synthetic"]
    assert stored.column_names == ["subject_id", "time", "code", "numeric_value", "text_value"]
    table = stored.to_pandas()
    assert table[["subject_id", "time"]].equals(table[["subject_id", "time"]].sort_values(["subject_id", "time"]))
    told = table["text_value"].notna()
    assert (told == table["numeric_value"].isna()).all() and 0 < told.mean() < 0.1
    assert table.loc[told, "text_value"].str.fullmatch(r"<[\d.]+").all()
    codes = load_site(out / name).modalities["series"].codes
    assert set(table["code"]) == set(codes) and {mapped.concept for mapped in codes.values()} == set(MEASURES)


@pytest.mark.parametrize("name", SITES)
def test_series_are_irregular_plausible_and_pass_the_index_time(out, name):
    table = events_of(out, name)
    assert table["patient_id"].nunique() == 40
    for what, part in table.dropna(subset="value").groupby("concept"):
        assert part["value"].between(concept(what).min, concept(what).max).all()
    centre = table[table["days"] <= 0].groupby("concept")["value"].median()
    for what, measure in MEASURES.items():
        assert centre[what] == pytest.approx(measure.centre, rel=0.6)
    last = table[table["days"] > -28]
    late = last["days"] > 0
    assert 0.05 < late.mean() < 0.4 and last["days"].max() < 5.01
    steps = last.groupby(["patient_id", "concept"])["days"].diff().dropna()
    assert steps.std() > steps.mean() > 0


def test_what_comes_after_the_index_time_gives_the_outcome_away(out):
    found = {}
    for when in ("before", "after"):
        scores = []
        for name in SITES:
            table = events_of(out, name)
            part = table[(table["days"] > 0) == (when == "after")]
            part = part[part["days"] > -7]
            level = part[part["concept"] == "nt_probnp"].groupby("patient_id")["value"].mean().map(np.log)
            people = table.drop_duplicates("patient_id").set_index("patient_id").loc[level.index]
            scores.append(pd.DataFrame({"level": level, "death": people["death"], "risk": people["risk_death"]}))
        whole = pd.concat(scores)
        found[when] = [roc_auc_score(whole["death"], whole[column]) for column in ("level", "risk")]
    assert found["before"][0] < found["before"][1]  # no honest reader beats the true risk
    assert found["after"][0] > found["after"][1] + 0.02


def test_series_follow_the_same_patient(out):
    table = pd.concat([events_of(out, name).assign(site=name) for name in SITES])
    table = table[table["days"].between(-28, 0)]
    means = table.pivot_table(index=["site", "patient_id"], columns="concept", values="value")
    truth = table.drop_duplicates(["site", "patient_id"]).set_index(["site", "patient_id"])
    assert means["nt_probnp"].corr(truth["severity"], method="spearman") > 0.6
    assert means["creatinine"].corr(truth["kidney"], method="spearman") > 0.4


@pytest.mark.parametrize("name", SITES)
def test_prescriptions_are_in_the_hospitals_language(out, name):
    site = load_site(out / name)
    mapped = site.modalities["text"].medications
    table = pd.read_csv(out / name / mapped.file, encoding=site.encoding, dtype=str)
    assert {mapped.subject, mapped.time, mapped.drug, mapped.dose, mapped.unit, mapped.route, mapped.frequency} == set(
        table
    )
    beta_blocker = {"berlin": "Bisoprolol", "nanjing": "比索洛尔", "wuhan": "比索洛尔", "london": "bisoprolol"}[name]
    assert beta_blocker in set(table["drug"]) and table.notna().all(axis=None)
    samples = pd.read_csv(site.samples_path, encoding=site.encoding, dtype=IDS)
    assert set(table["subject_id"]) <= set(samples["patient_id"])
    last = samples.groupby("patient_id").tail(1).set_index("patient_id")
    after = pd.to_datetime(table["time"]) > pd.to_datetime(table["subject_id"].map(last["index_time"]))
    assert 0 < after.mean() < 0.2 and set(table.loc[after, "drug"]) <= {"Dobutamin", "多巴酚丁胺", "dobutamine"}
    assert table.loc[after, "subject_id"].map(last["death"]).mean() > 0.6


@pytest.mark.parametrize("name", SITES)
def test_notes_are_written_before_the_index_time_and_tell_no_outcome(out, name):
    site = load_site(out / name)
    text = site.modalities["text"]
    samples = pd.read_csv(site.samples_path, encoding=site.encoding, dtype=IDS).dropna(subset="text_path")
    assert (pd.to_datetime(samples[text.time_column]) < pd.to_datetime(samples["index_time"])).all()
    for path in samples["text_path"]:
        note = (out / name / path).read_text(encoding=site.encoding)
        assert not any(word.casefold() in note.casefold() for word in text.leakage_words)
    assert text.leakage_words


def test_units_go_back_and_forth():
    for name, unit in (("temperature", "[degF]"), ("creatinine", "mg/dL"), ("sodium", "mmol/L"), ("lvef", "1")):
        what = concept(name)
        values = np.array([what.low, what.high])
        np.testing.assert_allclose(convert(in_unit(values, unit, what), unit, what), values)
    assert in_unit(np.array([37.0]), "[degF]", concept("temperature"))[0] == pytest.approx(98.6)


def test_only_what_is_asked_for_is_written(out, tmp_path):
    synthesize(tmp_path, sites=["a", "b"], patients=10, seed=1, modalities=("ecg",))
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"ecg", "samples.csv", "site.toml"}
    assert list(load_site(tmp_path / "a").modalities) == ["ecg"]
    assert {p.name for p in (out / "berlin").iterdir()} == {
        "events.parquet", "prescriptions.csv", "samples.csv", "site.toml", "text"
    }  # fmt: skip
