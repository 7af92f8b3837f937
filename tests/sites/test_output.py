from __future__ import annotations

import pytest

from fl_shared.errors import ConsiliumError, ExitCode
from fl_sites.output import claim, seal


def write(out, *, sites):
    claim(out, folders=sites)
    for name in sites:
        (out / name / "samples.csv").write_text("x")
        (out / name / "ecg").mkdir()
        (out / name / "site.toml").write_text(f"name = '{name}'")
    (out / "study.toml").write_text("schema = 1")
    seal(out)


def test_own_folders_are_replaced_but_state_stays(tmp_path):
    write(tmp_path, sites=["a", "b"])
    ledger = tmp_path / "a" / "state" / "ledger.jsonl"
    ledger.parent.mkdir()
    ledger.write_text("spent")
    (tmp_path / "a" / "ecg" / "old.dat").write_text("old")
    write(tmp_path, sites=["a", "b", "c"])
    assert ledger.read_text() == "spent"
    assert not (tmp_path / "a" / "ecg" / "old.dat").exists()


def test_foreign_folders_are_all_named_and_left_alone(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "samples.csv").write_text("precious")
    with pytest.raises(ConsiliumError) as caught:
        claim(tmp_path, folders=["a", "b", "c"])
    assert caught.value.code is ExitCode.SITE
    assert [fault.file for fault in caught.value.faults] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert all("--out" in fault.mend for fault in caught.value.faults)
    assert (tmp_path / "a" / "samples.csv").read_text() == "precious"
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("edited", ["study.toml", "b/site.toml"])
def test_edited_files_are_not_overwritten(tmp_path, edited):
    write(tmp_path, sites=["a", "b"])
    (tmp_path / edited).write_text("mine")
    with pytest.raises(ConsiliumError, match="not as fl-sites wrote it") as caught:
        claim(tmp_path, folders=["a", "b"])
    assert [fault.file for fault in caught.value.faults] == [str(tmp_path / edited)]
    (tmp_path / edited).unlink()
    claim(tmp_path, folders=["a", "b"])


def test_foreign_study_is_not_overwritten(tmp_path):
    (tmp_path / "study.toml").write_text("mine")
    with pytest.raises(ConsiliumError, match=r"study\.toml"):
        claim(tmp_path, folders=["a"])


def test_run_that_broke_off_can_be_repeated(tmp_path):
    claim(tmp_path, folders=["a"])
    (tmp_path / "a" / "ecg").mkdir()
    write(tmp_path, sites=["a"])
