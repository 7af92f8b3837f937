"""What a judged model attends to, and what it loses without a group of fields: against plain loops over patients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fl_client.data.cohort import Cohort
from fl_client.data.traits import paired_groups
from fl_client.egress import Egress
from fl_client.training.attention import attention
from fl_client.training.findings import judged
from fl_client.training.importance import dropped_fields, importance, shown_without, without
from fl_client.training.judge import Judge, predict
from fl_client.training.rows import as_batch
from fl_shared.counts import subsets
from fl_shared.metrics.bootstrap import patient_weights
from fl_shared.models.build import build_model
from fl_shared.models.model import MultimodalModel
from fl_shared.results import Findings
from fl_shared.site import Site
from fl_shared.study import Study

PATIENTS, RECORDS = 200, 260
GROUPS = {"frame": ["age", "bmi"], "labs": ["creatinine", "sodium"], "rare": ["heart_rate"]}
ASKED = {"subsets": "every", "subgroups": ["paired"], "hidden": [0.5, 1.0], "hidden_of": ["ecg"],
         "feature_groups": GROUPS}  # fmt: skip
TABLE, SERIES = ("age", "sex", "bmi", "creatinine"), ("sodium", "heart_rate", "potassium")


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    body = make_study(model={"system": "m_prtm", "fusion": "modality_attention"}).model_dump(mode="json", by_alias=True)
    body["modalities"] = {
        "ecg": body["modalities"]["ecg"],
        "ehr": {"kind": "table", "fields": list(TABLE)},
        "icu": {"kind": "events", "fields": list(SERIES), "hours": 8.0, "bins": 4},
        "note": {"kind": "embedding", "features": 3, "leaky": True},
    }
    del body["training"]["phases"]
    tasks = {
        "death": {"type": "binary"},
        "mace": {"type": "multilabel", "labels": ["mi", "hf"], "headline": ["hf"]},
        "ef": {"type": "regression", "offset": 55.0, "scale": 10.0},
    }
    return Study.model_validate(body | {"tasks": tasks, "evaluation": body["evaluation"] | ASKED})


@pytest.fixture
def site(tmp_path: Any) -> Site:
    made = Site.model_validate({"schema": 1, "name": "z", "state": "state", "privacy": {"min_patients": 2}})
    made._folder = tmp_path
    made.state_dir.mkdir()
    return made


@pytest.fixture
def cohort(study: Study) -> Cohort:
    rng, n = np.random.default_rng(8), RECORDS
    patient = np.sort(np.concatenate([np.arange(PATIENTS), rng.integers(PATIENTS, size=n - PATIENTS)]))
    sick = (rng.random(PATIENTS) < 0.4)[patient]
    there = {m: rng.random(n) < share for m, share in {"ecg": 0.8, "ehr": 0.8, "icu": 0.6, "note": 0.5}.items()}
    there["ehr"] |= ~(there["ecg"] | there["icu"])
    table = (rng.random((n, 4)) < 0.8) & there["ehr"][:, None]
    table[: n // 8, 1:] = False  # only 'age' is left, or nothing
    series = (rng.random((n, 4, 3)) < 0.7) & there["icu"][:, None, None]
    series[..., 1] &= (patient < 6)[:, None]  # few have a heart rate
    signal = rng.normal(size=(n, 2, 100)) * np.where(sick, 2, 1)[:, None, None] * there["ecg"][:, None, None]
    made = Cohort(
        site="z",
        sample_ids=tuple(f"s{k}" for k in range(n)),
        patient_ids=tuple(f"p{k}" for k in range(PATIENTS)),
        patient=patient.astype(np.int64),
        held_out=np.arange(PATIENTS) % 2 == 0,
        inputs={
            "ecg": {"signal": signal.astype(np.float32), "lead_mask": np.ones((n, 2), bool)},
            "ehr": {"values": (rng.normal(size=(n, 4)) + sick[:, None]).astype(np.float32) * table, "observed": table},
            "icu": {"values": rng.normal(size=(n, 4, 3)).astype(np.float32) * series, "observed": series},
            "note": {"vectors": rng.normal(size=(n, 1, 3)).astype(np.float32) * there["note"][:, None, None],
                     "mask": there["note"][:, None]},
        },
        present=there,
        targets={
            "death": sick[:, None].astype(np.float32),
            "mace": np.stack([rng.random(n) < 0.3, sick], axis=1).astype(np.float32),
            "ef": (60 - 15 * sick + rng.normal(0, 5, n))[:, None].astype(np.float32),
        },
        target_mask={"death": np.ones((n, 1), bool), "mace": rng.random((n, 2)) < 0.9, "ef": np.ones((n, 1), bool)},
    )  # fmt: skip
    return replace(made, groups={"paired": paired_groups(there, study.modalities)})


@pytest.fixture
def model(study: Study) -> MultimodalModel:
    made = build_model(study)
    with torch.no_grad():
        for p in made.fusion.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)
    return made


@pytest.fixture
def judge(study: Study, site: Site, cohort: Cohort) -> Judge:
    return Judge(study=study, site=site, cohort=cohort)


@pytest.fixture
def found(judge: Judge, model: MultimodalModel) -> Findings:
    return judged(judge, model, as_batch(judge.cohort, device=torch.device("cpu")), name="federated")


def changed(cohort: Cohort, dropped: dict[str, list[int]]) -> Cohort:
    """A cohort that never observed these fields."""
    inputs, present = dict(cohort.inputs), dict(cohort.present)
    for m, at in dropped.items():
        values, observed = (np.array(cohort.inputs[m][key]) for key in ("values", "observed"))
        values[..., at], observed[..., at] = 0, False
        inputs[m] = {"values": values, "observed": observed}
        present[m] = present[m] & observed.any(axis=tuple(range(1, observed.ndim)))
    return replace(cohort, inputs=inputs, present=present)


def risks(model: MultimodalModel, study: Study, cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """Rows with something of the headline's inputs, and what is said of death from them."""
    said = predict(
        model, as_batch(cohort, device=torch.device("cpu")), rows=np.arange(len(cohort)),
        tasks={"death": study.tasks["death"]}, subsets={"headline": ("ecg", "ehr", "icu")},
    )["headline"]  # fmt: skip
    return said.rows, said.predictions["death"][:, 0].astype(np.float64)


def test_all_that_is_asked_for_passes_the_gate(found: Findings, study: Study, site: Site) -> None:
    assert Egress(site).release_findings(found, study=study, round=1, min_patients=2) == found
    assert {part.group for part in found.importance} == set(GROUPS)
    assert {part.task for part in found.importance} == set(study.tasks)
    assert {part.metric for part in found.importance} == {"auroc", "mae"}
    assert [part.modality for part in found.attention] == ["ecg", "ehr", "icu"]
    told = {row.subgroup for row in found.evaluation if row.value is not None}
    assert told >= {"paired=yes", "paired=no", "hidden=0.5", "hidden=1"}


def test_attention_is_the_mean_over_the_judged_samples_and_resampled_patients(
    found: Findings, study: Study, cohort: Cohort, model: MultimodalModel
) -> None:
    batch = as_batch(cohort, device=torch.device("cpu"))
    shown = replace(batch, present=batch.present | {"note": torch.zeros(RECORDS, dtype=torch.bool)})
    model.eval()
    shares = model.shares(shown)
    assert shares is not None
    n = {row.n for row in found.evaluation if (row.modalities, row.task, row.subgroup) == ("headline", "death", "")}
    draws: dict[str, list[float]] = {m: [] for m in ("ecg", "ehr", "icu")}
    [weights] = patient_weights(PATIENTS, resamples=study.evaluation.bootstrap, seed=study.seed, rows=10**6)
    for drawn in weights:
        rows = np.repeat(np.arange(RECORDS), drawn[cohort.patient])
        for m in draws:
            draws[m].append(float(shares[m].numpy().astype(np.float64)[rows].mean()))
    values = {}
    for part in found.attention:
        mean, (low, high) = shares[part.modality].mean().item(), np.percentile(draws[part.modality], [2.5, 97.5])
        assert (part.value, part.ci_low, part.ci_high) == pytest.approx((mean, low, high), abs=0.00501)
        assert {part.n} == n == {RECORDS}
        values[part.modality] = part.value
    assert sum(v or 0 for v in values.values()) == pytest.approx(1, abs=0.02) and max(map(float, values.values())) < 0.8


def test_attention_that_would_tell_of_few_patients_is_withheld(
    judge: Judge, model: MultimodalModel, study: Study, site: Site
) -> None:
    """All of it: what the others get tells what one gets."""
    few = judge.cohort.present["icu"] & (judge.cohort.patient < 8)
    lacking = ~judge.cohort.present["icu"] & (judge.cohort.patient < 8)
    for icu in (few, ~lacking):
        known = replace(judge.cohort, present=judge.cohort.present | {"icu": icu})
        here = replace(judge, cohort=known)
        found = judged(here, model, as_batch(known, device=torch.device("cpu")), name="federated")
        assert [part.value for part in found.attention] == [None] * 3
        assert {part.note for part in found.attention} == {"suppressed: fewer than 10 patients"}
        Egress(site).check_findings(found, study=study, min_patients=2)
    nobody = replace(judge.cohort, present=judge.cohort.present | {"icu": np.zeros(RECORDS, bool)})
    found = judged(replace(judge, cohort=nobody), model, as_batch(nobody, device=torch.device("cpu")), name="federated")
    assert [part.value for part in found.attention if part.modality == "icu"] == [0.0]


def test_a_fusion_without_shares_tells_none(judge: Judge, model: MultimodalModel, monkeypatch: Any) -> None:
    monkeypatch.setattr(type(model.fusion), "shares", lambda *_: None)
    batch = as_batch(judge.cohort, device=torch.device("cpu"))
    found = judged(judge, model, batch, name="federated")
    assert not found.attention and found.contributions
    said = predict(model, batch, rows=judge.rows(), tasks=judge.study.tasks, subsets={"headline": ("ecg",)})["headline"]
    assert attention(judge, said, found.evaluation, model="federated") == []


@pytest.mark.parametrize(("group", "at"), [("frame", {"ehr": [0, 2]}), ("labs", {"ehr": [3], "icu": [0]})])
def test_the_worth_of_a_group_is_a_paired_difference(
    found: Findings, judge: Judge, model: MultimodalModel, group: str, at: dict[str, list[int]]
) -> None:
    """Against a cohort that never observed the fields, scikit-learn and a loop over resamples."""
    study, cohort = judge.study, judge.cohort
    rows, whole = risks(model, study, cohort)
    some, less = risks(model, study, changed(cohort, at))
    assert rows.tolist() == [*range(RECORDS)]
    filled = np.full(RECORDS, whole.mean())
    filled[some] = less
    if group == "frame":
        assert len(some) < RECORDS  # rows of which nothing is left
    death = cohort.targets["death"][:, 0]
    differences = []
    [weights] = patient_weights(PATIENTS, resamples=study.evaluation.bootstrap, seed=study.seed, rows=10**6)
    for drawn in weights:
        w = drawn[cohort.patient]
        one, other = (roc_auc_score(death, risk, sample_weight=w) for risk in (whole, filled))
        differences.append(one - other)
    [part] = [p for p in found.importance if (p.group, p.task) == (group, "death")]
    value = roc_auc_score(death, whole) - roc_auc_score(death, filled)
    low, high = np.percentile(differences, [2.5, 97.5])
    assert (part.value, part.ci_low, part.ci_high) == pytest.approx((value, low, high), abs=0.000501)
    assert part.n == RECORDS and abs(value) > 0.002


def test_a_group_that_few_have_is_not_told_of(found: Findings, cohort: Cohort) -> None:
    assert 0 < len(np.unique(cohort.patient[cohort.inputs["icu"]["observed"][..., 1].any(1)])) < 10
    rare = [part for part in found.importance if part.group == "rare"]
    assert {part.label for part in rare if part.task == "mace"} == {"mi", "hf", "macro"}
    assert all(part.value is None and part.note == "suppressed: fewer than 10 patients" for part in rare)
    assert all(part.value is not None for part in found.importance if part.group != "rare")


def test_only_the_encoders_of_the_changed_modalities_run_again(judge: Judge, model: MultimodalModel) -> None:
    runs: list[str] = []
    for name, encoder in model.encoders.items():
        encoder.register_forward_hook(lambda *_, name=name: runs.append(name))
    judged(judge, model, as_batch(judge.cohort, device=torch.device("cpu")), name="federated")
    chunks = -(-RECORDS // 256)
    counts = {name: runs.count(name) // chunks for name in model.encoders}
    assert counts == {"ecg": 1, "ehr": 1 + 2, "icu": 1 + 2, "note": 1}  # frame and labs; labs and rare


def test_a_view_leaves_the_batch_as_it_was(judge: Judge, model: MultimodalModel) -> None:
    study, batch = judge.study, as_batch(judge.cohort, device=torch.device("cpu"))
    before = {m: {k: v.clone() for k, v in named.items()} for m, named in batch.inputs.items()}
    dropped = dropped_fields(study)
    assert dropped[without("labs")] == {"ehr": (3,), "icu": (0,)}
    shown = shown_without(judge.cohort, study, dropped)
    assert not any(view["note"].any() for view in shown.values())
    said = predict(
        model, batch, rows=judge.rows(), tasks=study.tasks, subsets=subsets(study), hidden=shown, dropped=dropped
    )
    for m, named in before.items():
        assert all(torch.equal(batch.inputs[m][key], value) for key, value in named.items())
    assert importance(judge, "death", said, shown="headline", model="federated")


def test_the_model_alone_without_options_tells_neither(judge: Judge, model: MultimodalModel) -> None:
    plan = judge.study.evaluation.model_copy(update={"subsets": "alone", "feature_groups": {}})
    plain = replace(judge, study=judge.study.model_copy(update={"evaluation": plan}))
    batch = as_batch(judge.cohort, device=torch.device("cpu"))
    found = judged(plain, model, batch, name="federated")
    assert not found.attention and not found.importance
    found = judged(judge, model, batch, name="personal", whole=False)
    assert not found.attention and not found.importance


@pytest.mark.parametrize("patients", [6, 14, 25, 60])
def test_small_cohorts_with_gaps_pass_the_gate_too(
    study: Study, site: Site, cohort: Cohort, model: MultimodalModel, patients: int
) -> None:
    """What the gate refuses is withheld before: otherwise nothing at all would leave."""
    rows, rng = cohort.patient < patients, np.random.default_rng(patients)
    n = int(rows.sum())
    known = replace(
        cohort, sample_ids=cohort.sample_ids[:n], patient_ids=cohort.patient_ids[:patients],
        patient=cohort.patient[rows], held_out=cohort.held_out[:patients],
        inputs={m: {k: v[rows] for k, v in named.items()} for m, named in cohort.inputs.items()},
        present={m: there[rows] for m, there in cohort.present.items()},
        targets={task: each[rows] for task, each in cohort.targets.items()},
        target_mask={task: each[rows] & (rng.random((n, 1)) < 0.9) for task, each in cohort.target_mask.items()},
        groups={name: each[rows] for name, each in cohort.groups.items()},
    )  # fmt: skip
    batch = as_batch(known, device=torch.device("cpu"))
    found = judged(Judge(study=study, site=site, cohort=known), model, batch, name="federated")
    Egress(site).check_findings(found, study=study, min_patients=2)
    assert len(found.attention) == 3 and found.importance
    if patients < 10:
        assert all(part.value is None for part in (*found.attention, *found.importance))
