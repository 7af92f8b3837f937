from __future__ import annotations

import ast
import filecmp
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import load_site
from fl_shared.study import is_held_out, load_study
from fl_sites.importers.ptb_xl import EVALUATION, import_ptb_xl

SOURCE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ptb-xl"
pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason=f"real data missing: {SOURCE}")

COUNTS = {"site_0": 205, "site_1": 125, "site_2": 13, "site_3": 55}
TEXT_COLUMNS = {"patient_id": str, "sample_id": str}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    out = tmp_path_factory.mktemp("ptb_xl")
    return out, import_ptb_xl(SOURCE, out)


@pytest.fixture(scope="module")
def samples(imported):
    return {name: pd.read_csv(imported[0] / name / "samples.csv", dtype=TEXT_COLUMNS) for name in COUNTS}


@pytest.fixture
def small(tmp_path):
    """A download cut to its first six records."""
    source = tmp_path / "download"
    (source / "records100" / "00000").mkdir(parents=True)
    database = pd.read_csv(SOURCE / "ptbxl_database.csv").head(6)
    database.to_csv(source / "ptbxl_database.csv", index=False)
    shutil.copyfile(SOURCE / "scp_statements.csv", source / "scp_statements.csv")
    for record in database["filename_lr"]:
        for suffix in (".hea", ".dat"):
            shutil.copyfile(SOURCE / f"{record}{suffix}", source / f"{record}{suffix}")
    return source


def test_counts_by_site(imported, samples):
    _, done = imported
    assert dict(done.records) == COUNTS == {name: len(table) for name, table in samples.items()}
    assert dict(done.patients) == {name: table["patient_id"].nunique() for name, table in samples.items()}
    assert set(done.left_out.values()) == {0}


def test_no_patient_at_two_sites_and_records_stay_together(samples):
    seen: set[str] = set()
    for table in samples.values():
        assert not seen & set(table["patient_id"])
        seen |= set(table["patient_id"])
    source = pd.read_csv(SOURCE / "ptbxl_database.csv")
    assert seen == set(source["patient_id"].astype(int).astype(str))
    largest = pd.concat(samples.values()).groupby("patient_id").size()
    assert largest.max() == source.groupby("patient_id").size().max() == 8
    assert not pd.concat(samples.values())["sample_id"].duplicated().any()


def test_labels_equal_the_releases_own_aggregation(samples):
    """Independent oracle: the loop of PTB-XL's example_physionet.py."""
    database = pd.read_csv(SOURCE / "ptbxl_database.csv", index_col="ecg_id")
    statements = pd.read_csv(SOURCE / "scp_statements.csv", index_col=0)
    diagnostic = statements[statements.diagnostic == 1]

    def aggregate(codes):
        return {diagnostic.loc[key].diagnostic_class for key in codes if key in diagnostic.index}

    expected = database.scp_codes.apply(ast.literal_eval).apply(aggregate)
    table = pd.concat(samples.values()).set_index("sample_id")
    table.index = table.index.astype(int)
    for name in ("NORM", "MI", "STTC", "CD", "HYP"):
        want = expected.apply(lambda classes, name=name: int(name in classes))
        assert (table[f"superclass_{name}"] == want.loc[table.index]).all()
        assert want.sum() > 0
    assert (table["mi"] == table["superclass_MI"]).all()


def test_columns_keep_the_values_of_the_release(samples):
    database = pd.read_csv(SOURCE / "ptbxl_database.csv", index_col="ecg_id")
    table = pd.concat(samples.values()).set_index("sample_id")
    rows = database.loc[table.index.astype(int)]
    for name in ("age", "sex", "height", "weight"):
        np.testing.assert_array_equal(table[name].to_numpy(float), rows[name].to_numpy(float))
    assert table["index_time"].tolist() == rows["recording_date"].tolist()


def test_files_are_unmodified_and_reports_complete(imported, samples):
    out, _ = imported
    database = pd.read_csv(SOURCE / "ptbxl_database.csv", index_col="ecg_id")
    for name, table in samples.items():
        for row in table.itertuples():
            origin = SOURCE / database.loc[int(row.sample_id), "filename_lr"]
            for suffix in (".hea", ".dat"):
                copied = (out / name / row.ecg_path).with_suffix(suffix)
                assert filecmp.cmp(copied, origin.with_suffix(suffix), shallow=False)
            report = (out / name / row.text_path).read_text(encoding="utf-8")
            assert report == database.loc[int(row.sample_id), "report"] + "\n"
    first = samples["site_3"].iloc[0]
    copied = wfdb.rdrecord(str((out / "site_3" / first["ecg_path"]).with_suffix("")))
    origin = wfdb.rdrecord(str(SOURCE / database.loc[int(first["sample_id"]), "filename_lr"]))
    np.testing.assert_array_equal(copied.p_signal, origin.p_signal)


def test_study_and_sites_load(imported, samples):
    out, done = imported
    study = load_study(done.study)
    assert (study.train_sites, study.external_sites) == (("site_0", "site_1", "site_2"), ("site_3",))
    for name in study.train_sites:
        patients = set(samples[name]["patient_id"])
        held_out = {p for p in patients if is_held_out(p, site=name, plan=EVALUATION)}
        assert study.sites[name].patients == len(patients - held_out)
        assert 0 < len(held_out) < 0.35 * len(patients)
    assert study.evaluation == EVALUATION
    assert study.modalities["text"].leaky
    assert study.tasks["superclass"].headline == ("NORM", "MI", "STTC", "CD")
    for name, table in samples.items():
        site = load_site(out / name)
        assert set(site.columns) <= set(table.columns)
        assert {column for task in site.tasks.values() for column in task.columns.values()} <= set(table.columns)


def test_ages_above_89_are_90(small, tmp_path):
    database = pd.read_csv(small / "ptbxl_database.csv")
    database.loc[0, "age"] = 300
    database.to_csv(small / "ptbxl_database.csv", index=False)
    import_ptb_xl(small, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "site_0" / "samples.csv")
    assert table.loc[0, "age"] == 90


def test_records_without_site_and_patients_at_two_sites(small, tmp_path):
    database = pd.read_csv(small / "ptbxl_database.csv")
    database["site"] = [0, 0, 3, np.nan, 3, 3]
    database["patient_id"] = [1, 2, 1, 4, 5, 6]
    database.to_csv(small / "ptbxl_database.csv", index=False)
    done = import_ptb_xl(small, tmp_path / "out")
    assert dict(done.records) == {"site_0": 2, "site_3": 2}
    assert dict(done.left_out) == {"no site": 1, "patient at an earlier site": 1}


def test_everything_missing_is_told_at_once(tmp_path):
    with pytest.raises(ConsiliumError) as caught:
        import_ptb_xl(tmp_path, tmp_path / "out")
    assert caught.value.code is ExitCode.DATA
    assert {fault.key for fault in caught.value.faults} == {"ptbxl_database.csv", "scp_statements.csv", "records100"}
    assert not (tmp_path / "out").exists()


def test_missing_and_truncated_signals_are_counted(small, tmp_path):
    records = pd.read_csv(small / "ptbxl_database.csv")["filename_lr"]
    (small / f"{records[0]}.dat").write_bytes(b"short")
    for record in records[1:4]:
        (small / f"{record}.hea").unlink()
        (small / f"{record}.dat").unlink()
    with pytest.raises(ConsiliumError) as caught:
        import_ptb_xl(small, tmp_path / "out")
    absent, short = caught.value.faults
    assert absent.key == "6 of 12 files" and absent.value.endswith("and 1 more")
    assert short.key == "1 of 12 files" and short.value == f"{records[0]}.dat"
    assert not (tmp_path / "out").exists()


def test_wrong_tables_name_their_columns(small, tmp_path):
    (small / "ptbxl_database.csv").write_text("<html>\n<p>a,b,c,d\n")
    (small / "scp_statements.csv").write_text(",description\nNORM,normal\n")
    with pytest.raises(ConsiliumError) as caught:
        import_ptb_xl(small, tmp_path / "out")
    keys = [fault.key for fault in caught.value.faults]
    assert {"patient_id", "site", "scp_codes", "diagnostic", "diagnostic_class"} <= set(keys)


def test_import_twice_gives_the_same(small, tmp_path):
    import_ptb_xl(small, tmp_path / "out")
    before = {p: p.read_bytes() for p in sorted((tmp_path / "out").rglob("*")) if p.is_file()}
    import_ptb_xl(small, tmp_path / "out")
    assert {p: p.read_bytes() for p in sorted((tmp_path / "out").rglob("*")) if p.is_file()} == before
