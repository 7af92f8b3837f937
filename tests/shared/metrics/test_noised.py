"""Metrics from noised histograms: unbiased, with intervals that hold the truth, and honest about what is withheld."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from fl_shared.counts import RISKS
from fl_shared.metrics.noised import NOISED, WITHHELD, Noised, Place, is_noised, noised_note, noised_rows
from fl_shared.metrics.table import metrics_of
from fl_shared.study import TaskPlan

PLACE = Place(site="a", role="external", task="t", modalities="all", model="federated")


def histogram(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    cells = np.clip((p * RISKS.cells).astype(int), 0, RISKS.cells - 1)
    return np.stack([np.bincount(cells[y == side], minlength=RISKS.cells) for side in (0, 1)])


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(-1.5, 1.3, n)
    return 1 / (1 + np.exp(-z)), (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int)


def label(counts: np.ndarray, *, sd: float, seed: int = 0, resamples: int = 200) -> Noised:
    noise = np.random.default_rng(seed).normal(0, sd, counts.shape) if sd else 0
    return Noised(counts=np.rint(counts + noise).astype(np.int64), sd=sd, resamples=resamples, seed=seed + 10_000)


def test_without_noise_they_are_the_metrics_of_binned_risks() -> None:
    p, y = drawn(3000, 0)
    found = label(histogram(p, y), sd=0.0).values()
    assert found["auroc"] == pytest.approx(roc_auc_score(y, p), abs=2e-3)
    binned = (np.clip((p * 50).astype(int), 0, 49) + 0.5) / 50
    assert found["auroc"] == pytest.approx(roc_auc_score(y, binned), abs=1e-12)
    assert found["brier"] == pytest.approx(brier_score_loss(y, binned), abs=1e-12)
    assert found["expected_observed"] == pytest.approx(binned.sum() / y.sum(), abs=1e-12)


@pytest.mark.parametrize("sd", [2.0, 8.0])
def test_estimates_are_unbiased_and_intervals_cover(sd: float) -> None:
    whole = histogram(*drawn(400_000, 9)).astype(float)
    truth = label(whole, sd=0.0).values()
    hits, values = [], []
    for seed in range(200):
        one = label(histogram(*drawn(2000, seed)), sd=sd, seed=seed + 1000)
        draws = one.draws()
        hits.append([np.percentile(draws[m], 2.5) <= truth[m] <= np.percentile(draws[m], 97.5) for m in NOISED])
        values.append([one.values()[m] for m in NOISED])
    assert np.mean(hits, axis=0).min() >= 0.9
    middle = np.median(values, axis=0)
    assert middle == pytest.approx([truth[m] for m in NOISED], rel=0.02)


def rows_of(plan: TaskPlan, labels: dict[str, Noised], **more: float) -> dict:
    rows = noised_rows(PLACE, plan, labels, epsilon=2.5, min_patients=10, **more)
    assert is_noised(rows, epsilon=2.5)
    return {(row.label, row.metric): row for row in rows}


def test_rows_say_how_they_came_about() -> None:
    rows = rows_of(TaskPlan(type="binary"), {"": label(histogram(*drawn(2000, 1)), sd=5.0)})
    assert set(rows) == {("", m) for m in metrics_of("binary")}
    auroc = rows["", "auroc"]
    assert auroc.note == noised_note(2.5) == "noised: epsilon 2.5 of the judged patients"
    assert auroc.ci_low < auroc.value < auroc.ci_high and auroc.n is not None and auroc.events is not None
    for metric in set(metrics_of("binary")) - set(NOISED):
        assert (rows["", metric].value, rows["", metric].note) == (None, WITHHELD)


def test_small_numbers_are_withheld_as_in_exact_results() -> None:
    few = np.zeros((2, 50), np.int64)
    few[0, 3], few[1, 20] = 4, 3
    assert rows_of(TaskPlan(type="binary"), {"": label(few, sd=0.0)})["", "auroc"].note.startswith("suppressed")
    few[0, 3] = 60
    rows = rows_of(TaskPlan(type="binary"), {"": label(few, sd=0.0)})
    assert rows["", "auroc"].value == 1.0 and rows["", "auroc"].events is None
    assert rows["", "expected_observed"].value is None
    few[1] = 0
    assert rows_of(TaskPlan(type="binary"), {"": label(few, sd=0.0)})["", "auroc"].note.startswith("not defined")
    few[1] = -2  # the noise says fewer than nobody
    assert rows_of(TaskPlan(type="binary"), {"": label(few, sd=0.0)})["", "auroc"].note.startswith("not defined")


def test_means_over_labels_and_types_without_a_noised_form() -> None:
    plan = TaskPlan(type="multilabel", labels=("p", "q", "r"), headline=("p", "q"))
    told = {name: label(histogram(*drawn(1500, k)), sd=3.0) for k, name in enumerate(plan.labels)}
    rows = rows_of(plan, told)
    mean = (rows["p", "auroc"].value + rows["q", "auroc"].value) / 2
    assert rows["macro", "auroc"].value == pytest.approx(mean, abs=1e-4)
    assert rows["macro", "expected_observed"].value is None
    survival = rows_of(TaskPlan(type="survival", windows=(30.0,)), {})
    assert {row.note for row in survival.values()} == {WITHHELD} and {name for name, _ in survival} == {"", "30d"}
