"""Sections of a study about a finished model: which one is judged without training, and when one may be promoted."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from fl_shared.metrics.table import METRICS, MetricName
from fl_shared.plans import ModalityPlan, ModelPlan, TrainingPlan
from fl_shared.toml import Name, Section

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Whose = Literal["federated", "recalibrated"]
Where = Literal["summary", "worst", "every"]
Figure = Literal["estimate", "interval"]


class OtherPlan(Section):
    """A second model, judged on the same patients; the study's own tasks and evaluation hold for it too."""

    arrays: Sha256 = Field(description="digest of all its arrays")
    study: Sha256 = Field(description="identity of the study that trained it")
    trained_by: tuple[Name, ...]
    seed: int = Field(ge=0, lt=2**31)
    modalities: dict[Name, ModalityPlan]
    model: ModelPlan
    training: TrainingPlan


class JudgedPlan(Section):
    """A finished model that the sites judge; nothing is trained, and the study's own training is how it was made."""

    arrays: Sha256 = Field(description="digest of all its arrays: a site judges no others")
    study: Sha256 = Field(description="identity of the study that trained it")
    trained_by: tuple[Name, ...] = Field(description="sites that may not judge it")
    model: Whose = "federated"
    against: OtherPlan | None = None


class _Limit(Section):
    """What a threshold is of: at the external sites, from all inputs that do not state the diagnosis."""

    task: Name
    label: str | None = Field(default=None, description="'macro' of several labels when absent, otherwise ''")
    at: Where = Field(
        default="every", description="the summary over external sites, the worst of them, or every one of them"
    )
    of: Figure = Field(default="interval", description="the estimate, or the 95 % limit on its bad side")


class DiscriminationLimit(_Limit):
    """How well patients must be told apart (or an outcome be met, of an error)."""

    metric: MetricName
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if METRICS[self.metric].ideal is not None:
            raise ValueError(f"'{self.metric}' is of calibration. Write it under [[promotion.calibration]].")
        right, wrong = ("at_least", "at_most") if METRICS[self.metric].higher_is_better else ("at_most", "at_least")
        if getattr(self, right) is None or getattr(self, wrong) is not None:
            raise ValueError(f"'{self.metric}' needs '{right}', and no '{wrong}'. Correct this.")
        return self


class CalibrationLimit(_Limit):
    """Between what the slope, and expected over observed events, must lie; 'interval': all of it."""

    of: Figure = "estimate"
    slope: tuple[float, float] | None = None
    expected_observed: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _rising(self) -> Self:
        given = [pair for pair in (self.slope, self.expected_observed) if pair is not None]
        if not given or any(low >= high for low, high in given):
            raise ValueError("give 'slope' or 'expected_observed', two rising numbers. Write e.g. slope = [0.8, 1.2].")
        return self


class SubgroupLimit(Section):
    """By how much the estimates of two subgroups of one external site may differ."""

    task: Name
    label: str | None = None
    metric: MetricName
    by: Name = Field(description="one of evaluation.subgroups")
    at_most: float = Field(gt=0)


class PromotionPlan(Section):
    """Thresholds, written before training, that a model must meet to be handed on (`fl-server promote`)."""

    model: Whose = "federated"
    discrimination: tuple[DiscriminationLimit, ...] = ()
    calibration: tuple[CalibrationLimit, ...] = ()
    subgroups: tuple[SubgroupLimit, ...] = ()

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if not (self.discrimination or self.calibration or self.subgroups):
            raise ValueError("there is no threshold. Write e.g. [[promotion.discrimination]].")
        return self
