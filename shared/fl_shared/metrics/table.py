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

from fl_shared.task import TaskType

MetricName = Literal[
    "auroc", "auprc", "sensitivity_at_90", "accuracy", "f1", "brier", "brier_reliability", "brier_resolution",
    "expected_observed", "calibration_in_the_large", "calibration_slope", "ece", "mae", "medae", "r2", "kappa",
    "harrell_c", "uno_c", "ibs", "uno_auc", "dice", "hd95",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Metric:
    """title, explained: for people. low, high: values outside are refused. chance: of a model that knows nothing.

    in_unit: in the unit of the target (rounded to 4 significant digits), not a share (4 decimals).
    centred: noise lifts the metric (a sum of distances grows with it), the resamples off the value as the value off the
    truth: their interval is moved onto the value, and its lower end by as much again.
    ideal: the right value where it lies within the range: neither higher nor lower is better then.
    tells_events: with n, and a guess of the mean risk, it gives the number of events: told only where that is.
    """

    title: str
    explained: str
    types: tuple[TaskType, ...]
    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool = True
    chance: float | None = None
    ideal: float | None = None
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
        "sensitivity_at_90": Metric(
            title="Sensitivity at 90 % specificity",
            explained="share of the events found at the lowest threshold that calls at most one in ten of the others; "
            "0.1 is what chance gives.",
            types=_CLASSES,
            chance=0.1,
            tells_events=True,
        ),
        "accuracy": Metric(
            title="Accuracy",
            explained="share of the samples that are called rightly when a risk above one half is called; compare it "
            "with the share of the more frequent outcome.",
            types=_CLASSES,
            tells_events=True,
        ),
        "f1": Metric(
            title="F1",
            explained="harmonic mean of precision and sensitivity when a risk above one half is called.",
            types=_CLASSES,
            tells_events=True,
        ),
        "brier": Metric(
            title="Brier score",
            explained="mean squared error of the predicted risk; lower is better.",
            types=_CLASSES,
            higher_is_better=False,
        ),
        "brier_reliability": Metric(
            title="Brier reliability",
            explained="part of the Brier score that is miscalibration: mean squared distance of predicted risk and "
            "share of events in ten groups by predicted risk; lower is better. Brier score = reliability - resolution "
            "+ e (1 - e), e being the share of events.",
            types=_CLASSES,
            higher_is_better=False,
            centred=True,
            tells_events=True,
        ),
        "brier_resolution": Metric(
            title="Brier resolution",
            explained="what the predictions take off the Brier score of the share of events told to everybody, were "
            "they calibrated; at most e (1 - e), e being the share of events; 0 is what chance gives.",
            types=_CLASSES,
            low=-1.0,
            chance=0.0,
            centred=True,
            tells_events=True,
        ),
        "expected_observed": Metric(
            title="Expected over observed",
            explained="mean predicted risk over the share of events (calibration in the large): 1 is right, above it "
            "the model is too alarming.",
            types=_CLASSES,
            high=math.inf,
            ideal=1.0,
            tells_events=True,
        ),
        "calibration_in_the_large": Metric(
            title="Calibration intercept",
            explained="calibration in the large: what must be added to the logit of every predicted risk to make the "
            "expected events the observed ones: 0 is right, below it the model is too alarming.",
            types=_CLASSES,
            low=-math.inf,
            high=math.inf,
            ideal=0.0,
            tells_events=True,
        ),
        "calibration_slope": Metric(
            title="Calibration slope",
            explained="of the outcome on the logit of the predicted risk: 1 is right, below it predictions are too "
            "extreme, above it too timid.",
            types=_CLASSES,
            low=-math.inf,
            high=math.inf,
            ideal=1.0,
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
        "kappa": Metric(
            title="Kappa",
            explained="agreement of predicted and true class beyond chance, linearly weighted, in the classes between "
            "the cuts that the study names: 1 is perfect, 0 is chance.",
            types=("regression",),
            low=-1.0,
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
        "uno_c": Metric(
            title="Uno C",
            explained="as Harrell's, each pair made up for by inverse probability weights of the site's own "
            "follow-up, so that it does not depend on who was censored when (Uno; of competing causes Wolbers).",
            types=("survival", "competing"),
            chance=0.5,
        ),
        "ibs": Metric(
            title="Integrated Brier score",
            explained="mean squared error of the predicted risk, averaged over the days up to the horizon, censored "
            "patients made up for by inverse probability weights (Graf); lower is better.",
            types=("survival", "competing"),
            high=math.inf,
            higher_is_better=False,
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
        "hd95": Metric(
            title="HD95 (mm)",
            explained="95th percentile of the distances between the surfaces of drawn and predicted structure, the "
            "greater of both directions; mean over a patient's drawn frames, then over patients; lower is better. A "
            "frame in which only one of them has the structure counts as far away as the image's diagonal, one in "
            "which neither has is left out.",
            types=("segmentation",),
            high=math.inf,
            higher_is_better=False,
            in_unit=True,
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
