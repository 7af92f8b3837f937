"""Numbers of sets of modalities, told beside one another: nobody can be counted out by subtraction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fl_client.training import between
from fl_client.training.judge import Judge, Told
from fl_client.training.pair import _differences
from fl_shared.between import tells_small
from fl_shared.counts import subsets
from fl_shared.metrics.table import METRICS
from fl_shared.results import EvaluationRow
from fl_shared.site import Site
from fl_shared.study import Study

N = 120
NEAR = "n as told of other inputs: fewer than 10 patients apart"


def study_of(make_study: Any, *modalities: str, leaky: str = "", **task: Any) -> Study:
    study = make_study()
    plan = {"kind": "embedding", "features": 2}
    body = study.model_dump(mode="json", by_alias=True)
    body["modalities"] = {m: plan | {"leaky": m == leaky} for m in modalities}
    body["tasks"] = {"death": task or {"type": "binary"}}
    return Study.model_validate(body | {"evaluation": body["evaluation"] | {"min_patients": 2}})


def judge_of(study: Study, patient: Any = None, groups: Mapping[str, Any] | None = None) -> Judge:
    site = Site.model_validate({"schema": 1, "name": "z", "state": "s", "privacy": {"min_patients": 2}})
    patient = np.arange(N) if patient is None else patient
    return Judge(study=study, site=site, cohort=SimpleNamespace(patient=patient, groups=groups or {}))  # type: ignore[arg-type]


def told(study: Study, present: Mapping[str, Any], sick: Any = None, known: Any = None) -> dict[str, Told]:
    """The first samples of each modality, or those of a mask."""
    rng = np.random.default_rng(4)
    plan = study.tasks["death"]
    target = (np.arange(N) % 2 == 0 if sick is None else sick).reshape(N, -1).astype(float)
    mask = np.ones(target.shape, bool) if known is None else known
    inside = {m: np.isin(np.arange(N), there) for m, there in present.items()}
    found = {}
    for name, members in subsets(study).items():
        here = np.flatnonzero(np.any([inside[m] for m in members], axis=0))
        columns = max(len(plan.labels), 1)
        found[name] = Told(
            rows=here, predictions={"death": rng.random((len(here), columns))}, targets={"death": target[here]},
            mask={"death": mask[here]},
        )  # fmt: skip
    return found


def rows_of(judge: Judge, said: Mapping[str, Told]) -> Iterator[EvaluationRow]:
    near = between.limits(judge, "death", said)
    for name in said:
        rows, curves = between.evaluate(judge, "death", said[name], near[name], modalities=name, model="federated")
        yield from rows
        silent = {row.label for row in rows if row.events is None}
        assert not {curve.label for curve in curves} & silent


def numbers(judge: Judge, said: Mapping[str, Told]) -> dict[str, tuple[int | None, int | None]]:
    rows = [*rows_of(judge, said)]
    assert not tells_small(rows, judge.study, least=10)  # what the gate and the coordinator look at
    return {row.modalities: (row.n, row.events) for row in rows if row.metric == "auroc"}


@pytest.mark.parametrize(
    ("lacking", "n", "events"),
    [(0, 120, 60), (1, 120, None), (9, 120, None), (10, 110, None), (19, 101, None), (20, 100, 50)],
)
def test_those_who_lack_a_modality_do_not_follow(make_study: Any, lacking: int, n: int, events: int | None) -> None:
    study = study_of(make_study, "ecg", "ehr")
    said = told(study, {"ecg": range(N - lacking), "ehr": range(N)})
    assert numbers(judge_of(study), said) == {"ecg": (n, events), "ehr": (120, 60), "all": (120, 60)}
    rows = {row.metric: row for row in rows_of(judge_of(study), said) if row.modalities == "ecg"}
    assert rows["auroc"].value is not None and rows["brier"].value is not None
    assert (NEAR in rows["auroc"].note) == (0 < lacking < 10)
    assert (rows["accuracy"].value is None) == (events is None)  # at a known n it tells them


def test_patients_are_counted_and_not_their_samples(make_study: Any) -> None:
    study = study_of(make_study, "ecg", "ehr")
    said = told(study, {"ecg": range(N - 40), "ehr": range(N)})
    patient = np.where(np.arange(N) < N - 40, np.arange(N), N + np.arange(N) % 8)
    assert numbers(judge_of(study), said)["ecg"] == (80, 40)
    assert numbers(judge_of(study, patient), said)["ecg"] == (120, None)  # 40 samples of 8 patients


def test_a_stricter_site_counts_by_its_own_minimum(make_study: Any) -> None:
    study = study_of(make_study, "ecg", "ehr")
    judge = judge_of(study)
    strict = replace(judge, site=judge.site.model_copy(update={"privacy": judge.site.privacy.model_copy(
        update={"min_patients": 30})}))  # fmt: skip
    said = told(study, {"ecg": range(N - 20), "ehr": range(N)})
    assert numbers(judge, said)["ecg"][0] == 100 and numbers(strict, said)["ecg"][0] == 120


@pytest.mark.parametrize(("both", "n"), [(0, 50), (5, None), (9, None), (10, 60), (30, 80)])
def test_those_with_both_of_two_modalities_do_not_follow(make_study: Any, both: int, n: int | None) -> None:
    """|ecg| + |ehr| - |all|: a set that would tell a few is not told at all."""
    study = study_of(make_study, "ecg", "ehr")
    said = told(study, {"ecg": range(70), "ehr": range(70 - both, N)})
    found = numbers(judge_of(study), said)
    assert found["all"] == (120, 60)
    larger, smaller = ("ecg", "ehr") if 50 + both <= 70 else ("ehr", "ecg")
    assert found[larger][0] == max(70, 50 + both)
    assert found[smaller][0] == (min(70, 50 + both) if n is not None else None)
    rows = [row for row in rows_of(judge_of(study), said) if row.modalities == smaller]
    assert all((row.value is None and row.note.startswith("suppressed: ")) == (n is None) for row in rows)


def test_the_headline_stands_and_all_is_told_as_near_it(make_study: Any) -> None:
    study = study_of(make_study, "ecg", "ehr", "note", leaky="note")
    said = told(study, {"ecg": range(100), "ehr": range(60, 115), "note": range(N)})  # 5 have a note only
    found = numbers(judge_of(study), said)
    assert found["headline"] == (115, 57) or found["headline"] == (115, 58)
    assert found["all"] == (115, None) and found["note"] == (115, None)


def test_paired_samples_count_as_a_set_too(make_study: Any) -> None:
    """ecg 100 less paired=yes 96: the 4 without the other."""
    study = study_of(make_study, "ecg", "ehr")
    study = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"subgroups": ("paired",)})})
    said = told(study, {"ecg": range(100), "ehr": [*range(96), *range(100, N)]})
    paired = np.where(np.isin(np.arange(N), range(96)), "yes", "no")
    judge = judge_of(study, groups={"paired": paired})
    judge = replace(judge, cohort=SimpleNamespace(patient=np.arange(N), groups={"paired": paired}))  # type: ignore[arg-type]
    assert numbers(judge, said) == {"all": (120, 60), "ecg": (96, None), "ehr": (120, None)}


def test_each_label_has_its_own_limit_and_classes_one(make_study: Any) -> None:
    known = np.ones((N, 2), bool)
    known[90:110, 0] = False  # of those without an ecg, 10 are known of mi
    sick = np.stack([np.arange(N) % 2 == 0, np.arange(N) % 3 == 0], axis=1)
    study = study_of(make_study, "ecg", "ehr", type="multilabel", labels=["mi", "hf"])
    rows = [*rows_of(judge_of(study), told(study, {"ecg": range(88), "ehr": range(N)}, sick, known))]
    assert not tells_small(rows, study, least=10)
    found = {(row.label, row.modalities): (row.n, row.events) for row in rows if row.metric == "auroc"}
    assert found["mi", "ecg"] == (88, None) and found["hf", "ecg"] == (88, 30)
    assert found["macro", "ecg"] == (88, None) and found["macro", "all"] == (120, None)
    kinds = np.where(np.arange(N) < 100, np.arange(N) % 3, 0)
    study = study_of(make_study, "ecg", "ehr", type="multiclass", labels=["a", "b", "c"])
    rows = [*rows_of(judge_of(study), told(study, {"ecg": range(96), "ehr": range(N)}, kinds))]
    assert not tells_small(rows, study, least=10)
    assert {row.events for row in rows if row.modalities == "ecg"} == {None}  # b and c have few without an ecg
    assert {row.n for row in rows if row.modalities == "ecg"} == {96}


@pytest.mark.parametrize("seed", range(40))
def test_no_pair_of_told_numbers_tells_a_few(make_study: Any, seed: int) -> None:
    """Against a count of the patients in every cell that two exact numbers, or three, tell."""
    rng = np.random.default_rng(seed)
    study = study_of(make_study, "ecg", "ehr", "echo", leaky="echo" if seed % 2 else "")
    shares = rng.choice([0.1, 0.5, 0.9, 0.95, 1.0], 3)
    inside = {m: np.flatnonzero(rng.random(N) < share) for m, share in zip(study.modalities, shares, strict=True)}
    inside["ecg"] = np.union1d(inside["ecg"], [0, 1, 2])
    patient, sick = rng.integers(0, 90, N), rng.random(N) < 0.4
    judge, said = judge_of(study, patient), told(study, inside, sick)
    rows = [row for row in rows_of(judge, said) if row.metric == "auroc"]
    assert not tells_small(rows, study, least=10)
    shown = {"headline" if seed % 2 else "all"}
    sets = {name: set(part.rows.tolist()) for name, part in said.items()}
    exact = {row.modalities for row in rows if row.n is not None and NEAR not in row.note}
    assert all(row.n == len(sets[row.modalities]) for row in rows if row.modalities in exact)
    assert shown <= exact or len(np.unique(patient[[*sets[min(shown)]]])) < 10
    cells = [sets[a] ^ sets[b] for a, b in combinations(exact, 2) if sets[a] <= sets[b] or sets[b] <= sets[a]]
    cells += [
        sets[a] & sets[b] for a, b in combinations(exact, 2) for u in exact - {a, b} if sets[a] | sets[b] == sets[u]
        and not (sets[a] <= sets[b] or sets[b] <= sets[a])
    ]  # fmt: skip
    assert all(len(np.unique(patient[[*cell]])) >= 10 for cell in cells if cell)


def test_differences_of_two_models_stand_beside_the_same_numbers(make_study: Any) -> None:
    study = study_of(make_study, "ecg", "ehr", "echo")
    said = told(study, {"ecg": range(115), "ehr": range(N), "echo": range(75)})
    judge = judge_of(study)
    judge.cohort.sample_ids = tuple(map(str, range(N)))  # type: ignore[misc]
    both = {(name, "death"): part for name, part in said.items()}
    found = [*_differences(judge, both, both, ids=judge.cohort.sample_ids, name="federated")]
    rows = {(row.modalities, row.metric): row for row in rows_of(judge, said)}
    assert {part.modalities: part.n for part in found} == {"ecg": 120, "ehr": 120, "echo": 75, "all": 120}
    for part in found:
        beside = rows[part.modalities, part.metric]
        assert part.n == beside.n and (part.value is None) == (beside.value is None)
        assert (part.value is None) == (part.modalities == "ecg" and METRICS[part.metric].tells_events)
