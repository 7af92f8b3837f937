"""Samples that lack a modality: which of them are trained on, and who of them is told apart and hidden in judging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fl_client.data.cohort import Cohort
from fl_client.data.traits import has_every, paired_groups
from fl_client.pretraining import Pretraining, pretraining_study
from fl_client.training.gradients import Gradients, Ranks
from fl_client.training.hidden import hidden_inputs
from fl_client.training.rows import as_batch, phase_rows, trained_rows
from fl_shared.errors import ConsiliumError
from fl_shared.models.build import build_model
from fl_shared.study import PhasePlan, Study, hidden_draw, is_taken

TOGETHER = PhasePlan(name="p", rounds=1)


def with_share(study: Study, share: float, **evaluation: Any) -> Study:
    body = study.model_dump(mode="json", by_alias=True)
    body["training"]["unpaired"] = share
    return Study.model_validate(body | {"evaluation": body["evaluation"] | evaluation})


def lacking(cohort: Cohort) -> np.ndarray:
    return ~(cohort.present["ecg"] & cohort.present["ehr"])


def test_paired_samples_and_those_of_drawn_patients_are_trained_on(
    make_study: Callable[..., Study], make_cohort: Callable[..., Cohort]
) -> None:
    cohort, plan = make_cohort("a"), make_study()
    training = cohort.rows(held_out=False)
    incomplete = training[lacking(cohort)[training]]
    assert 4 < len(incomplete) < len(training)
    before: set[int] = set()
    for share in (0.0, 0.3, 0.6, 1.0):
        study = with_share(plan, share)
        rows = trained_rows(cohort, TOGETHER, study=study)
        drawn = {p for p in cohort.patient_ids if is_taken(p, site="a", plan=study.evaluation, share=share)}
        wanted = [r for r in training if r not in incomplete or cohort.patient_ids[cohort.patient[r]] in drawn]
        assert rows.tolist() == wanted
        assert before <= set(wanted)  # a larger share keeps those of a smaller one
        before = set(wanted)
    assert before == set(training) and not cohort.held_out[cohort.patient[sorted(before)]].any()


def test_the_share_is_of_patients_and_apart_from_other_draws(make_study: Callable[..., Study]) -> None:
    plan, some = make_study().evaluation, [f"p{k}" for k in range(4000)]
    taken = np.array([is_taken(p, site="a", plan=plan, share=0.2) for p in some])
    assert taken.mean() == pytest.approx(0.2, abs=0.02)
    there = np.array([is_taken(p, site="b", plan=plan, share=0.2) for p in some])
    assert (taken & there).mean() == pytest.approx(0.04, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_patient_more_changes_only_its_own_records(
    make_study: Callable[..., Study], make_cohort: Callable[..., Cohort], share: float
) -> None:
    """What Poisson sampling and its accounting assume: nobody's part hangs on who else is there."""
    cohort, study = make_cohort("a"), with_share(make_study(), share)
    every = trained_rows(cohort, TOGETHER, study=study)
    for gone in range(len(cohort.patient_ids)):
        kept = cohort.patient != gone
        number = np.cumsum(np.arange(len(cohort.patient_ids)) != gone) - 1
        less = replace(
            cohort,
            sample_ids=tuple(s for s, k in zip(cohort.sample_ids, kept, strict=True) if k),
            patient_ids=tuple(p for k, p in enumerate(cohort.patient_ids) if k != gone),
            patient=number[cohort.patient[kept]],
            held_out=np.delete(cohort.held_out, gone),
            present={m: there[kept] for m, there in cohort.present.items()},
        )
        rows = trained_rows(less, TOGETHER, study=study)
        names = {less.sample_ids[row] for row in rows}
        assert names == {cohort.sample_ids[row] for row in every if cohort.patient[row] != gone}


def test_a_phase_that_trains_each_modality_alone_leaves_nobody_out(
    make_study: Callable[..., Study], make_cohort: Callable[..., Cohort]
) -> None:
    cohort, study = make_cohort("a"), with_share(make_study(), 0.0)
    for objective in ("unimodal", "masked", "segmentation"):
        alone = PhasePlan(name="p", rounds=1, objective=objective, patients="fit")
        rows = trained_rows(cohort, alone, study=study)
        assert rows.tolist() == phase_rows(cohort, alone, site="a", plan=study.evaluation).tolist()
    fit = PhasePlan(name="p", rounds=1, patients="fit")
    rows = trained_rows(cohort, fit, study=study)
    assert len(rows) > 0 and not lacking(cohort)[rows].any()
    assert set(rows) < set(phase_rows(cohort, fit, site="a", plan=study.evaluation))


def test_private_steps_draw_the_kept_at_the_declared_rate_and_divide_by_what_is_declared(
    make_study: Callable[..., Study], make_cohort: Callable[..., Cohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    """q and the divisor hang on the plan alone: the number of those left out is told nowhere."""
    cohort, study = make_cohort("a"), with_share(make_study(mode="patient", dropout=0.0, batch=8), 0.0)
    batch = as_batch(cohort, device=torch.device("cpu"))
    gradients = Gradients(
        build_model(study), study=study, cohort=cohort, phase=study.phase(1), ranks=Ranks(rank=0, world=1), batch=batch
    )
    kept = {int(p) for p in cohort.patient[trained_rows(cohort, TOGETHER, study=study)]}
    drawn: list[np.ndarray] = []
    sums: list[dict[str, torch.Tensor]] = []

    def clipped(self: Any, rows: Any, **_: Any) -> dict[str, torch.Tensor]:
        drawn.append(rows.index.numpy().copy())  # the reader writes over it
        return {"w": torch.full((3,), 5.0)}

    monkeypatch.setattr(type(gradients._clipper), "clipped_sum", clipped)
    monkeypatch.setattr("fl_client.training.gradients.add_noise", lambda found, **_: found)
    long = study.model_copy(update={"training": study.training.model_copy(update={"steps": 400})})
    monkeypatch.setattr(gradients, "_study", long)
    sums.extend(gradients.private(batch, sigma=1.0))
    gradients.close()
    q = study.sampling_rate("a")
    assert q == 8 / 24
    counts = np.bincount(np.concatenate(drawn), minlength=len(cohort.patient_ids))
    assert {int(p) for p in np.flatnonzero(counts)} == kept
    assert counts[sorted(kept)] / 400 == pytest.approx(np.full(len(kept), q), abs=0.12)
    assert sums[0]["w"].tolist() == pytest.approx([5.0 / (q * 24)] * 3)


def test_a_site_without_paired_samples_says_so(
    make_study: Callable[..., Study], make_cohort: Callable[..., Cohort], make_trainer: Callable[..., Any]
) -> None:
    cohort = make_cohort("a")
    alone = replace(cohort, present={"ecg": cohort.present["ecg"], "ehr": ~cohort.present["ecg"]})
    with pytest.raises(ConsiliumError, match="no patient to train on"):
        make_trainer(with_share(make_study(), 0.0), known=alone)


def test_paired_is_every_modality_of_the_headline(
    make_study: Callable[..., Study], make_cohort: Callable[..., Cohort]
) -> None:
    cohort, plan = make_cohort("a"), make_study()
    assert has_every(cohort.present, plan.modalities).tolist() == (~lacking(cohort)).tolist()
    assert set(paired_groups(cohort.present, plan.modalities)) == {"yes", "no"}
    leaky = make_study(leaky=True)
    groups = paired_groups(cohort.present, leaky.modalities)
    assert [g == "yes" for g in groups] == cohort.present["ecg"].tolist()


def test_only_the_named_modalities_are_hidden(
    make_study: Callable[..., Study], make_cohort: Callable[..., Cohort]
) -> None:
    cohort = make_cohort("a")
    study = with_share(make_study(), 1.0, hidden=[0.25, 0.75, 1.0], hidden_of=["ecg"])
    found = hidden_inputs(cohort, study)
    assert [*found] == ["hidden=0.25", "hidden=0.75", "hidden=1"]
    ecg, ehr = cohort.present["ecg"], cohort.present["ehr"]
    draws = [hidden_draw(p, site="a", modality="ecg", plan=study.evaluation) for p in cohort.patient_ids]
    for share, shown in zip((0.25, 0.75, 1.0), found.values(), strict=True):
        gone = np.array([draws[p] < share for p in cohort.patient]) & ehr  # never the last of a row
        assert shown["ecg"].tolist() == (ecg & ~gone).tolist()
        assert shown["ehr"].tolist() == ehr.tolist()
    assert (ecg & ~ehr).any() and not (found["hidden=1"]["ecg"] & ehr).any()
    every = hidden_inputs(cohort, with_share(make_study(), 1.0, hidden=[0.75], hidden_of=["ecg", "ehr"]))
    plain = hidden_inputs(cohort, with_share(make_study(), 1.0, hidden=[0.75]))
    for m in ("ecg", "ehr"):
        assert every["hidden=0.75"][m].tolist() == plain["hidden=0.75"][m].tolist()


def test_pretraining_of_one_modality_asks_for_none_of_it(make_study: Callable[..., Study]) -> None:
    asked = {"hidden": [0.5], "hidden_of": ["ecg"], "subgroups": ["paired"], "feature_groups": {"frame": ["bmi"]}}
    study = with_share(make_study(), 0.2, **asked)
    made = pretraining_study(
        study, "a", Pretraining(modalities=("ecg",), objective="masked", rounds=2, provenance="local")
    )
    assert made.training.unpaired == 1 and not made.evaluation.feature_groups
    assert made.evaluation.split == study.evaluation.split
