"""Every published system trains in a federation of the synthetic four-modality cohort, on its paper's tasks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from in_process import federate
from safetensors.numpy import load_file

from fl_shared.models.systems import SYSTEMS, opened
from fl_shared.study import Study
from fl_sites.synthetic.cohort import EVALUATION, synthesize
from fl_sites.synthetic.plans import MODALITIES
from fl_sites.synthetic.studies import study_file

SITES = ("nanjing", "berlin", "london")
ROUNDS = 2  # of each phase


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("systems") / "sites"
    synthesize(out, sites=SITES, patients=40, seed=5)
    return out


def make_study(cohort: Path, system: str, *, rounds: int = ROUNDS, **sections: Any) -> Study:
    """The system's study, short; ``sections`` overlay its tables."""
    ids = {name: pd.read_csv(cohort / "truth" / f"{name}.csv", dtype=str)["patient_id"] for name in SITES}
    study = study_file(ids, seed=5, evaluation=EVALUATION, modalities=MODALITIES, system=system)
    body = opened(study.model_dump(mode="json", by_alias=True))
    body["training"] |= {"steps": 2, "batch": 16, "rounds": 10}
    body["evaluation"] |= {"bootstrap": 100}
    for section, values in sections.items():
        body[section] |= values
    made = Study.model_validate(body)
    phases = [phase.model_copy(update={"rounds": rounds}) for phase in made.training.phases]
    body["training"] |= {"phases": [p.model_dump() for p in phases], "rounds": rounds * len(phases)}
    return Study.model_validate(body)


@pytest.mark.integration
@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_a_federation_trains_and_is_judged_outside(system: str, cohort: Path, tmp_path: Path) -> None:
    study = make_study(cohort, system, privacy={"mode": "none", "epsilon": None}, training={"encoders": "shared"})
    results = federate(study, sites=cohort, folder=tmp_path)
    assert [r.outcome for r in results.rounds] == ["committed"] * (1 + ROUNDS * len(study.training.phases))
    before, number = load_file(tmp_path / "run/rounds/round_0000/model.safetensors"), 0
    for phase in study.training.phases:
        number += phase.rounds
        after = load_file(tmp_path / f"run/rounds/round_{number:04d}/model.safetensors")
        changed = {name for name in after if not np.array_equal(before[name], after[name])}
        assert changed and all(study.releases(name, number) for name in changed), phase.name
        assert all(np.isfinite(array).all() for array in after.values())
        before = after
    outside = [row for row in results.evaluation if row.site == SITES[-1] and row.modalities == "all"]
    assert {row.task for row in outside} == set(study.tasks)
    told = [row for row in outside if row.value is not None]
    assert {row.task for row in told} == set(study.tasks)
    assert all(row.role == "external" and math.isfinite(row.value) for row in told)
    assert results.study.system == system and results.study.synthetic


PRIVATE: dict[str, dict[str, Any]] = {
    "attention": {},
    "m_prtm": {},
    "medm2t": {},
    "tte_alignment": {},
    "medfuse": {},
    "lemof": {"levels": {"ecg": 2, "ehr": 2}},
    "baselines": {"fusion": "drfuse"},
}


@pytest.mark.integration
@pytest.mark.parametrize("system", sorted(PRIVATE))
def test_every_system_has_a_private_form(system: str, cohort: Path, tmp_path: Path) -> None:
    """One step a phase under patient-level privacy, with the per-patient gradient self-test of every phase."""
    study = make_study(
        cohort, system, rounds=1, privacy={"mode": "patient", "epsilon": 8.0},
        training={"steps": 1, "batch": 8, "encoders": "shared"}, model=PRIVATE[system],
    )  # fmt: skip
    results = federate(study, sites=cohort, folder=tmp_path)
    assert [r.outcome for r in results.rounds] == ["committed"] * (1 + len(study.training.phases))
    assert all(0 < results.privacy.epsilon_spent[site] <= 8.0 for site in study.train_sites)


def test_what_has_no_private_form_is_refused_with_its_reason(cohort: Path) -> None:
    private = {"mode": "patient", "epsilon": 8.0}
    with pytest.raises(ValueError, match="contrastive loss couples patients"):
        make_study(cohort, "tte_alignment", model={"fusion": "contrastive"}, privacy=private)
    with pytest.raises(ValueError, match="best level is a release of its own"):
        make_study(cohort, "lemof", privacy=private)
    cox = {"survival": {"type": "survival", "survival_model": "cox"}}
    with pytest.raises(ValueError, match="Cox loss of task 'survival' couples patients"):
        make_study(cohort, "tte_alignment", tasks=cox, privacy=private)


@pytest.mark.integration
@pytest.mark.parametrize("fusion", ["concat", "contrastive", "co_attention"])
def test_each_alignment_trains(fusion: str, cohort: Path, tmp_path: Path) -> None:
    study = make_study(cohort, "tte_alignment", rounds=1, model={"fusion": fusion})
    results = federate(study, sites=cohort, folder=tmp_path)
    assert {r.outcome for r in results.rounds} == {"committed"}
    assert len(results.rounds) == (3 if fusion == "contrastive" else 2)


@pytest.mark.integration
@pytest.mark.parametrize("fusion", ["early", "unified"])
def test_baselines_train(fusion: str, cohort: Path, tmp_path: Path) -> None:
    """The one with phases of its own, and the one with most heads; drfuse: under privacy, above."""
    study = make_study(cohort, "baselines", rounds=1, model={"fusion": fusion})
    results = federate(study, sites=cohort, folder=tmp_path)
    assert [r.outcome for r in results.rounds] == ["committed"] * (3 if fusion == "early" else 2)
    told = {row.task for row in results.evaluation if row.site == SITES[-1] and row.value is not None}
    assert told == set(study.tasks)
