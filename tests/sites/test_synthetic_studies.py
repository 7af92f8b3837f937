"""The study of every system, and what a hospital's reader makes of the cohort for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fl_client.data.cine import read_masks
from fl_client.data.load import load_cohort
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.systems import SYSTEMS
from fl_shared.site import load_site
from fl_shared.study import EvaluationPlan, load_study
from fl_sites import cli
from fl_sites.importers.ccs import PHENOTYPES
from fl_sites.study_file import write_model
from fl_sites.synthetic.cohort import EVALUATION, synthesize
from fl_sites.synthetic.plans import MODALITIES
from fl_sites.synthetic.studies import DEMOS, header, study_file

IDS = {name: [f"{k:06d}" for k in range(40)] for name in ("a", "b", "c")}
TYPES = {
    "attention": {"death": "binary", "events": "multilabel"},
    "m_prtm": {
        "death": "binary", "cause_of_death": "multiclass", "macce": "multilabel", "readmission": "survival",
        "follow_up": "multiclass", "survival": "survival", "recovery": "survival", "ef_decline": "survival",
        "fibrosis": "segmentation",
    },
    "medm2t": {"cvd_90d": "binary", "in_hospital_death": "binary", "length_of_stay": "regression"},
    "tte_alignment": {"survival": "survival"},
    "medfuse": {"in_hospital_death": "binary", "phenotypes": "multilabel"},
    "lemof": {"long_stay": "binary"},
    "baselines": {"in_hospital_death": "binary", "phenotypes": "multilabel", "long_stay": "binary"},
}  # fmt: skip
KINDS = {
    "attention": {"cine", "waveform", "table", "events", "text"},
    "m_prtm": {"cine", "table", "text"},
    "medm2t": {"waveform", "table", "events", "text"},
    "tte_alignment": {"cine", "table"},
    "medfuse": {"events", "waveform"},
    "lemof": {"waveform", "table"},
    "baselines": {"waveform", "table"},
}


def study_of(system: str, *, evaluation: EvaluationPlan = EVALUATION):
    return study_file(IDS, seed=3, evaluation=evaluation, modalities=MODALITIES, system=system)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("systems")
    synthesize(folder, sites=["a", "b"], patients=12, seed=0, system="m_prtm")
    return folder


def test_every_system_has_a_study_of_its_papers_tasks():
    assert set(DEMOS) == set(SYSTEMS) == set(TYPES)
    for system, types in TYPES.items():
        study = study_of(system)
        assert {name: task.type for name, task in study.tasks.items()} == types
        assert {plan.kind for plan in study.modalities.values()} == KINDS[system]
        assert study.model.system == system and study.model.fusion == SYSTEMS[system].fusions[0]
        private = system == "attention"
        assert study.privacy.mode == ("patient" if private else "none")
        assert ("Privacy mode 'none'" in header(system)) == (not private)
        assert study.training.rounds == (5 if private else 10)
        assert study.external_sites == ("c",) and study.synthetic
    assert study_of("medfuse").tasks["phenotypes"].labels == tuple(PHENOTYPES)
    assert study_of("m_prtm").tasks["recovery"].windows == (30, 90, 180, 365)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_file_leaves_open_what_the_system_fills_in(tmp_path, system):
    study = study_of(system)
    write_model(tmp_path / "study.toml", study, header=header(system))
    text = (tmp_path / "study.toml").read_text(encoding="utf-8")
    assert load_study(tmp_path / "study.toml") == study
    assert "phases = " not in text and "encoder = " not in text
    assert text.startswith("# SYNTHETIC") and all(len(line) <= 120 for line in text.splitlines() if line[:1] == "#")


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_cohort_has_everything_that_a_system_wants(out, system):
    ids = {name: IDS[name] for name in ("a", "b")}
    study = study_file(ids, seed=0, evaluation=EVALUATION, modalities=MODALITIES, system=system)
    for name in ids:
        cohort, report = load_cohort(load_site(out / name), study)
        assert (len(cohort), list(report.quarantined)) == (report.rows, [])
        assert set(cohort.targets) == set(study.tasks)
        assert all(mask.any() for mask in cohort.target_mask.values())
        assert all(cohort.present[modality].any() for modality in study.modalities)


def test_fibrosis_is_the_drawn_scar_of_every_cine(out):
    study = load_study(out / "study.toml")
    for name in study.sites:
        site = load_site(out / name)
        cohort, _ = load_cohort(site, study)
        target, mask = cohort.targets["fibrosis"], cohort.target_mask["fibrosis"]
        np.testing.assert_array_equal(mask.all(axis=(1, 2)), cohort.present["cine"])
        assert not mask[~cohort.present["cine"]].any() and not target[~cohort.present["cine"]].any()
        for row in np.flatnonzero(cohort.present["cine"]):
            sample = cohort.sample_ids[row]
            drawn = read_masks(
                *(site.data_dir, f"cine/{sample}", f"masks/{sample}.nii.gz"),
                plan=study.modalities["cine"],
                mapped=site.modalities["cine"],
            )
            np.testing.assert_array_equal(target[row] == 1, drawn.grid_labels == 2)
            np.testing.assert_array_equal(target[row] == 2, drawn.grid_labels == 3)
        truth = (out / "truth" / f"{name}.csv").read_text().splitlines()
        column = truth[0].split(",").index("scar")
        scarred = {line.split(",")[1]: float(line.split(",")[column]) > 0 for line in truth[1:]}
        shown = (target == 2).any(axis=(1, 2, 3, 4))
        assert [bool(s) for s in shown[cohort.present["cine"]]] == [
            scarred[cohort.sample_ids[row]] for row in np.flatnonzero(cohort.present["cine"])
        ]


def test_the_sites_do_not_depend_on_the_system(out, tmp_path):
    synthesize(tmp_path, sites=["a"], patients=12, seed=0, modalities=("ecg", "ehr"), system="lemof")
    synthesize(tmp_path / "other", sites=["a"], patients=12, seed=0, modalities=("ecg", "ehr"))
    for name in ("samples.csv", "site.toml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "other" / "a" / name).read_bytes()


def test_what_cannot_be_is_refused_with_the_nearest_name(tmp_path, monkeypatch, capsys):
    with pytest.raises(ConsiliumError) as caught:
        synthesize(tmp_path, sites=["a"], patients=12, seed=0, modalities=("ecg",), system="medfuse")
    assert caught.value.code is ExitCode.USAGE
    assert [(f.key, f.value) for f in caught.value.faults] == [("modalities", "'series'")]
    options = ["--out", str(tmp_path), "--sites", "a", "--patients", "12", "--system", "medfus", "--format", "json"]
    monkeypatch.setattr("sys.argv", ["fl-sites", "synthesize", *options])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == ExitCode.USAGE
    [fault] = json.loads(capsys.readouterr().out)["faults"]
    assert fault["key"] == "--system" and "medfuse" in fault["mend"]
    assert not list(tmp_path.iterdir())
