"""Real contours train: what the importer writes goes through reader, trainer and segmentation without a change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fl_client.data.load import load_cohort
from fl_client.training.judge import segment
from fl_client.training.loop import Trainer
from fl_client.training.rows import as_batch
from fl_shared.models.build import build_model, load, select
from fl_shared.models.systems import opened
from fl_shared.site import load_site
from fl_shared.study import Study, load_study
from fl_sites.importers.sunnybrook import SITE, import_sunnybrook

SOURCE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "sunnybrook-cine"
pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason=f"real data missing: {SOURCE}")

TASK = "left_ventricle"
GRID = {"frames": 2, "slices": 4, "size": 48, "field_of_view": 160.0}


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sunnybrook")
    import_sunnybrook(SOURCE, out)
    return out


def make_study(out: Path, system: str, steps: int) -> Study:
    """The importer's study with a small grid, every patient trained on."""
    body = opened(load_study(out / "study.toml").model_dump(mode="json", by_alias=True, exclude_none=True))
    body["modalities"]["cine"] |= GRID
    body["model"] = {"system": system}
    body["training"] |= {"rounds": 2, "steps": steps, "batch": 3, "learning_rate": 3e-3}
    body["evaluation"]["holdout"] = 0.01  # none of the three
    body["sites"][SITE]["patients"] = 3
    return Study.model_validate(body)


@pytest.mark.parametrize(("system", "encoder", "steps"), [("attention", "cine_cnn", 120), ("m_prtm", "dae_former", 90)])
def test_the_cavity_is_found_where_it_was_trained(imported, system, encoder, steps) -> None:
    """Overfitting on purpose, judged on the very frames that were trained on: it shows that contours, grid, loss and
    decoder fit together, and says nothing about other patients (three are too few to tell)."""
    study, site = make_study(imported, system, steps), load_site(imported / SITE)
    assert study.modalities["cine"].encoder == encoder
    cohort, _ = load_cohort(site, study)
    assert len(cohort) == 3 and not cohort.held_out.any() and cohort.target_mask[TASK].any((1, 2)).all()
    model, batch = build_model(study), as_batch(cohort, device="cpu")

    def dice() -> np.ndarray:
        told = segment(model, batch, rows=np.arange(3), tasks={TASK: study.tasks[TASK]})
        predicted, right = told.predictions[TASK][..., 0], told.predictions[TASK][..., 1]
        return 2 * right / (predicted + told.targets[TASK])

    before = dice()
    base = select(model, study.is_shared)
    released = Trainer(study=study, site=site, cohort=cohort).train(round=1, base=base, sigma=None)
    load(model, {**select(model), **released})
    after = dice()
    print(f"{system}: Dice (cavity, myocardium) {before.round(2).tolist()} -> {after.round(2).tolist()}")
    assert (before[:, 0] < 0.3).all() and (after[:, 0] > 0.5).all()
