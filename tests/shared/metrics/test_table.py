"""The table of metrics covers every type of task, and says what is out of range."""

from __future__ import annotations

from typing import get_args

import pytest

from fl_shared.metrics.table import METRICS, MetricName, fits, metrics_of
from fl_shared.study import TaskType


def test_the_table_names_every_metric_and_judges_every_type():
    assert set(METRICS) == set(get_args(MetricName))
    assert all(metrics_of(kind) for kind in get_args(TaskType))
    headlines = {kind: metrics_of(kind)[0] for kind in get_args(TaskType)}
    assert headlines == {
        "binary": "auroc", "multilabel": "auroc", "multiclass": "auroc", "regression": "mae",
        "survival": "harrell_c", "competing": "harrell_c", "segmentation": "dice",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "kind", "numbers", "good"),
    [
        ("auroc", "binary", (0.0, 1.0, None), True),
        ("auroc", "binary", (0.5, -0.01, 0.6), False),
        ("auroc", "regression", (0.5, 0.4, 0.6), False),
        ("mae", "regression", (1234.0, 1e9, 0), True),
        ("mae", "regression", (-0.1, None, None), False),
        ("r2", "regression", (-3.2, -9, 1.0), True),
        ("r2", "regression", (1.01, None, None), False),
        ("dice", "segmentation", (1.01, None, None), False),
        ("uno_auc", "competing", (0.5, None, None), False),
    ],
)
def test_what_fits(metric, kind, numbers, good):
    assert fits(metric, kind, numbers) is good


def test_what_has_a_unit_keeps_four_digits_and_a_share_four_decimals():
    assert [METRICS["mae"].rounded(v) for v in (12345.6, 0.00123456)] == [12350.0, 0.001235]
    assert METRICS["dice"].rounded(0.876543) == 0.8765
