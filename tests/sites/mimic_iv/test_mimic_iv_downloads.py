from __future__ import annotations

from datetime import timedelta

import pandas as pd
import pytest
from mimic_iv_tables import INDEX, NEEDS_DEMO, STAY, table, write

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.study import is_held_out
from fl_sites.importers import mimic_iv_source
from fl_sites.importers.mimic_iv import import_mimic_iv
from fl_sites.importers.mimic_iv_plan import EVALUATION
from fl_sites.importers.mimic_iv_source import REQUIRED

pytestmark = NEEDS_DEMO


def test_odd_stays_are_left_out_by_reason(small, tmp_path):
    stays, admissions = table(small, "icu/icustays"), table(small, "hosp/admissions")
    kept = import_mimic_iv(small, tmp_path / "before").left_out
    long = stays[stays["stay_id"] == STAY].iloc[[0]]
    hadm = long["hadm_id"].iloc[0]
    odd = [long.assign(stay_id="1", outtime="", los=""), long.assign(stay_id="2", first_careunit="A new unit")]
    write(small / "icu" / "icustays.csv.gz", pd.concat([stays, *odd]))
    after = import_mimic_iv(small, tmp_path / "out").left_out
    assert {reason: after[reason] - kept[reason] for reason in kept if after[reason] != kept[reason]} == {
        **{"begin or end of the stay not known": 1, "patient at an earlier unit type": 1}
    }
    dead = admissions["hadm_id"] == hadm
    admissions.loc[dead, ["deathtime", "hospital_expire_flag"]] = [str(INDEX - timedelta(hours=1)), "1"]
    write(small / "hosp" / "admissions.csv.gz", admissions)
    again = import_mimic_iv(small, tmp_path / "out")
    assert again.left_out["dead or discharged from hospital within 48 h"] == 2
    assert "icu_cardiac_surgery" not in again.records


def test_unknown_unit_is_a_site_of_its_own(small, tmp_path):
    stays = table(small, "icu/icustays")
    stays.loc[stays["stay_id"] == STAY, "first_careunit"] = "A new unit"
    write(small / "icu" / "icustays.csv.gz", stays)
    assert import_mimic_iv(small, tmp_path / "out").records["icu_other"] == 1


def test_everything_missing_is_told_at_once(tmp_path):
    (tmp_path / "hosp").mkdir()
    (tmp_path / "hosp" / "omr.csv.gz").write_text("<html>no such page</html>")
    write(tmp_path / "hosp" / "patients.csv.gz", pd.DataFrame({"subject_id": ["1"], "gender": ["F"]}))
    with pytest.raises(ConsiliumError, match="MIMIC-IV") as caught:
        import_mimic_iv(tmp_path, tmp_path / "out")
    assert caught.value.code is ExitCode.DATA
    missing = {fault.key for fault in caught.value.faults if fault.problem == "missing"}
    assert missing == set(REQUIRED) - {"hosp/omr.csv.gz", "hosp/patients.csv.gz"}
    others = {fault.key: fault.problem for fault in caught.value.faults if fault.problem != "missing"}
    assert others.pop("hosp/omr.csv.gz").startswith("no such table")
    assert others == {
        f"hosp/patients.csv.gz: {column}": "column missing"
        for column in ("anchor_age", "anchor_year", "anchor_year_group", "dod")
    }
    assert not (tmp_path / "out").exists()


def test_table_cut_short_is_refused(small, tmp_path):
    path = small / "hosp" / "labevents.csv.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ConsiliumError, match="cut short or damaged") as caught:
        import_mimic_iv(small, tmp_path / "out")
    assert [fault.file for fault in caught.value.faults] == [str(path)]


def test_value_of_another_type_is_refused(small, tmp_path):
    stays = table(small, "icu/icustays")
    stays.loc[0, "intime"] = "yesterday"
    write(small / "icu" / "icustays.csv.gz", stays)
    with pytest.raises(ConsiliumError, match=r"icustays\.csv\.gz.*damaged"):
        import_mimic_iv(small, tmp_path / "out")


def test_tables_of_two_releases_are_refused(small, tmp_path):
    for name in ("hosp/patients", "hosp/admissions"):
        whole = table(small, name)
        write(small / f"{name}.csv.gz", whole[whole["subject_id"] != "10004422"])
    with pytest.raises(ConsiliumError, match="one release") as caught:
        import_mimic_iv(small, tmp_path / "out")
    assert [(fault.key, fault.problem) for fault in caught.value.faults] == [
        ("subject_id", "the stay has no row here"),
        ("hadm_id", "the stay has no row here"),
    ]


def test_import_twice_gives_the_same_bytes(small, tmp_path, monkeypatch):
    def files():
        return {p: p.read_bytes() for p in sorted((tmp_path / "out").rglob("*")) if p.is_file()}

    import_mimic_iv(small, tmp_path / "out")
    before = files()
    monkeypatch.setattr(mimic_iv_source, "_BLOCK", 20_000)  # other blocks, other patients at a time
    monkeypatch.setattr("fl_sites.importers.mimic_iv_events._PATIENTS", 2)
    import_mimic_iv(small, tmp_path / "out")
    after = files()
    parquet = {path for path in after if path.suffix == ".parquet"}
    assert {p: b for p, b in after.items() if p not in parquet} == {p: b for p, b in before.items() if p not in parquet}
    monkeypatch.undo()
    import_mimic_iv(small, tmp_path / "out")
    assert files() == before


@pytest.mark.parametrize(("patients", "said"), [((), "no stay is left"), (("10004720",), "too few patients")])
def test_too_small_downloads_are_refused_before_anything_is_written(small, tmp_path, patients, said):
    stays = table(small, "icu/icustays")
    write(small / "icu" / "icustays.csv.gz", stays[stays["subject_id"].isin(patients)])
    held_out = {"10004720": is_held_out("10004720", site="icu_surgical", plan=EVALUATION)}
    assert all(held_out[patient] for patient in patients)
    with pytest.raises(ConsiliumError, match=said) as caught:
        import_mimic_iv(small, tmp_path / "out")
    assert caught.value.code is ExitCode.DATA and not (tmp_path / "out").exists()
