"""What fl-sites writes is what a hospital's reader takes without a complaint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl_client.data.cine import read_masks, ventricle
from fl_client.data.findings import UnreadableError, inside
from fl_client.data.load import load_cohort
from fl_shared.site import load_site
from fl_shared.study import ModalityPlan, Study, TaskPlan, load_study
from fl_sites.importers.ptb_xl import import_ptb_xl
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.measures import MEASURES
from fl_sites.synthetic.outcomes import EVENTS, MACCE
from fl_sites.synthetic.phenotypes import PHENOTYPES

PTB_XL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "ptb-xl"
SITES = ("a", "b", "c", "d")
CINE = ModalityPlan(kind="cine", frames=8, slices=3, size=32)
SERIES = ModalityPlan(kind="events", fields=tuple(MEASURES), hours=24 * 14, bins=14)
TASKS = {
    "death": TaskPlan(type="binary"),
    "events": TaskPlan(type="multilabel", labels=EVENTS),
    "survival": TaskPlan(type="survival"),
    "cause_of_death": TaskPlan(type="multiclass", labels=("cardiac", "other")),
    "macce": TaskPlan(type="multilabel", labels=MACCE),
    "death_by_cause": TaskPlan(type="competing", labels=("cardiac", "other")),
    "readmission": TaskPlan(type="survival"),
    "recovery": TaskPlan(type="survival"),
    "ef_decline": TaskPlan(type="survival"),
    "cvd_90d": TaskPlan(type="binary"),
    "in_hospital_death": TaskPlan(type="binary"),
    "length_of_stay": TaskPlan(type="regression"),
    "long_stay": TaskPlan(type="binary"),
    "phenotypes": TaskPlan(type="multilabel", labels=PHENOTYPES),
    "follow_up": TaskPlan(type="multiclass", labels=("routine", "clinic", "device")),
}


def check(out: Path, *, sites: list[str]) -> None:
    study = load_study(out / "study.toml")
    for name in sites:
        cohort, report = load_cohort(load_site(out / name), study)
        assert (len(cohort), list(report.quarantined)) == (report.rows, [])
        if study.sites[name].role == "train":
            assert study.sites[name].patients == (~cohort.held_out).sum()
        assert all(mask.all() for mask in cohort.target_mask.values())
        assert all(cohort.present[modality].any() for modality in study.modalities)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize(folder, sites=SITES, patients=12, seed=0)
    return folder


@pytest.fixture(scope="module")
def whole(out) -> Study:
    """The written study, of every modality and task."""
    study = load_study(out / "study.toml")
    return study.model_copy(update={"modalities": {**study.modalities, "cine": CINE, "series": SERIES}, "tasks": TASKS})


def truth_of(out: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(out / "truth" / f"{name}.csv", dtype={"sample_id": str}).set_index("sample_id")


def test_synthetic_sites(out):
    check(out, sites=list(SITES))


@pytest.mark.parametrize("name", SITES)
def test_every_modality_and_outcome_is_read(out, whole, name):
    cohort, report = load_cohort(load_site(out / name), whole)
    assert (len(cohort), list(report.quarantined)) == (report.rows, [])
    truth = truth_of(out, name).loc[list(cohort.sample_ids)]
    site = load_site(out / name)
    table = pd.read_csv(site.samples_path, encoding=site.encoding, dtype=str).set_index("sample_id")
    for modality in ("cine", "ecg"):
        named = table.loc[list(cohort.sample_ids), site.modalities[modality].column].notna()
        np.testing.assert_array_equal(cohort.present[modality], named)
    told = ("not mapped", "implausible", "not a number", "unreadable", "in the future", "identifier", "cut")
    assert not [repair for repair in report.repairs if any(word in repair for word in told)]
    for task, plan in TASKS.items():
        mask = cohort.target_mask[task].all(axis=1)
        known = truth["death_event"] == 1 if task == "cause_of_death" else np.ones(len(truth), dtype=bool)
        np.testing.assert_array_equal(mask, known)
        values = cohort.targets[task][mask]
        if plan.type == "multiclass":
            column = {"cause_of_death": "death_cause"}.get(task, task)
            assert [plan.labels[int(v)] for v in values[:, 0]] == truth.loc[mask, column].tolist()
            continue
        if task == "death_by_cause":
            cause = truth["death_cause"].map({"cardiac": 1, "other": 2}).fillna(0)
            np.testing.assert_allclose(values, np.stack([truth["death_days"], cause], axis=1), atol=0.01)
            continue
        columns = {
            **{name: [f"{name}_days", f"{name}_event"] for name in ("recovery", "ef_decline")},
            "long_stay": ["los_over_7d"],
            "survival": ["death_days", "death_event"],
            "readmission": ["readmission_days", "readmission_event"],
            "length_of_stay": ["los_days"],
            "phenotypes": [f"phenotype_{label}" for label in PHENOTYPES],
        }.get(task, [label or task for label in plan.names])
        np.testing.assert_allclose(values, truth[columns], atol=0.01)


def test_series_of_all_hospitals_are_alike_after_conversion(out, whole):
    """Each hospital has its own codes and units; on the concept's scale they have the same middle."""
    middles = []
    for name in SITES:
        cohort, report = load_cohort(load_site(out / name), whole)
        values, observed = cohort.inputs["series"]["values"], cohort.inputs["series"]["observed"]
        assert cohort.present["series"].mean() > 0.9 and observed.mean(axis=(0, 1)).min() > 0.02
        assert report.repairs["series: after the index time, never used"] > 0
        middles.append([np.median(values[..., f][observed[..., f]]) for f in range(len(MEASURES))])
    assert np.ptp(middles, axis=0).max() < 1.0  # half of the working range


def test_nothing_after_the_index_time_enters(out, whole):
    """The series without its late rows gives the same arrays."""
    site = load_site(out / "b")
    with_late, _ = load_cohort(site, whole)
    path = out / "b" / "events.parquet"
    written = path.read_bytes()
    table = pd.read_parquet(path)
    samples = pd.read_csv(site.samples_path, encoding=site.encoding, parse_dates=["index_time"])
    last = samples.groupby("patient_id")["index_time"].max()
    try:
        kept = table[table["time"] <= table["subject_id"].map(last)]
        assert len(kept) < len(table)
        kept.to_parquet(path, index=False)
        without, _ = load_cohort(site, whole)
    finally:
        path.write_bytes(written)
    for key in ("values", "observed"):
        np.testing.assert_array_equal(with_late.inputs["series"][key], without.inputs["series"][key])


@pytest.mark.parametrize("name", SITES)
def test_cine_and_masks_give_the_drawn_ejection_fraction(out, name):
    site = load_site(out / name)
    mapped, truth = site.modalities["cine"], truth_of(out, name)
    samples = pd.read_csv(site.samples_path, encoding=site.encoding, dtype=str).dropna(subset=mapped.column)
    assert len(samples)
    for _, row in samples.iterrows():
        masks = read_masks(site.data_dir, row[mapped.column], row[mapped.mask_column], plan=CINE, mapped=mapped)
        heart = ventricle(masks.native, masks.annotated, spacing=masks.spacing)
        drawn = truth.loc[row["sample_id"]]
        assert heart.ef == pytest.approx(drawn["ejection_fraction"], abs=2)
        assert heart.edv == pytest.approx(drawn["volume"], rel=0.03)


def test_truth_cannot_be_reached_from_a_site(out):
    for name in SITES:
        root = load_site(out / name).data_dir
        for path in ("../truth/a.csv", str(out / "truth" / "oracle.json")):
            with pytest.raises(UnreadableError, match="path-outside-root"):
                inside(root, path)


@pytest.mark.skipif(not PTB_XL.is_dir(), reason=f"real data missing: {PTB_XL}")
def test_ptb_xl_sites(tmp_path):
    import_ptb_xl(PTB_XL, tmp_path)
    check(tmp_path, sites=["site_2", "site_3"])
