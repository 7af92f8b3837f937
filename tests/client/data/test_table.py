from __future__ import annotations

from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from fl_client.data.findings import Findings
from fl_client.data.table import HEADER_LINES, check_ids, check_splits, coded, numbers, read_samples, require, times


def read(path, encoding="utf-8"):
    findings = Findings()
    return read_samples(path, encoding=encoding, findings=findings), findings


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ids_stay_as_written(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"patient_id": ["00123", "1e5"], "sample_id": ["007", "NA12"], "x": ["NA", " 5 "]})
    path = tmp_path / f"samples.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    found, findings = read(path)
    assert found.to_dict("list") == {"patient_id": ["00123", "1e5"], "sample_id": ["007", "NA12"], "x": ["", "5"]}
    assert not findings.rejects


def test_typed_parquet_reads_like_csv(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {
            "patient_id": [1, 2],
            "x": [0.1, np.nan],
            "flag": [True, False],
            "index_time": pd.to_datetime(["2020-01-01 10:00", None]),
        }
    )
    frame.to_parquet(tmp_path / "s.parquet")
    found, _ = read(tmp_path / "s.parquet")
    assert found.to_dict("list") == {
        "patient_id": ["1", "2"],
        "x": ["0.1", ""],
        "flag": ["1", "0"],
        "index_time": ["2020-01-01 10:00:00", ""],
    }
    frame.assign(patient_id=[1.0, 2.0]).to_parquet(tmp_path / "s.parquet")
    _, findings = read(tmp_path / "s.parquet")
    assert [f.key for f in findings.rejects] == ["patient_id"]


def test_encoding_is_the_declared_one(tmp_path):
    (tmp_path / "s.csv").write_bytes("病人,诊断\n1,心力衰竭\n".encode("gb18030"))
    assert read(tmp_path / "s.csv", "gb18030")[0].loc[0, "诊断"] == "心力衰竭"
    frame, findings = read(tmp_path / "s.csv")
    assert frame.empty
    assert "gb18030" in findings.rejects[0].mend


@pytest.mark.parametrize("content", [b"", b'a,b\n"1,2\n3,4,5,6\n', b"PAR1 no parquet"])
def test_files_that_are_no_table_are_rejected(tmp_path, content):
    path = tmp_path / ("s.parquet" if content.startswith(b"PAR") else "s.csv")
    path.write_bytes(content)
    frame, findings = read(path)
    assert frame.empty
    assert findings.rejects[0].problem == "cannot be read"


def test_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "s.csv").write_bytes("\ufeffpatient_id,x\n1,2\n".encode())
    assert list(read(tmp_path / "s.csv")[0].columns) == ["patient_id", "x"]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a,b\n1,0,9\n2,0,8\n", [2]),  # a decimal comma in every row: pandas shifts the columns
        (b"a,b\n1,0,9\n2,8\n", [2]),
        (b"a,b\n1,2\n3\n", [3]),  # cut short
    ],
)
def test_rows_of_another_width_than_the_header_are_rejected(tmp_path, content, rows):
    (tmp_path / "s.csv").write_bytes(content)
    frame, findings = read(tmp_path / "s.csv")
    assert frame.empty
    assert [fault.row for fault in findings.rejects] == rows
    assert "quotes" in findings.rejects[0].mend


def test_rows_keep_the_line_that_an_editor_shows(tmp_path):
    (tmp_path / "s.csv").write_bytes(b'a,b\n\n1,"x\ny"\n ,\n2,z\n\n')
    frame, findings = read(tmp_path / "s.csv")
    assert frame["a"].tolist() == ["1", "2"]
    assert [int(i) + HEADER_LINES for i in frame.index] == [4, 6]
    assert not findings.rejects


@pytest.mark.parametrize("header", [b"a,a", b"a, a"])
def test_a_column_that_appears_twice_is_rejected(tmp_path, header):
    (tmp_path / "s.csv").write_bytes(header + b"\n1,2\n")
    frame, findings = read(tmp_path / "s.csv")
    assert frame.empty
    assert [(f.problem, f.value) for f in findings.rejects] == [("column appears twice", "'a'")]


def test_damaged_parquet_is_rejected_whatever_breaks(tmp_path):
    pd.DataFrame({"patient_id": ["a", "b"], "x": [0.1, 0.2]}).to_parquet(tmp_path / "s.parquet")
    whole, rng = (tmp_path / "s.parquet").read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / "s.parquet").write_bytes(data)
        frame, findings = read(tmp_path / "s.parquet")
        assert frame.empty == bool(findings.rejects)


def test_numbers_take_limits_and_mark_words():
    values, limited, wrong = numbers(
        pd.Series(["1.5", "<0.01", "> 35000", "＜5", "≥ 7", "", "5,6", "abc", "1e3", "inf"])
    )
    np.testing.assert_array_equal(values, [1.5, 0.01, 35000, 5, 7, np.nan, np.nan, np.nan, 1000, np.nan])
    assert limited.tolist() == [False, True, True, True, True, False, False, False, False, False]
    assert wrong.tolist() == [False, False, False, False, False, False, True, True, False, True]


def test_codes_ignore_a_float_tail_and_mark_the_unknown():
    values, unknown = coded(pd.Series(["1", "1.0", "ja", "", "2"]), {"1": 1, "ja": 1, "0": 0})
    np.testing.assert_array_equal(values, [1, 1, 1, np.nan, np.nan])
    assert unknown.tolist() == [False] * 4 + [True]


def test_naive_times_are_local_and_daylight_saving_is_settled():
    findings = Findings()
    column = pd.Series(
        [
            "2020-07-01 12:00",  # summer
            "2020-01-01T12:00:00",  # winter
            "2020-10-25 02:30",  # twice: the first is meant
            "2020-03-29 02:30",  # never: moved on to 03:00
            "2020-07-01T12:00:00+08:00",
            "2020-07-01T12:00:00Z",
            "20200701T14+0200",
            "2020-07-01T10Z",
            "2020-07-01",
            "01.07.2020",
            "",
        ]
    )
    found = times(column, ZoneInfo("Europe/Berlin"), findings=findings)
    hours = [None if t is pd.NaT else t.strftime("%m-%d %H:%M") for t in found]
    assert hours == [
        "07-01 10:00", "01-01 11:00", "10-25 00:30", "03-29 01:00", "07-01 04:00", "07-01 12:00", "07-01 12:00",
        "07-01 10:00", "06-30 22:00", None, None,
    ]  # fmt: skip
    assert findings.repairs.total() == 5


@pytest.mark.parametrize(
    "written",
    [
        *("2020", "2020-07", "20-07-01", "-2020-01-01", "0001-01-01", "9999-12-31 23:59", "2020-02-30", "12:00"),
        *("2020-07-01Z", "2020-07-01 10:00 CET", "2020-07-01 10:00+99:00", "2020-07-01 1:00"),
    ],
)
def test_times_without_a_whole_and_possible_date_are_unreadable(written):
    column = pd.Series([written, "2020-07-01"])
    for zone in ("Asia/Shanghai", "America/New_York"):
        assert times(column, ZoneInfo(zone), findings=Findings()).isna().tolist() == [True, False]


def test_missing_columns_name_the_nearest():
    findings = Findings()
    require(pd.DataFrame(columns=["patientid"]), {"patient_id": "required"}, file="s.csv", findings=findings)
    assert findings.rejects[0].mend == "Did you mean 'patientid'?"


def test_ids_are_required_and_samples_unique():
    frame = pd.DataFrame({"patient_id": ["a", "", "b"], "sample_id": ["1", "2", "1"]})
    findings = Findings()
    check_ids(frame, file="s.csv", findings=findings)
    assert [(f.key, f.row, f.value) for f in findings.rejects] == [("patient_id", 3, "''"), ("sample_id", 4, "'1'")]


def test_ids_with_control_characters_are_rejected():
    """numpy drops trailing NULs: two patients would become one."""
    frame = pd.DataFrame({"patient_id": ["p1", "p1\0"], "sample_id": ["1", "2"]})
    findings = Findings()
    check_ids(frame, file="s.csv", findings=findings)
    assert [(f.key, f.row) for f in findings.rejects] == [("patient_id", 3)]


def test_a_patient_stands_in_one_split():
    frame = pd.DataFrame(
        {
            "patient_id": ["a", "b", "a", "b", "a", "c", "c"],
            "split": ["train", "test", "train", "", "test", "", "train"],
        }
    )
    findings = Findings()
    check_splits(frame, file="s.csv", findings=findings)
    assert [(f.key, f.row, f.value) for f in findings.rejects] == [("patient_id", 6, "'a'")]
    check_splits(frame.drop(columns="split"), file="s.csv", findings=findings)
    assert len(findings.rejects) == 1


def test_a_column_of_wrong_values_is_listed_up_to_a_limit():
    findings = Findings()
    values = [str(k % 30) for k in range(60)]
    findings.reject_values(file="s", key="k", rows=range(2, 62), values=values, problem="p", mend="m")
    assert len(findings.rejects) == 11
    assert findings.rejects[0].value == "'0' (and 1 more rows)"
    assert findings.rejects[-1].value == "20 more values"
