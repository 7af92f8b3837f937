from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from fl_sites.importers.mimic_iv import import_mimic_iv
from fl_sites.importers.mimic_iv_source import REQUIRED

sys.path.insert(0, str(Path(__file__).parent))
from mimic_iv_tables import PATIENTS, SOURCE, expected_stays, table, write


@pytest.fixture(scope="session")
def imported(tmp_path_factory):
    out = tmp_path_factory.mktemp("mimic_iv")
    return out, import_mimic_iv(SOURCE, out)


@pytest.fixture(scope="session")
def samples(imported):
    out, done = imported
    tables = {
        name: pd.read_csv(out / name / "samples.csv", dtype={"patient_id": str, "sample_id": str})
        for name in done.records
    }
    return pd.concat([table.assign(site=name) for name, table in tables.items()]).set_index("sample_id")


@pytest.fixture(scope="session")
def expected():
    return expected_stays()


@pytest.fixture(scope="session")
def cut(tmp_path_factory):
    """The demo, cut to a few patients."""
    source = tmp_path_factory.mktemp("download") / "physionet" / "mimiciv"
    for name in (key.removesuffix(".csv.gz") for key in REQUIRED):
        whole = table(SOURCE, name)
        write(source / f"{name}.csv.gz", whole[whole["subject_id"].isin(PATIENTS)])
    return source


@pytest.fixture
def small(cut, tmp_path):
    return Path(shutil.copytree(cut, tmp_path / "physionet" / "mimiciv"))
