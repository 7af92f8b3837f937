"""Cuts between the classes of a number come from the study, and only numbers have them."""

from __future__ import annotations

import numpy as np
import pytest

from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.study import TaskPlan


@pytest.mark.parametrize(
    ("kind", "cuts", "why"), [("regression", (1, 3, 3), "must rise"), ("binary", (1,), "no 'cuts'")]
)
def test_cuts_that_are_refused(kind, cuts, why) -> None:
    with pytest.raises(ValueError, match=why):
        TaskPlan(type=kind, cuts=cuts)


def test_kappa_is_told_where_the_study_names_cuts() -> None:
    y = np.random.default_rng(0).normal(5, 3, (80, 1))

    def told(plan: TaskPlan) -> dict:
        rows, _ = evaluate_predictions(
            site="a", role="external", task="t", plan=plan, modalities="all", model="m", predictions=y + 1.0,
            targets=y, mask=np.ones((80, 1), bool), patients=np.arange(80), bootstrap=50, seed=0, min_patients=10,
        )  # fmt: skip
        return {row.metric: row for row in rows}

    assert set(told(TaskPlan(type="regression"))) == {"mae", "medae", "r2"}
    kappa = told(TaskPlan(type="regression", cuts=(1, 2, 3, 4, 5, 6, 7, 8, 14)))["kappa"]
    assert kappa.ci_low < kappa.value < kappa.ci_high < 1
