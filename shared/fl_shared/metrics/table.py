"""Every metric: its range, the tasks that it judges, and its words in the report. Adding one starts here.

The gate of a site, the coordinator and the report read this table. Of the metrics of a task, the first one here is
the headline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from fl_shared.study import TaskType

MetricName = Literal[
    "auroc", "auprc", "brier", "expected_observed", "calibration_slope", "ece", "mae", "medae", "r2", "harrell_c",
    "uno_auc", "dice",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Metric:
    """title, explained: for people. low, high: values outside are refused. chance: of a model that knows nothing.

    in_unit: in the unit of the target (rounded to 4 significant digits), not a share (4 decimals).
    centred: resamples lie beside the value (a sum of distances grows with noise): their interval is moved onto it.
    tells_events: with n, and a guess of the mean risk, it gives the number of events: told only where that is.
    """

    title: str
    explained: str
    types: tuple[TaskType, ...]
    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool = True
    chance: float | None = None
    in_unit: bool = False
    centred: bool = False
    tells_events: bool = False

    def rounded(self, value: float) -> float:
        """Finer than any interval, coarser than what would give counts away."""
        return float(f"{value:.4g}") if self.in_unit else round(value, 4)


_CLASSES: tuple[TaskType, ...] = ("binary", "multilabel", "multiclass")

METRICS: Mapping[MetricName, Metric] = MappingProxyType(
    {
        "auroc": Metric(
            title="AUROC",
            explained="the chance that a patient with the outcome is given a higher risk than a patient without it: "
            "0.5 is a coin toss, 1 is perfect.",
            types=_CLASSES,
            chance=0.5,
        ),
        "auprc": Metric(
            title="AUPRC",
            explained="the mean precision over all recalls; compare it with the share of events, which is what chance "
            "gives.",
            types=_CLASSES,
        ),
        "brier": Metric(
            title="Brier score",
            explained="mean squared error of the predicted risk; lower is better.",
            types=_CLASSES,
            higher_is_better=False,
        ),
        "expected_observed": Metric(
            title="Expected over observed",
            explained="mean predicted risk over the share of events (calibration in the large): 1 is right, above it "
            "the model is too alarming.",
            types=_CLASSES,
            high=math.inf,
            tells_events=True,
        ),
        "calibration_slope": Metric(
            title="Calibration slope",
            explained="of the outcome on the logit of the predicted risk: 1 is right, below it predictions are too "
            "extreme, above it too timid.",
            types=_CLASSES,
            low=-math.inf,
            high=math.inf,
            tells_events=True,
        ),
        "ece": Metric(
            title="ECE",
            explained="expected calibration error: mean distance of predicted risk and share of events in ten groups "
            "of equal size by predicted risk; lower is better, and chance alone keeps it above 0 in small cohorts.",
            types=_CLASSES,
            higher_is_better=False,
            centred=True,
            tells_events=True,
        ),
        "mae": Metric(
            title="MAE",
            explained="mean absolute error, in the unit of the target; lower is better.",
            types=("regression",),
            high=math.inf,
            higher_is_better=False,
            in_unit=True,
        ),
        "medae": Metric(
            title="Median error",
            explained="half of the samples have a smaller absolute error, in the unit of the target; lower is better.",
            types=("regression",),
            high=math.inf,
            higher_is_better=False,
            in_unit=True,
        ),
        "r2": Metric(
            title="R²",
            explained="share of the site's variance that the model explains: 0 is what predicting the site's own mean "
            "gives; it may be negative.",
            types=("regression",),
            low=-math.inf,
            chance=0.0,
        ),
        "harrell_c": Metric(
            title="Harrell C",
            explained="the chance that of two patients the one whose event comes first was given the higher risk; "
            "follow-up ends at the horizon. Of competing causes, a patient with another cause never has the event "
            "(Wolbers). 0.5 is a coin toss; heavy censoring biases it.",
            types=("survival", "competing"),
            chance=0.5,
        ),
        "uno_auc": Metric(
            title="AUC by time",
            explained="AUROC of the event by that day (cumulative/dynamic), censored patients made up for by inverse "
            "probability weights of the site's own follow-up (Uno).",
            types=("survival",),
            chance=0.5,
        ),
        "dice": Metric(
            title="Dice",
            explained="overlap of drawn and predicted structure, pooled over a patient's drawn frames, mean over "
            "patients: 1 is perfect. A patient in whom neither has the structure is left out.",
            types=("segmentation",),
        ),
    }
)


def metrics_of(kind: str) -> tuple[MetricName, ...]:
    """Metrics of a type of task, its headline first."""
    return tuple(name for name, metric in METRICS.items() if kind in metric.types)


def fits(name: MetricName, kind: TaskType, numbers: Iterable[float | None]) -> bool:
    """Whether a metric belongs to a type of task, and its value and interval lie in its range."""
    metric = METRICS[name]
    return kind in metric.types and all(n is None or metric.low <= n <= metric.high for n in numbers)
