"""The traps of real hospital files, one test each: the file springs the trap, and the cohort says what it should."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from fl_client.data.load import load_cohort
from fl_shared.concepts import concept, scale
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import Site, load_site
from fl_shared.study import Study

sys.path.insert(0, str(Path(__file__).parent))
from ecg_files import LEADS, check_of, edf_plus, group_of, heart, mapped, read, write_dicom, write_wfdb

SITE = """
schema = 1
name = "drum_tower"
timezone = "{timezone}"
{extra}
[columns]
Alter = {{ concept = "age" }}
Krea = {{ concept = "creatinine"{unit} }}
EF = {{ concept = "lvef" }}
[modalities.ehr]
kind = "table"
[modalities.ecg]
kind = "waveform"
column = "ecg_path"
[modalities.text]
kind = "text"
column = "text_path"
time_column = "text_time"
[tasks.death]
columns = {{ value = "tot" }}
"""
COLUMNS = ("patient_id", "sample_id", "index_time", "Alter", "Krea", "EF", "ecg_path", "text_path", "text_time", "tot")
ROW = {"index_time": "2020-01-01 10:00", "Alter": "60", "Krea": "80", "EF": "55", "tot": "0"}
FIELDS = ("age", "creatinine", "lvef")


@pytest.fixture
def trap_study() -> Study:
    return Study.model_validate(
        {
            "schema": 1,
            "name": "traps",
            "seed": 1,
            "sites": {"drum_tower": {"role": "train", "patients": 10}},
            "tasks": {"death": {"type": "binary"}},
            "modalities": {
                "ecg": {"kind": "waveform", "leads": LEADS, "rate": 100, "seconds": 4},
                "ehr": {"kind": "table", "fields": FIELDS},
                "text": {"kind": "text", "max_tokens": 64},
            },
            "training": {"rounds": 1, "steps": 1, "batch": 2},
            "privacy": {"mode": "none"},
            "rounds": {"quorum": 1},
            "evaluation": {"salt": "salt and pepper"},
        }
    )


@pytest.fixture
def hospital(tmp_path: Path) -> Callable[..., Site]:
    """A site folder with these rows in its samples table; columns of a row beyond the usual ones are added."""

    def make(*rows: dict, encoding: str = "utf-8", extra: str = "", unit: str = "", timezone: str = "UTC") -> Site:
        columns = [*COLUMNS, *sorted({c for row in rows for c in row} - set(COLUMNS))]
        filled = [{"patient_id": f"p{k}", "sample_id": f"s{k}"} | ROW | row for k, row in enumerate(rows)]
        table = [",".join(columns), *(",".join(str(row.get(c, "")) for c in columns) for row in filled)]
        (tmp_path / "samples.csv").write_bytes(("\n".join(table) + "\n").encode(encoding))
        text = SITE.format(extra=extra, unit=unit, timezone=timezone)
        (tmp_path / "site.toml").write_text(text, encoding="utf-8")
        return load_site(tmp_path)

    return make


def faults_of(site: Site, study: Study) -> list[tuple[str, int | None, str]]:
    with pytest.raises(ConsiliumError) as error:
        load_cohort(site, study)
    assert error.value.code == ExitCode.DATA
    assert all(fault.mend for fault in error.value.faults)
    return [(fault.key, fault.row, fault.problem) for fault in error.value.faults]


def set_aside(site: Site, study: Study) -> list[tuple[int, str | None, str]]:
    return [(q.row, q.modality, q.check) for q in load_cohort(site, study)[1].quarantined]


# ids, codes, numbers


def test_ids_00123_and_1e5_stay_as_written(hospital, trap_study):
    ids = ["00123", "123", "1e5", "100000"]
    site = hospital(*({"patient_id": i, "sample_id": f"0{i}"} for i in ids))
    assert pd.read_csv(site.samples_path)["patient_id"].tolist() == [123, 123, 100_000, 100_000]  # two patients of four
    cohort, _ = load_cohort(site, trap_study)
    assert cohort.patient_ids == ("00123", "100000", "123", "1e5")
    assert cohort.sample_ids == ("000123", "0100000", "0123", "01e5")


def test_duplicate_and_missing_sample_ids_are_rejected_together(hospital, trap_study):
    site = hospital({"sample_id": "a"}, {"sample_id": "a"}, {"sample_id": ""}, {"patient_id": ""})
    assert {(key, row) for key, row, _ in faults_of(site, trap_study)} == {
        ("sample_id", 3),
        ("sample_id", 4),
        ("patient_id", 5),
    }


def test_a_patient_in_two_splits_is_rejected(hospital, trap_study):
    rows = [{"patient_id": "a", "split": "train"}, {"patient_id": "b", "split": "test"}]
    cohort, _ = load_cohort(hospital(*rows), trap_study)
    assert len(cohort) == 2
    site = hospital(*rows, {"patient_id": "a", "split": "test"})
    assert [(key, row) for key, row, _ in faults_of(site, trap_study)] == [("patient_id", 4)]


def test_an_unknown_label_code_is_rejected(hospital, trap_study):
    assert faults_of(hospital({}, {"tot": "2"}), trap_study) == [("tot", 3, "unknown label code")]


def test_a_value_below_the_assays_limit_does_not_turn_the_column_into_text(hospital, trap_study):
    site = hospital({"Krea": "<40"}, {"Krea": "80"}, {"Krea": ""})
    cohort, report = load_cohort(site, trap_study)
    expected = scale(np.array([40.0, 80.0]), concept("creatinine"))
    np.testing.assert_array_equal(cohort.inputs["ehr"]["values"][:2, 1], expected)
    assert cohort.inputs["ehr"]["observed"][:, 1].tolist() == [True, True, False]
    assert report.repairs["creatinine: beyond the assay's limit, the limit taken"] == 1
    assert not pd.api.types.is_numeric_dtype(pd.read_csv(site.samples_path)["Krea"])


@pytest.mark.parametrize(
    ("column", "value", "hint"),
    [("EF", "0.45", "lvef: implausible, set missing (is the unit '1', not '%'?)"),
     ("Krea", "0.9", "creatinine: implausible, set missing (is the unit 'mg/dL', not 'umol/L'?)")],
)  # fmt: skip
def test_a_value_in_another_unit_is_missing_and_the_unit_is_suggested(hospital, trap_study, column, value, hint):
    cohort, report = load_cohort(hospital({column: value}, {}), trap_study)
    field = {"EF": 2, "Krea": 1}[column]
    assert cohort.inputs["ehr"]["observed"][:, field].tolist() == [False, True]
    assert cohort.inputs["ehr"]["values"][0, field] == 0  # never converted silently
    assert report.repairs[hint] == 1


def test_a_declared_unit_is_converted_and_an_unknown_one_rejected(hospital, trap_study):
    cohort, _ = load_cohort(hospital({"Krea": "0.9"}, unit=', unit = "mg/dL"'), trap_study)
    np.testing.assert_allclose(cohort.inputs["ehr"]["values"][0, 1], scale(np.array([79.56]), concept("creatinine"))[0])
    site = hospital({"Krea": "0.9"}, unit=', unit = "mg/l"')
    assert faults_of(site, trap_study) == [("columns.Krea.unit", None, "unknown unit")]


def test_a_decimal_comma_without_quotes_does_not_shift_the_columns(hospital, trap_study):
    site = hospital({"EF": "55,5"}, {"EF": "60,5"})
    assert faults_of(site, trap_study) == [("(fields)", 2, "the header has 10 fields")]
    shifted = pd.read_csv(site.samples_path)  # patient_id became the index, every value moved to its neighbour
    assert shifted["patient_id"].tolist() == ["s0", "s1"]


def test_every_fault_of_a_table_is_told_at_once(hospital, trap_study):
    site = hospital(
        {"sample_id": "a", "tot": "maybe"}, {"sample_id": "a", "Krea": "high"}, {"EF": "1,"}, {"EF": '"5,5"'}
    )
    assert faults_of(site, trap_study) == [("(fields)", 4, "the header has 10 fields")]  # nothing else can be trusted
    site = hospital({"sample_id": "a", "tot": "maybe"}, {"sample_id": "a", "Krea": "high"}, {"EF": '"5,5"'})
    assert {(key, row) for key, row, _ in faults_of(site, trap_study)} == {
        ("sample_id", 3),
        ("tot", 2),
        ("Krea", 3),
        ("EF", 4),
    }


# encodings


def test_gb18030_is_read_when_declared_and_rejected_when_not(hospital, trap_study):
    row = {"patient_id": "病人一", "诊断": "心力衰竭"}
    cohort, _ = load_cohort(hospital(row, encoding="gb18030", extra='encoding = "gb18030"'), trap_study)
    assert cohort.patient_ids == ("病人一",)
    site = hospital(row, encoding="gb18030")
    with pytest.raises(UnicodeDecodeError):
        pd.read_csv(site.samples_path)
    assert faults_of(site, trap_study) == [("encoding", None, "not utf-8")]


# times


def test_naive_times_are_local_and_the_hours_of_daylight_saving_are_settled(hospital, trap_study):
    soon = (pd.Timestamp.now("UTC") + pd.Timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M")  # in Shanghai it is later still
    rows = [{"index_time": t} for t in (soon, "2020-10-25 02:30", "2020-03-29 02:30", "2020-07-01T12:00:00+08:00")]
    _, report = load_cohort(hospital(*rows, timezone="Asia/Shanghai"), trap_study)
    assert not report.quarantined
    assert report.repairs["index_time: naive, taken in the site's time zone"] == 3
    for zone in ("UTC", "Europe/Berlin"):
        told = set_aside(hospital(*rows, timezone=zone), trap_study)
        assert told == [(2, None, "index-time-in-future")]


def test_a_future_or_unreadable_index_time_sets_the_sample_aside(hospital, trap_study):
    site = hospital({"index_time": "2200-01-01"}, {"index_time": "01.02.2020"}, {"index_time": ""}, {})
    cohort, report = load_cohort(site, trap_study)
    assert cohort.sample_ids == ("s3",)
    assert [(q.row, q.check) for q in report.quarantined] == [
        (2, "index-time-in-future"),
        (3, "index-time-unreadable"),
        (4, "index-time-unreadable"),
    ]


def test_a_note_later_than_the_index_time_is_set_aside(tmp_path, hospital, trap_study):
    (tmp_path / "note.txt").write_text("stable on the ward", encoding="utf-8")
    times = ("2020-01-01 09:59", "2020-01-01 10:01")
    site = hospital(*({"text_path": "note.txt", "text_time": time} for time in times))
    cohort, report = load_cohort(site, trap_study)
    assert cohort.present["text"].tolist() == [True, False]
    assert [(q.row, q.modality) for q in report.quarantined] == [(3, "text")]


# paths


def test_a_path_out_of_the_site_folder_is_not_followed(tmp_path, hospital, trap_study):
    outside = tmp_path.parent / "elsewhere"
    write_wfdb(outside, "secret", heart())
    write_wfdb(tmp_path, "mine", heart())
    (outside / "e.edf").write_bytes(edf_plus(heart()))
    (tmp_path / "link.edf").symlink_to(outside / "e.edf")
    (tmp_path / "folder").symlink_to(outside)
    (tmp_path / "half.hea").write_text((tmp_path / "mine.hea").read_text().replace("mine", "half"))
    (tmp_path / "half.dat").symlink_to(outside / "secret.dat")
    (tmp_path / "named.hea").write_text(
        (tmp_path / "mine.hea").read_text().replace("mine.dat", "../elsewhere/secret.dat")
    )
    paths = ["link.edf", "folder/secret", "../elsewhere/secret", str(outside / "secret"), "half", "named", "mine"]
    cohort, report = load_cohort(hospital(*({"ecg_path": path} for path in paths)), trap_study)
    assert cohort.present["ecg"].tolist() == [False] * 6 + [True]
    assert {q.check for q in report.quarantined} == {"path-outside-root"}
    assert len(report.quarantined) == 6


def test_a_missing_file_or_folder_or_pipe_is_set_aside_and_the_sample_kept(tmp_path, hospital, trap_study):
    os.mkfifo(tmp_path / "pipe.hea")
    (tmp_path / "folder.hea").mkdir()
    site = hospital({"ecg_path": "nowhere"}, {"ecg_path": "pipe"}, {"ecg_path": "folder"}, {"ecg_path": ""})
    cohort, report = load_cohort(site, trap_study)
    assert len(cohort) == 4
    assert not cohort.present["ecg"].any()
    assert [(q.row, q.modality, q.check) for q in report.quarantined] == [
        (2, "ecg", "file-missing"),
        (3, "ecg", "file-not-regular"),
        (4, "ecg", "file-not-regular"),
    ]


# ECG


def test_microvolt_is_not_taken_for_millivolt(tmp_path, hospital, trap_study):
    x = heart()
    write_wfdb(tmp_path, "mv", x)
    write_wfdb(tmp_path, "uv", x, gain="1(0)", unit="/uV")
    write_wfdb(tmp_path, "mmhg", x, unit="/mmHg")
    raw = wfdb.rdrecord(str(tmp_path / "uv")).p_signal
    assert np.abs(raw).max() > 500  # wfdb leaves them
    site = hospital(*({"ecg_path": name} for name in ("mv", "uv", "mmhg")))
    cohort, report = load_cohort(site, trap_study)
    signal = cohort.inputs["ecg"]["signal"]
    np.testing.assert_allclose(signal[0], signal[1], atol=1e-6)
    assert [(q.row, q.check) for q in report.quarantined] == [(4, "ecg-unit-unknown")]
    assert report.repairs["ecg: converted to mV"] == 1


def test_lead_names_differ_in_case_and_order(tmp_path, hospital, trap_study):
    x, order = heart(), np.random.default_rng(1).permutation(12)
    write_wfdb(tmp_path, "a", x)
    write_wfdb(tmp_path, "b", x[:, order], leads=[LEADS[k].upper() for k in order])
    dropped = wfdb.rdrecord(str(tmp_path / "b"), channel_names=["aVR", "V1"])
    assert dropped.sig_name == ["V1"]  # wfdb leaves out AVR without a word
    cohort, _ = load_cohort(hospital({"ecg_path": "a"}, {"ecg_path": "b"}), trap_study)
    assert cohort.inputs["ecg"]["lead_mask"].all()
    assert cohort.inputs["ecg"]["signal"][0].tobytes() == cohort.inputs["ecg"]["signal"][1].tobytes()


def test_no_known_lead_is_said_and_not_an_empty_signal(tmp_path, hospital, trap_study):
    write_wfdb(tmp_path, "r", heart(2), leads=["Resp", "ABP"])
    assert wfdb.rdrecord(str(tmp_path / "r"), channel_names=["I"]).p_signal is None
    assert set_aside(hospital({"ecg_path": "r"}), trap_study) == [(2, "ecg", "no-usable-lead")]


def test_twenty_nans_do_not_spoil_a_lead(tmp_path, hospital, trap_study):
    x = heart()
    write_wfdb(tmp_path, "whole", x)
    x[1000:1020, 7] = -32768
    write_wfdb(tmp_path, "gap", x)
    x[1000:1101, 8] = -32768  # 202 ms
    write_wfdb(tmp_path, "long", x)
    assert np.isnan(wfdb.rdrecord(str(tmp_path / "gap")).p_signal[:, 7]).sum() == 20
    cohort, report = load_cohort(hospital(*({"ecg_path": n} for n in ("whole", "gap", "long"))), trap_study)
    whole, gap, long = cohort.inputs["ecg"]["signal"]
    assert np.isfinite(cohort.inputs["ecg"]["signal"]).all()
    assert np.abs(gap[7] - whole[7]).max() < 0.2
    assert gap[:7].tobytes() == whole[:7].tobytes()
    assert cohort.inputs["ecg"]["lead_mask"].sum(axis=1).tolist() == [12, 12, 11]
    assert not long[8].any()
    assert report.repairs["ecg: short gap interpolated"] == 2


def test_a_truncated_dat_is_a_reason_and_no_bare_error(tmp_path, hospital, trap_study):
    write_wfdb(tmp_path, "r", heart())
    (tmp_path / "r.dat").write_bytes((tmp_path / "r.dat").read_bytes()[:-1000])
    with pytest.raises(ValueError):  # that is all wfdb says
        wfdb.rdrecord(str(tmp_path / "r"))
    assert set_aside(hospital({"ecg_path": "r"}), trap_study) == [(2, "ecg", "ecg-signal-truncated")]


def test_missing_leads_are_masked_and_limb_leads_derived(tmp_path, hospital, trap_study):
    x = heart()
    write_wfdb(tmp_path, "r", x[:, [1, 0, 6]], leads=["II", "I", "V1"])
    cohort, _ = load_cohort(hospital({"ecg_path": "r"}), trap_study)
    assert cohort.inputs["ecg"]["lead_mask"][0].tolist() == [True] * 7 + [False] * 5
    write_wfdb(tmp_path, "all", x)
    whole = read(tmp_path, "all").arrays["signal"]
    np.testing.assert_allclose(cohort.inputs["ecg"]["signal"][0, :7], whole[:7], atol=2e-3)


def test_an_ecg_without_a_declared_unit_is_not_guessed(tmp_path):
    (tmp_path / "e.edf").write_bytes(edf_plus(heart(), units=[""] * 12))
    write_dicom(tmp_path / "d.dcm", group_of(heart(), unit=""))
    assert [check_of(tmp_path, name) for name in ("e.edf", "d.dcm")] == ["ecg-unit-unknown"] * 2
    assert read(tmp_path, "e.edf", by=mapped(unit="uV")).arrays["lead_mask"].all()


def _wfdb_bomb(folder: Path) -> str:
    (folder / "bomb.hea").write_text("bomb 60 500 800000\n" + "bomb.dat 16 1000/mV 16 0 0 0 0 I\n" * 60)
    (folder / "bomb.dat").write_bytes(b"\0" * 1000)
    return "bomb"


def _edf_bomb(folder: Path) -> str:
    data = bytearray(edf_plus(heart()))
    data[236:244] = b"99999999"
    data[256 + 13 * 216 : 256 + 13 * 216 + 8] = b"99999999"
    (folder / "bomb.edf").write_bytes(data)
    return "bomb.edf"


def _dicom_bomb(folder: Path) -> str:
    return write_dicom(folder / "bomb.dcm", group_of(heart(), NumberOfWaveformSamples=4_000_000))


@pytest.mark.parametrize("bomb", [_wfdb_bomb, _edf_bomb, _dicom_bomb])
def test_sizes_that_a_header_only_claims_are_not_allocated(tmp_path, bomb):
    name = bomb(tmp_path)
    tracemalloc.start()
    try:
        assert check_of(tmp_path, name) == "ecg-signal-truncated"
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_a_missing_modality_is_masked_and_the_sample_kept(tmp_path, hospital, trap_study):
    write_wfdb(tmp_path, "r", heart())
    empty = {"Alter": "", "Krea": "", "EF": ""}
    cohort, report = load_cohort(hospital({"ecg_path": "r"} | empty, {}, empty), trap_study)
    assert cohort.sample_ids == ("s0", "s1")
    assert cohort.present["ecg"].tolist() == [True, False]
    assert cohort.present["ehr"].tolist() == [False, True]
    assert [(q.row, q.check) for q in report.quarantined] == [(4, "no-modality")]
