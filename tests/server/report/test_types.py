"""A study without any task of classes: the report shows its metrics, their units, and no curves."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from fl_server.report import view
from fl_server.report.table import headline_table
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.results import EvaluationRow, Results
from fl_shared.study import TaskPlan

PLANS = {
    "ef": TaskPlan(type="regression"),
    "mace": TaskPlan(type="survival", horizon=100.0, bins=1, windows=(50.0,)),
    "cause": TaskPlan(type="competing", labels=("cardiac",), horizon=100.0, bins=1),
    "heart": TaskPlan(type="segmentation", labels=("lv", "myo"), modality="cine"),
}


def _judged(task: str, site: str, role: str, n: int) -> list[EvaluationRow]:
    plan, rng = PLANS[task], np.random.default_rng(n)
    risk = rng.random((n, 1))
    days = np.stack([rng.exponential(60, n) * (1.5 - risk[:, 0]), rng.random(n) < 0.7], axis=1)
    voxels = rng.integers(50, 90, (n, 2)) * 1.0
    predictions, targets = {
        "ef": (4000 * risk, 4000 * risk + rng.normal(0, 800, (n, 1))),
        "mace": (risk, days),
        "cause": (risk[:, :, None], days),
        "heart": (np.stack([voxels + 10, voxels - 5, voxels / 10, np.ones_like(voxels)], axis=-1), voxels),
    }[task]
    rows: list[EvaluationRow] = []
    for modalities in ("all", "headline", "ecg") if task != "heart" else ("all",):
        rows += evaluate_predictions(
            site=site, role=role, task=task, plan=plan, modalities=modalities, model="federated",
            predictions=predictions, targets=targets, mask=np.ones(targets.shape, bool), patients=np.arange(n),
            bootstrap=100, seed=1, min_patients=10,
        )[0]  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def timeless(results: Results) -> Results:
    rows = [row for t in PLANS for s, r, n in (("harbour", "external", 80), ("drum_tower", "train", 150),
            ("north_gate", "train", 6)) for row in _judged(t, s, r, n)]  # fmt: skip
    study = results.study.model_copy(
        update={
            "tasks": {task: plan.told for task, plan in PLANS.items()},
            "types": {task: plan.type for task, plan in PLANS.items()},
            "headline": {task: plan.told for task, plan in PLANS.items()},
            "modalities": ("ecg", "cine", "text"),
        }
    )
    return results.model_copy(update={"study": study, "evaluation": tuple(rows), "curves": ()})


def test_every_number_appears_in_its_form(timeless, read, tmp_path):
    _, tags, text = read(timeless, tmp_path)
    assert tags.open == [] and set(tags.targets) <= set(tags.ids)
    for row in timeless.evaluation:
        if row.value is not None:
            assert view.estimate(row) in text
    mae = next(row for row in timeless.evaluation if row.metric == "mae" and row.value)
    assert f"{mae.value:.4g} ({mae.ci_low:.4g}–{mae.ci_high:.4g})" in text
    assert f"{mae.value:.4g} MAE in the unit of the target, 95" in text
    for words in ("Harrell C is the chance", "AUC by time", "Dice", "R²", "50d", "regression", "survival: 50d"):
        assert words in text
    assert "Curves are drawn of tasks with classes; this study has none." in text
    assert "AUROC is" not in text


def test_each_type_has_its_headline(timeless):
    shown = {task: {(r.label, r.metric, r.modalities) for r in view.headline_rows(timeless, task)} for task in PLANS}
    assert shown == {
        "ef": {("", "mae", "headline")},
        "mace": {("", "harrell_c", "headline")},
        "cause": {("cardiac", "harrell_c", "headline")},
        "heart": {("macro", "dice", "all")},  # the masks' own images: nothing leaky in them
    }
    assert not view.is_leaky(timeless, "heart", "all") and view.is_leaky(timeless, "mace", "all")


def test_the_terminal_names_each_headline(timeless):
    console = Console(file=io.StringIO(), width=120, color_system=None)
    headline_table(timeless, console)
    printed = console.file.getvalue()
    for words in (
        "MAE (95 % interval)",
        "Harrell C (95 % interval)",
        "Dice (95 % interval)",
        "suppressed: fewer than 10",
    ):
        assert words in printed


def test_an_interval_below_zero_is_not_written_with_a_dash(timeless):
    row = next(row for row in timeless.evaluation if row.metric == "r2" and row.value)
    below = row.model_copy(update={"ci_low": -0.25, "ci_high": -0.125})
    assert view.interval(below) == "(-0.250 to -0.125)"
