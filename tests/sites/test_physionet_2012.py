from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fl_client.data.ehr import columns_of, read_table
from fl_client.data.findings import Findings
from fl_client.data.labels import outcome_before_index, read_labels
from fl_client.data.table import read_samples
from fl_shared.concepts import concept, unscale
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import load_site
from fl_shared.study import TaskPlan, is_held_out, load_study
from fl_sites.importers.physionet_2012 import import_physionet_2012, survival
from fl_sites.importers.physionet_2012_plan import EVALUATION, SITES

SOURCE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "physionet-2012"
pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason=f"real data missing: {SOURCE}")

STATIC = {"RecordID", "Age", "Gender", "Height", "ICUType", "Weight"}
INDEX = pd.Timestamp("2000-01-03")
TASKS = {
    "in_hospital_death": TaskPlan(type="binary"),
    "los_days": TaskPlan(type="regression"),
    "survival": TaskPlan(type="survival"),
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    out = tmp_path_factory.mktemp("physionet")
    return out, import_physionet_2012(SOURCE, out)


@pytest.fixture(scope="module")
def samples(imported):
    tables = [pd.read_csv(imported[0] / name / "samples.csv").assign(site=name) for name in SITES.values()]
    return pd.concat(tables).set_index("sample_id").sort_index()


@pytest.fixture(scope="module")
def events(imported):
    tables = [pq.read_table(imported[0] / name / "events.parquet").to_pandas() for name in SITES.values()]
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def outcomes():
    return pd.read_csv(SOURCE / "Outcomes-a.txt", index_col="RecordID")


@pytest.fixture(scope="module")
def stays():
    """Independent oracle, a plain loop: stay -> (descriptors, rows (minutes, variable, value) of what is known)."""
    found = {}
    with tarfile.open(SOURCE / "set-a.tar.gz") as archive:
        for member in archive:
            if not member.isfile():
                continue
            static, series = {}, []
            for line in archive.extractfile(member).read().decode("ascii").splitlines()[1:]:
                time, variable, value = line.split(",")
                if time == "00:00" and variable in STATIC and variable not in static:
                    static[variable] = float(value)
                elif float(value) != -1:
                    series.append((60 * int(time[:2]) + int(time[3:]), variable, float(value)))
            found[int(Path(member.name).stem)] = static, series
    return found


@pytest.fixture
def download(tmp_path, stays, outcomes):
    """An unpacked download of three stays."""
    ids = list(outcomes.index[:3])
    folder = tmp_path / "download"
    with tarfile.open(SOURCE / "set-a.tar.gz") as archive:
        archive.extractall(folder, members=[archive.getmember(f"set-a/{i}.txt") for i in ids], filter="data")
    outcomes.loc[ids].to_csv(folder / "Outcomes-a.txt")
    return folder


def faults_of(folder, out):
    with pytest.raises(ConsiliumError) as caught:
        import_physionet_2012(folder, out)
    assert caught.value.code is ExitCode.DATA and not out.exists()
    return caught.value.faults


def test_all_stays_are_there_at_the_site_of_their_icu(imported, samples, stays, outcomes):
    _, done = imported
    assert len(stays) == len(samples) == sum(done.records.values()) == 3001
    assert set(samples.index) == set(outcomes.index)
    units = {number: [i for i, (static, _) in stays.items() if static["ICUType"] == number] for number in SITES}
    assert {SITES[number]: len(ids) for number, ids in units.items()} == dict(done.records) == dict(done.patients)
    assert all((samples.loc[ids, "site"] == SITES[number]).all() for number, ids in units.items())
    assert (samples.index == samples["patient_id"]).all() and samples.index.is_unique
    assert set(done.left_out.values()) == {0}


def test_counts_and_sums_per_variable_equal_a_plain_count(events, stays):
    counts, sums = Counter(), Counter()
    for _, series in stays.values():
        counts.update(variable for _, variable, _ in series)
        for _, variable, value in series:
            sums[variable] += value
    assert events["code"].value_counts().to_dict() == dict(counts)
    assert len(counts) == 37 and sum(counts.values()) == len(events) == 1307209
    for variable, total in events.groupby("code")["numeric_value"].sum(min_count=1).items():
        assert total == pytest.approx(sums[variable], rel=1e-4)


def test_every_event_of_some_stays_in_order(events, stays, samples):
    chosen = [*list(stays)[::200], 141264, 140501]  # the last two were measured nothing
    by_stay = dict(iter(events.groupby("subject_id")))
    for stay in chosen:
        found = by_stay.get(stay, events.iloc[:0])
        want = sorted(stays[stay][1], key=lambda row: row[0])
        minutes = (found["time"] - (INDEX - pd.Timedelta(hours=48))) / pd.Timedelta(minutes=1)
        assert [(m, v) for m, v, _ in want] == list(zip(minutes.astype(int), found["code"], strict=True))
        np.testing.assert_array_equal(found["numeric_value"], np.array([x for *_, x in want], dtype=np.float32))
    assert set(samples.index) - set(events["subject_id"]) == {141264, 140501}


def test_events_are_meds_and_none_is_after_the_index_time(imported, events):
    schema = pq.read_schema(imported[0] / "icu_medical" / "events.parquet")
    assert schema.names == ["subject_id", "time", "code", "numeric_value", "text_value"]
    types = [pa.int64(), pa.timestamp("us"), pa.string(), pa.float32(), pa.string()]
    assert schema.types == types
    assert events["time"].min() == INDEX - pd.Timedelta(hours=48) and events["time"].max() == INDEX
    assert events.groupby("subject_id")["time"].apply(lambda times: times.is_monotonic_increasing).all()


def test_descriptors_are_static_and_minus_one_is_missing(samples, stays):
    for column, name in {"age": "Age", "sex": "Gender", "height": "Height", "weight": "Weight"}.items():
        want = pd.Series({i: static[name] for i, (static, _) in stays.items()}).replace(-1, np.nan).sort_index()
        np.testing.assert_array_equal(samples[column].to_numpy(float), want.to_numpy())
    assert samples["height"].isna().sum() == 1402 and samples["sex"].isna().sum() == 2
    assert set(samples["index_time"]) == {"2000-01-03T00:00:00"}


def test_outcomes_follow_the_definition_of_the_release(samples, outcomes):
    o = outcomes.sort_index()
    assert (samples["in_hospital_death"] == o["In-hospital_death"]).all() and samples["in_hospital_death"].sum() == 412
    assert samples["los_days"].isna().sum() == (o["Length_of_stay"] == -1).sum() == 44
    known = samples["los_days"].dropna()
    assert (known == o.loc[known.index, "Length_of_stay"]).all()
    # 2 <= Survival <= Length of stay is a death in hospital: every such death is an event, within the stay
    died = samples[samples["in_hospital_death"] == 1]
    assert (died["survival_event"] == 1).all() and (died["survival_days"] <= died["los_days"] - 1).all()
    recorded = o["Survival"].between(1, 367)
    assert (samples.loc[recorded, "survival_event"] == 1).all()
    assert samples.loc[o["Survival"] == 0, ["survival_days", "survival_event"]].isna().all().all()
    alive = samples.loc[(o["Survival"] == -1) | (o["Survival"] > 367)]
    assert (alive["survival_event"] == 0).all() and (alive["survival_days"] == 365).all()


def test_survival_is_not_biased_by_discharge(samples, outcomes):
    """Kaplan-Meier of what is written equals the plain share of deaths: nobody is censored before a year."""
    table = samples.dropna(subset=["survival_days"])
    share = outcomes["Survival"].loc[table.index].between(1, 92).mean()
    alive = 1.0
    for day in np.unique(table.loc[(table["survival_event"] == 1) & (table["survival_days"] <= 90), "survival_days"]):
        events = (table["survival_event"] == 1) & (table["survival_days"] == day)
        alive *= 1 - events.sum() / (table["survival_days"] >= day).sum()
    assert 1 - alive == pytest.approx(share, abs=1e-12)


def test_survival_by_hand():
    days, event = survival(np.array([np.nan, 0, 1, 2, 3, 367, 368, 2600]))
    np.testing.assert_array_equal(days, [365, np.nan, 0.5, 0.5, 1, 365, 365, 365])
    np.testing.assert_array_equal(event, [0, np.nan, 1, 1, 1, 1, 0, 0])


def test_readers_take_static_values_and_labels(imported):
    total = Counter()
    for name in SITES.values():
        site, findings = load_site(imported[0] / name), Findings()
        frame = read_samples(site.samples_path, encoding=site.encoding, findings=findings)
        fields = tuple(columns_of(site, findings=findings).keys())
        table = read_table(frame, site=site, fields=fields, file="samples.csv", findings=findings)
        read_labels(frame, site=site, tasks=TASKS, file="samples.csv", findings=findings)
        assert findings.rejects == [] and not outcome_before_index(frame, site=site, tasks=TASKS).any()
        total.update(findings.repairs)
        women = unscale(table.values[:, fields.index("sex")], concept("sex"))[table.observed[:, fields.index("sex")]]
        assert 0.25 < women.mean() < 0.55
    assert all("implausible" in what for what in total) and sum(total.values()) < 20  # heights such as 431.8 cm


def test_units_put_nearly_every_value_within_the_plausible_limits(imported, events):
    """A wrong unit (Mg in mmol/L, FiO2 in %) would push most of a variable out, or its median off the range."""
    codes = load_site(imported[0] / "icu_medical").modalities["series"].codes
    assert set(codes) == set(events["code"])
    assert len({held.concept for held in codes.values()}) == 37
    for code, values in events.groupby("code")["numeric_value"]:
        what, rule = concept(codes[code].concept), concept(codes[code].concept).units.get(codes[code].unit, 1.0)
        assert codes[code].unit in what.known_units
        own = values * rule
        assert ((own < what.min) | (own > what.max)).mean() < 0.02, code
        assert code == "MechVent" or what.low - 1e-9 <= own.median() <= what.high, code


def test_study_and_sites_load(imported, samples):
    study = load_study(imported[1].study)
    assert study.train_sites == ("icu_cardiac_surgery", "icu_medical", "icu_surgical")
    assert study.external_sites == ("icu_coronary",)
    for name in study.train_sites:
        ids = samples.index[samples["site"] == name]
        assert study.sites[name].patients == sum(not is_held_out(str(i), site=name, plan=EVALUATION) for i in ids)
    series = study.modalities["series"]
    assert (series.kind, series.hours, series.gap_hours, len(series.fields)) == ("events", 49, 0, 37)
    assert set(study.tasks) == set(load_site(imported[0] / "icu_surgical").tasks) == set(TASKS)
    assert {name: task.type for name, task in study.tasks.items()} == {name: task.type for name, task in TASKS.items()}
    assert sum(phase.rounds for phase in study.training.phases) == study.training.rounds


def test_unpacked_download_gives_the_same(imported, download, tmp_path):
    done = import_physionet_2012(download, tmp_path / "out")
    assert sum(done.records.values()) == 3
    for name in done.records:
        part = pq.read_table(tmp_path / "out" / name / "events.parquet").to_pandas()
        whole = pq.read_table(imported[0] / name / "events.parquet").to_pandas()
        ids = pd.read_csv(tmp_path / "out" / name / "samples.csv")["patient_id"]
        pd.testing.assert_frame_equal(part, whole[whole["subject_id"].isin(ids)].reset_index(drop=True))


def test_minus_one_in_the_series_is_no_event(imported, download, tmp_path):
    path = sorted((download / "set-a").glob("*.txt"))[0]
    path.write_text(path.read_text() + "47:59,Weight,-1\n47:59,Weight,70\n")
    done = import_physionet_2012(download, tmp_path / "out")
    tables = [pq.read_table(tmp_path / "out" / name / "events.parquet").to_pandas() for name in done.records]
    last = pd.concat(tables)[lambda t: t["subject_id"] == int(path.stem)].tail(1)
    assert last["numeric_value"].tolist() == [70] and (pd.concat(tables)["numeric_value"] != -1).all()


def test_everything_missing_is_told_at_once(tmp_path):
    assert [fault.key for fault in faults_of(tmp_path, tmp_path / "out")] == ["set-a.tar.gz", "Outcomes-a.txt"]


def test_broken_archive_and_foreign_outcomes_are_both_told(tmp_path):
    body = (SOURCE / "set-a.tar.gz").read_bytes()
    (tmp_path / "set-a.tar.gz").write_bytes(body[: len(body) // 2])
    (tmp_path / "Outcomes-a.txt").write_text("<html>\n")
    keys = [fault.key for fault in faults_of(tmp_path, tmp_path / "out")]
    assert keys == ["RecordID", "Length_of_stay", "Survival", "In-hospital_death", "(file)"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("01:00,HR,eighty", "not a number"),
        ("01:00,HR", "not a number"),
        ("01:00,HR,80,bpm", "not three values"),
        ("1h,HR,80", "no time"),
        ("01:00,Pulse,80", "unknown parameter"),
        ("01:00,Age,80", "a descriptor after 00:00"),
        ("00:00,RecordID,1", "RecordID is not"),
        ("00:00,Age,80", "told twice"),
        ("", "no time"),
    ],
)
def test_changed_rows_are_told_with_their_place(download, tmp_path, row, problem):
    path = sorted((download / "set-a").glob("*.txt"))[1]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:9], row, *lines[9:]]) + "\n")
    faults = faults_of(download, tmp_path / "out")
    (fault,) = [f for f in faults if problem in f.problem]
    assert problem == "told twice" or (fault.file.endswith(path.name) and fault.row == 10)


def test_stays_and_outcomes_that_do_not_match_are_told(download, tmp_path):
    first, _, third = sorted((download / "set-a").glob("*.txt"))
    first.unlink()
    (download / "set-a" / "1.txt").write_text("Time,Parameter,Value\n00:00,RecordID,1\n")
    lines = [line for line in third.read_text().splitlines() if "ICUType" not in line]
    third.write_text("\n".join(lines) + "\n")
    table = pd.read_csv(download / "Outcomes-a.txt")
    pd.concat([table, table.tail(1)]).to_csv(download / "Outcomes-a.txt", index=False)
    told = {(fault.key, fault.value, fault.problem) for fault in faults_of(download, tmp_path / "out")}
    assert ("RecordID", first.stem, "1 of 4 stays missing") in told
    assert ("RecordID", "1", "1 of 3 stays missing") in told
    assert ("ICUType", f"1, {third.stem}", "not told") in told
    assert ("RecordID", "", "stays told twice") in told


def test_files_of_something_else_are_told(download, tmp_path):
    (download / "set-a" / "readme.txt").write_text("hello\n")
    (fault,) = faults_of(download, tmp_path / "out")
    assert fault.key == "readme.txt" and fault.problem == "not a record of the set"
