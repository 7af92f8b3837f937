"""Rows of every type of task: which labels are told, their values, and what small cells withhold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, mean_absolute_error, roc_auc_score

from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.survival import Concordance
from fl_shared.study import TaskPlan

GIVES_AWAY = "events withheld: they would tell a cell of fewer than 10 patients"


def judge(plan, predictions, targets, *, mask=None, patients=None):
    targets = np.asarray(targets, dtype=np.float32)
    rows, curves = evaluate_predictions(
        site="a", role="external", task="t", plan=plan, modalities="all", model="m",
        predictions=np.asarray(predictions, dtype=np.float32), targets=targets,
        mask=np.ones(targets.shape, bool) if mask is None else mask,
        patients=np.arange(len(targets)) if patients is None else patients,
        bootstrap=200, seed=0, min_patients=10,
    )  # fmt: skip
    return {(row.label, row.metric): row for row in rows}, curves


def classes(sizes, *, seed=0):
    rng = np.random.default_rng(seed)
    target = np.repeat(np.arange(len(sizes)), sizes)
    logits = 1.5 * np.eye(len(sizes))[target] + rng.normal(size=(len(target), len(sizes)))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), target[:, None]


MULTICLASS = TaskPlan(type="multiclass", labels=("p", "q", "r"), headline=("p", "q"))


def test_each_class_is_judged_against_the_others():
    predictions, target = classes([40, 50, 60])
    rows, curves = judge(MULTICLASS, predictions, target)
    for c, label in enumerate(MULTICLASS.labels):
        row = rows[label, "auroc"]
        mine = target[:, 0] == c
        assert row.value == pytest.approx(roc_auc_score(mine, predictions[:, c].astype(np.float32)), abs=5e-5)
        assert rows[label, "brier"].value == pytest.approx(brier_score_loss(mine, predictions[:, c]), abs=5e-5)
        assert (row.n, row.events, row.note) == (150, [40, 50, 60][c], "")
    mean = (rows["p", "auroc"].value + rows["q", "auroc"].value) / 2
    assert rows["macro", "auroc"].value == pytest.approx(mean, abs=1e-4)
    assert len(curves) == 15


def test_a_row_whose_class_is_unknown_counts_for_no_class():
    predictions, target = classes([40, 50, 60])
    mask = np.ones((150, 1), bool)
    mask[:10] = False
    rows, _ = judge(MULTICLASS, predictions, target, mask=mask)
    assert [rows[label, "auroc"].n for label in ("p", "q", "r", "macro")] == [140] * 4
    assert [rows[label, "auroc"].events for label in ("p", "q", "r")] == [30, 50, 60]


def test_the_large_classes_do_not_give_away_the_small_one():
    rows, _ = judge(MULTICLASS, *classes([70, 71, 9]))
    assert [rows[label, "auroc"].events for label in ("p", "q", "r")] == [None] * 3
    assert rows["p", "auroc"].note == GIVES_AWAY
    assert rows["r", "auroc"].note == "events withheld: fewer than 10 patients with, or without, the event"
    assert all(rows[label, "auroc"].value is not None for label in ("p", "q", "r"))


def test_numbers_have_a_unit_and_no_label():
    rng = np.random.default_rng(1)
    target = rng.normal(5500, 1200, (90, 1))
    rows, curves = judge(TaskPlan(type="regression"), target + rng.normal(0, 500, (90, 1)), target)
    assert list(rows) == [("", "mae"), ("", "medae"), ("", "r2")]
    mae = rows["", "mae"]
    assert mae.value == float(f"{mae.value:.4g}") > 100
    assert all(row.ci_low < row.value < row.ci_high for row in rows.values())
    assert (mae.n, mae.events, mae.note, curves) == (90, None, "", [])
    exact = np.full((30, 1), 1.5)
    constant, _ = judge(TaskPlan(type="regression"), exact, exact)
    assert constant["", "mae"].value == mean_absolute_error(exact, exact) == 0
    assert (constant["", "r2"].value, constant["", "r2"].note) == (None, "not defined on these patients")


SURVIVAL = TaskPlan(type="survival", horizon=100.0, bins=4, windows=(50.0, 100.0))


def followed(n, *, seed=0, scale=60.0):
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    time, follow = rng.exponential(scale * np.exp(-risk)), rng.exponential(3 * scale, n)
    hazard = 1 - np.exp(-np.outer(np.exp(risk), SURVIVAL.edges) / scale)
    return risk, hazard, np.stack([np.minimum(time, follow), time <= follow], axis=1)


def test_survival_is_told_for_the_whole_follow_up_and_by_each_day():
    risk, hazard, target = followed(400)
    rows, curves = judge(SURVIVAL, hazard, target)
    by_then = [("", metric) for metric in ("harrell_c", "uno_c", "ibs")]
    assert list(rows) == [*by_then, ("50d", "uno_auc"), ("100d", "uno_auc")]
    assert all(row.ci_low < row.value < row.ci_high and row.n == 400 for row in rows.values())
    time, event = target.astype(np.float32).T
    happened = (event == 1) & (time <= 100)
    whole = Concordance.of(risk, np.minimum(time, 100), happened, np.arange(400))
    expected = whole.metrics(np.ones((1, 400), np.int64))["harrell_c"][0]
    assert rows["", "harrell_c"].value == pytest.approx(expected, abs=1e-4)  # nothing after the horizon counts
    by_50 = int(((event == 1) & (time <= 50)).sum())
    assert [row.events for row in rows.values()] == [*[happened.sum()] * 3, by_50, happened.sum()]
    drawn = [(curve.kind, curve.label, curve.day) for curve in curves]
    assert drawn[-2:] == [("bands", "50d", 50), ("bands", "100d", 100)]
    assert set(drawn[:-2]) == {("incidence", "", None)}
    none = judge(TaskPlan(type="survival"), np.zeros((5, 20)), np.zeros((5, 2)))[0]
    assert none.keys() == {*by_then, ("365d", "uno_auc")}


def test_cox_is_judged_on_its_log_hazard():
    risk, hazard, target = followed(200)
    cox = SURVIVAL.model_copy(update={"survival_model": "cox"})
    by_hazard, _ = judge(SURVIVAL, hazard.astype(np.float64), target)
    by_cox, _ = judge(cox, 3 * risk[:, None] - 7, target)
    assert by_hazard.keys() - by_cox.keys() == {("", "ibs")}
    assert [r.value for r in by_cox.values()] == pytest.approx([by_hazard[key].value for key in by_cox], abs=2e-4)


def test_counts_by_two_days_do_not_give_away_the_events_between_them():
    _, hazard, target = followed(300)
    near = SURVIVAL.model_copy(update={"windows": (95.0,)})
    rows, _ = judge(near, hazard, target)
    assert (rows["95d", "uno_auc"].events, rows["95d", "uno_auc"].note) == (None, GIVES_AWAY)
    assert rows["", "harrell_c"].events is not None


def test_a_cohort_in_which_everybody_had_the_event_still_has_a_c():
    rng = np.random.default_rng(0)
    target = np.stack([rng.uniform(1, 99, 60), np.ones(60)], axis=1)
    rows, _ = judge(SURVIVAL, np.repeat(-target[:, :1], 4, axis=1), target)
    assert rows["", "harrell_c"].value == 1.0
    assert rows["", "harrell_c"].events is None
    assert rows["100d", "uno_auc"].note == "not defined: fewer than 2 patients with, or without, the event"
    nobody, _ = judge(SURVIVAL, np.zeros((60, 4)), target * [1, 0])
    assert nobody["", "harrell_c"].note == "not defined: fewer than 2 patients with the event"


COMPETING = TaskPlan(type="competing", labels=("cardiac", "other"), horizon=100.0, bins=2)


def test_each_cause_is_judged_with_the_others_at_risk():
    rng = np.random.default_rng(4)
    n = 300
    risk = rng.normal(size=(n, 2))
    times = np.stack([*(rng.exponential(80 * np.exp(-risk.T))), rng.exponential(150, n)])
    cause, time = (times.argmin(0) + 1) % 3, times.min(0)
    incidence = np.repeat(risk[:, None], 2, axis=1)
    rows, _ = judge(COMPETING, incidence, np.stack([time, cause], axis=1))
    measured = ("harrell_c", "uno_c", "ibs")
    assert list(rows) == [(label, metric) for label in ("cardiac", "other", "macro") for metric in measured]
    for number, label in enumerate(COMPETING.labels, start=1):
        mine = (cause == number) & (time <= 100)
        right = pairs = 0.0
        for i in np.flatnonzero(mine):
            for j in range(n):
                another = cause[j] not in (0, number) and time[j] <= 100
                if another or (time[j] > time[i]):
                    pairs += 1
                    right += risk[i, number - 1] > risk[j, number - 1]
        assert rows[label, "harrell_c"].value == pytest.approx(right / pairs, abs=1e-4)
        assert rows[label, "harrell_c"].events == mine.sum()


def test_the_causes_do_not_give_away_who_had_none():
    rng = np.random.default_rng(0)
    cause = np.array([0] * 5 + [1] * 40 + [2] * 40)
    rows, _ = judge(COMPETING, rng.random((85, 2, 2)), np.stack([rng.uniform(1, 99, 85), cause], axis=1))
    assert [rows[label, "harrell_c"].events for label in COMPETING.labels] == [None, None]
    assert rows["cardiac", "harrell_c"].note == GIVES_AWAY


def test_dice_a_structure_and_their_mean():
    plan = TaskPlan(type="segmentation", labels=("lv", "myo"), modality="cine")
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), 2)
    drawn = rng.integers(20, 60, (40, 2)).astype(float)
    guess = drawn + rng.integers(-5, 6, (40, 2))
    right = np.minimum(guess, drawn) - 3
    drawn[:24, 1] = guess[:24, 1] = right[:24, 1] = 0  # twelve patients without any of it
    frames = np.full((40, 2), 2.0)
    said = np.stack([guess, right, 2 * np.abs(guess - drawn), frames], axis=-1)
    rows, _ = judge(plan, said, drawn, patients=patients)
    far = [np.abs(guess - drawn)[patients == p, 0].mean() for p in range(20)]
    assert rows["lv", "hd95"].value == float(f"{np.mean(far):.4g}")
    pooled = [
        2 * right[patients == p, 0].sum() / (guess[patients == p, 0].sum() + drawn[patients == p, 0].sum())
        for p in range(20)
    ]
    lv, myo, macro = rows["lv", "dice"], rows["myo", "dice"], rows["macro", "dice"]
    assert lv.value == pytest.approx(np.mean(pooled), abs=5e-5)
    assert lv.ci_low < lv.value < lv.ci_high
    assert (lv.n, lv.events, lv.note) == (40, None, "")
    assert (myo.value, myo.n, myo.note) == (None, None, "suppressed: fewer than 10 patients")
    assert (macro.value, macro.note) == (lv.value, "mean of 1 of 2 labels, without myo")


@pytest.mark.parametrize(
    ("plan", "shape"),
    [
        (MULTICLASS, (3,)),
        (TaskPlan(type="regression"), (1,)),
        (SURVIVAL, (4,)),
        (COMPETING, (2, 2)),
        (TaskPlan(type="segmentation", labels=("lv",), modality="cine"), (1, 4)),
    ],
)
@pytest.mark.parametrize("n", [0, 9])
def test_a_small_cohort_of_any_type_releases_nothing(plan, shape, n):
    columns = len(plan.labels) if plan.type == "segmentation" else len(plan.names)
    rows, curves = judge(plan, np.ones((n, *shape)), np.ones((n, columns)))
    assert {label for label, _ in rows} - {"macro"} == set(plan.told)
    for row in rows.values():
        assert (row.value, row.ci_low, row.ci_high, row.n, row.events) == (None,) * 5
        assert row.note == "suppressed: fewer than 10 patients"
    assert curves == []
