"""Counts of a cohort: against a plain loop, and under the removal of each patient."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fl_client.data.cohort import Cohort
from fl_client.training import noised as noised_judging
from fl_client.training import recalibration as recalibrating
from fl_client.training import statistics as counting
from fl_client.training.judge import Judge, predict
from fl_client.training.recalibration import recalibration
from fl_client.training.rows import as_batch, one_record
from fl_client.training.statistics import exact_statistics, statistics
from fl_shared.concepts import concept, unscale
from fl_shared.counts import recalibration_sensitivity, risk_sensitivity, statistics_schema, statistics_sensitivity
from fl_shared.errors import ConsiliumError
from fl_shared.models.build import build_model, select
from fl_shared.study import Study

PATIENTS, RECORDS = 60, 130
FIELDS, SERIES = ("age", "sex", "creatinine"), ("sbp", "crp")


def study(**evaluation: Any) -> Study:
    return Study.model_validate(
        {
            "schema": 1,
            "name": "counting",
            "seed": 3,
            "sites": {"a": {"role": "train", "patients": 48}, "z": {"role": "external"}},
            "tasks": {
                "death": {"type": "binary"},
                "mace": {"type": "multilabel", "labels": ["mi", "hf"]},
                "ward": {"type": "multiclass", "labels": ["icu", "ccu", "other"]},
            },
            "modalities": {
                "ehr": {"kind": "table", "fields": FIELDS},
                "series": {"kind": "events", "fields": SERIES, "hours": 24.0, "bins": 4},
            },
            "model": {"width": 8, "heads": 2},
            "training": {"rounds": 1, "steps": 1, "batch": 8},
            "privacy": {"mode": "none"},
            "rounds": {"quorum": 1},
            "evaluation": {"salt": "saltsaltsalt", "bootstrap": 100, "min_patients": 2, **evaluation},
            "statistics": {"modalities": ["ehr", "series"], "tasks": ["death", "mace", "ward"]},
        }
    )


def cohort(seed: int = 0) -> Cohort:
    """About two records a patient, a fifth held out, a fifth of the values, modalities and labels missing."""
    rng = np.random.default_rng(seed)
    patient = np.sort(np.concatenate([np.arange(PATIENTS), rng.integers(PATIENTS, size=RECORDS - PATIENTS)]))
    there = rng.random((RECORDS, 2)) < 0.8
    there[~there.any(1)] = True
    observed = rng.random((RECORDS, 3)) < 0.8
    values = rng.normal(0, 0.5, (RECORDS, 3)).astype(np.float32)
    values[:, 1] = rng.choice([-1.0, 1.0], RECORDS)  # codes of sex on the concept's scale
    return Cohort(
        site="a",
        sample_ids=tuple(f"s{k}" for k in range(RECORDS)),
        patient_ids=tuple(f"p{k}" for k in range(PATIENTS)),
        patient=patient.astype(np.int64),
        held_out=rng.random(PATIENTS) < 0.2,
        inputs={
            "ehr": {"values": values, "observed": observed},
            "series": {
                "values": rng.normal(0, 0.5, (RECORDS, 4, 2)).astype(np.float32),
                "observed": rng.random((RECORDS, 4, 2)) < 0.6,
            },
        },
        present={"ehr": there[:, 0], "series": there[:, 1]},
        targets={
            "death": (rng.random((RECORDS, 1)) < 0.4).astype(np.float32),
            "mace": (rng.random((RECORDS, 2)) < 0.4).astype(np.float32),
            "ward": rng.integers(3, size=(RECORDS, 1)).astype(np.float32),
        },
        target_mask={name: rng.random((RECORDS, c)) < 0.8 for name, c in {"death": 1, "mace": 2, "ward": 1}.items()},
    )


def without(known: Cohort, rows: np.ndarray) -> Cohort:
    """The cohort as it were without these records; patients who have no other are gone."""
    kept = np.setdiff1d(np.arange(len(known)), rows)
    here, patient = np.unique(known.patient[kept], return_inverse=True)
    return replace(
        known,
        sample_ids=tuple(known.sample_ids[k] for k in kept),
        patient_ids=tuple(known.patient_ids[k] for k in here),
        patient=patient.astype(np.int64),
        held_out=known.held_out[here],
        inputs={m: {k: v[kept] for k, v in named.items()} for m, named in known.inputs.items()},
        present={m: v[kept] for m, v in known.present.items()},
        targets={t: v[kept] for t, v in known.targets.items()},
        target_mask={t: v[kept] for t, v in known.target_mask.items()},
    )


def distance(one: Any, other: Any) -> float:
    return float(np.sqrt(sum(((one[name] - other[name]) ** 2).sum() for name in one)))


def test_one_record_a_patient_by_its_hash_alone() -> None:
    known, plan = cohort(), study().evaluation
    rows = one_record(known, rows=known.rows(held_out=False), plan=plan)
    assert len(set(known.patient[rows])) == len(rows) == (~known.held_out).sum()
    for row in rows:
        mine = [k for k in range(RECORDS) if known.patient[k] == known.patient[row]]
        oracle = min(mine, key=lambda k: hashlib.sha256(f"{plan.salt}\0record\0a\0s{k}".encode()).digest())
        assert row == oracle
    gone = without(known, np.flatnonzero(known.patient == known.patient[rows[0]]))
    again = one_record(gone, rows=gone.rows(held_out=False), plan=plan)
    assert {gone.sample_ids[k] for k in again} == {known.sample_ids[k] for k in rows[1:]}


def test_counts_are_those_of_a_plain_loop() -> None:
    known, plan = cohort(), study()
    found = exact_statistics(plan, known)
    assert {name: (cells.shape, str(cells.dtype)) for name, cells in found.items()} == statistics_schema(plan)
    rows = one_record(known, rows=known.rows(held_out=False), plan=plan.evaluation)
    age = np.zeros(67, int)
    for row in rows:
        if known.present["ehr"][row] and known.inputs["ehr"]["observed"][row, 0]:
            value = unscale(known.inputs["ehr"]["values"][row, :1], concept("age"))[0]
            age[1 + min(63, int(value / (120 / 64)))] += 1
        else:
            age[66] += 1
    assert found["fields.ehr.age"].tolist() == age.tolist()
    sex = [0, 0, 0]
    for row in rows:
        seen = known.present["ehr"][row] and known.inputs["ehr"]["observed"][row, 1]
        sex[int(known.inputs["ehr"]["values"][row, 1] > 0) if seen else 2] += 1
    assert found["fields.ehr.sex"].tolist() == sex
    for label in (0, 1):
        counts = [0, 0, 0]
        for row in rows:
            counts[int(known.targets["mace"][row, label]) if known.target_mask["mace"][row, label] else 2] += 1
        assert found["tasks.mace"][label].tolist() == counts
    ward = [0, 0, 0, 0]
    for row in rows:
        ward[int(known.targets["ward"][row, 0]) if known.target_mask["ward"][row, 0] else 3] += 1
    assert found["tasks.ward"].tolist() == ward


def test_a_series_is_counted_by_one_of_its_own_bins() -> None:
    known, plan = cohort(), study()
    sbp = known.inputs["series"]
    values = np.full_like(sbp["values"], -0.9)
    values[:, 2, 0] = 0.9
    only_third = {"values": values, "observed": np.zeros_like(sbp["observed"])}
    only_third["observed"][:, 2, 0] = True
    found = exact_statistics(plan, replace(known, inputs={**known.inputs, "series": only_third}))
    told = np.flatnonzero(found["fields.series.sbp"][:-1])
    assert len(told) == 1 and found["fields.series.crp"][-1] == (~known.held_out).sum()  # crp is nowhere observed
    every = {"values": values, "observed": np.ones_like(sbp["observed"])}
    both = exact_statistics(plan, replace(known, inputs={**known.inputs, "series": every}))["fields.series.sbp"]
    share = both[told[0]] / both[:-1].sum()
    assert 0.05 < share < 0.5  # a quarter of the drawn bins is the third


def test_each_patient_moves_the_statistics_by_the_sensitivity() -> None:
    known, plan = cohort(), study()
    whole, bound = exact_statistics(plan, known), statistics_sensitivity(plan)
    assert bound == pytest.approx((5 + 1 + 2 + 1) ** 0.5)
    for patient in range(PATIENTS):
        fewer = exact_statistics(plan, without(known, np.flatnonzero(known.patient == patient)))
        expected = 0.0 if known.held_out[patient] else bound
        assert distance(whole, fewer) == pytest.approx(expected)


def test_what_is_told_is_noised_or_without_small_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    known, plan = cohort(), study()
    asked: list[Any] = []
    monkeypatch.setattr(counting, "noised", lambda counts, **how: asked.append((counts, how)) or counts)
    statistics(plan, known, sigma=3.0, min_patients=500)  # a true number of patients must not decide under noise
    assert asked[0][1] == {"sigma": 3.0, "sensitivity": statistics_sensitivity(plan)}
    told = statistics(plan, known, sigma=None, min_patients=10)
    assert all(((cells == 0) | (cells >= 10)).all() for cells in told.values())
    assert told["fields.ehr.age"].sum() == told["fields.series.sbp"].sum() == (~known.held_out).sum()
    assert not any(cells.any() for cells in statistics(plan, known, sigma=None, min_patients=500).values())


def made(plan: Study) -> tuple[Any, Any]:
    """A model whose risks are spread, as a trained one's."""
    model = build_model(plan)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("heads.") and parameter.dim() == 2:
                parameter.mul_(8)
    return model, select(model)


def logit_counts(plan: Study, known: Cohort, model: Any) -> Any:
    """The exact counts, as they are noised."""
    caught: list[Any] = []
    real = recalibrating.noised
    recalibrating.noised = lambda counts, **how: caught.append((counts, how)) or counts
    try:
        recalibration(plan, known, model, as_batch(known, device=next(model.parameters()).device),
                      tasks=("death", "mace"), sigma=1.0, min_patients=2)  # fmt: skip
    finally:
        recalibrating.noised = real
    return caught[0]


def test_logits_and_events_are_those_of_a_plain_loop() -> None:
    known, plan = cohort(), study(recalibrate=True)
    model, _ = made(plan)
    counts, how = logit_counts(plan, known, model)
    assert how == {"sigma": 1.0, "sensitivity": recalibration_sensitivity(plan, ("death", "mace"))}
    rows = one_record(known, rows=known.rows(held_out=False), plan=plan.evaluation)
    batch = as_batch(known, device=next(model.parameters()).device)
    said = predict(model, batch, rows=rows, tasks={"death": plan.tasks["death"]}, subsets={"all": ("ehr", "series")})
    cells, events = np.zeros(66, int), 0
    for risk, row in zip(said["all"].predictions["death"][:, 0], said["all"].rows, strict=True):
        if known.target_mask["death"][row, 0]:
            z = min(50.0, np.log(float(risk)) - np.log1p(-min(float(risk), 1 - 1e-12)))
            cells[min(65, max(0, 1 + int(np.floor((z + 8) / 0.25))))] += 1
            events += int(known.targets["death"][row, 0])
    assert counts["tasks.death"][0].tolist() == [*cells, events]
    assert len(np.flatnonzero(cells)) > 3


@pytest.mark.parametrize("kind", ["recalibration", "evaluation"])
def test_no_patient_moves_the_counts_of_a_model_by_more_than_the_sensitivity(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, make_trainer: Callable[..., Any]
) -> None:
    known, plan = cohort(), study(recalibrate=True)
    model, _ = made(plan)
    site = make_trainer(study(), known=known)._site
    caught: list[Any] = []
    monkeypatch.setattr(noised_judging, "noised", lambda counts, **how: caught.append((counts, how)) or counts)

    def exact(cohort_: Cohort) -> Any:
        if kind == "recalibration":
            return logit_counts(plan, cohort_, model)[0]
        judge = Judge(study=plan, site=site, cohort=cohort_)
        batch = as_batch(cohort_, device=next(model.parameters()).device)
        noised_judging.judge_noised(judge, model, batch, name="federated", sigma=2.0, epsilon=1.0)
        assert caught[-1][1] == {"sigma": 2.0, "sensitivity": risk_sensitivity(plan)}
        return caught[-1][0]

    bound = recalibration_sensitivity(plan, ("death", "mace")) if kind == "recalibration" else risk_sensitivity(plan)
    whole, moved = exact(known), []
    for patient in range(0, PATIENTS, 2):
        found = distance(whole, exact(without(known, np.flatnonzero(known.patient == patient))))
        counted = known.held_out[patient] == (kind == "evaluation")
        assert found <= bound + 1e-9 if counted else found == 0
        moved.append(found)
    assert max(moved) > 0.6 * bound  # so that the bound is no idle one


def test_recalibration_without_noise_tells_no_small_cell() -> None:
    known, plan = cohort(), study(recalibrate=True)
    model, _ = made(plan)
    batch = as_batch(known, device=next(model.parameters()).device)
    told = recalibration(plan, known, model, batch, tasks=("death",), sigma=None, min_patients=2)["tasks.death"]
    rows = one_record(known, rows=known.rows(held_out=False), plan=plan.evaluation)
    there = known.target_mask["death"][rows, 0]
    events = int(known.targets["death"][rows, 0][there].sum())
    small = min(events, there.sum() - events) < 10 or 0 < (~there).sum() < 10
    assert ((told == 0) | (told >= 10)).all()
    assert told.any() != small
    if not small:
        assert told[0, -1] == events and told[0, :-1].sum() == there.sum()
    full = replace(known, target_mask={**known.target_mask, "death": np.ones((RECORDS, 1), bool)})
    batch = as_batch(full, device=batch.index.device)
    told = recalibration(plan, full, model, batch, tasks=("death",), sigma=None, min_patients=2)["tasks.death"]
    events = int(full.targets["death"][rows, 0].sum())
    assert events >= 10 and told[0, -1] == events and told[0, :-1].sum() == len(rows)
    few = recalibration(plan, full, model, batch, tasks=("death",), sigma=None, min_patients=len(rows) + 1)
    assert not few["tasks.death"].any()


def test_judging_with_noise_asks_for_its_epsilon_and_back(make_trainer: Callable[..., Any], make_study: Any) -> None:
    plain = make_study()
    noised = plain.model_copy(update={"evaluation": plain.evaluation.model_copy(update={"epsilon": 3.0})})
    arrays = select(build_model(plain), plain.is_shared)
    with pytest.raises(ConsiliumError, match="no judging with sigma"):
        make_trainer(noised).evaluate(arrays=arrays)
    with pytest.raises(ConsiliumError, match="no judging with sigma"):
        make_trainer(plain).evaluate(arrays=arrays, sigma=2.0)
    found = make_trainer(noised).evaluate(arrays=arrays, sigma=0.01, name="recalibrated")
    rows, curves = found.evaluation, found.curves
    assert curves == () and {row.model for row in rows} == {"recalibrated"}
    assert {row.task for row in rows} == {"death", "mace"}


def test_the_recalibrated_model_is_judged_on_its_own_tasks(make_trainer: Callable[..., Any]) -> None:
    plan = study(recalibrate=True)
    trainer = make_trainer(plan, known=cohort())
    arrays = select(build_model(plan), plan.is_shared)
    assert {row.task for row in trainer.evaluate(arrays=arrays).evaluation} == {"death", "mace", "ward"}
    found = trainer.evaluate(arrays=arrays, name="recalibrated")
    rows, curves = found.evaluation, found.curves
    assert {row.task for row in rows} == {"death", "mace"}
    assert {part.model for part in (*rows, *curves)} == {"recalibrated"}
