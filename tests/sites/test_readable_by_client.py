"""What fl-sites writes is what a hospital's reader takes without a complaint."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_client.data.load import load_cohort
from fl_shared.site import load_site
from fl_shared.study import load_study
from fl_sites.importers.ptb_xl import import_ptb_xl
from fl_sites.synthetic.cohort import synthesize

PTB_XL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ptb-xl"


def check(out: Path, *, sites: list[str]) -> None:
    study = load_study(out / "study.toml")
    for name in sites:
        cohort, report = load_cohort(load_site(out / name), study)
        assert (len(cohort), list(report.quarantined)) == (report.rows, [])
        if study.sites[name].role == "train":
            assert study.sites[name].patients == (~cohort.held_out).sum()
        assert all(mask.all() for mask in cohort.target_mask.values())
        assert all(cohort.present[modality].any() for modality in study.modalities)


def test_synthetic_sites(tmp_path):
    synthesize(tmp_path, sites=["a", "b", "c", "d"], patients=12, seed=0)
    check(tmp_path, sites=["a", "b", "c", "d"])


@pytest.mark.skipif(not PTB_XL.is_dir(), reason=f"real data missing: {PTB_XL}")
def test_ptb_xl_sites(tmp_path):
    import_ptb_xl(PTB_XL, tmp_path)
    check(tmp_path, sites=["site_2", "site_3"])
