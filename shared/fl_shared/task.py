"""The plan of one task: an outcome, and every constant that shapes its loss and its reading."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from fl_shared.toml import Name, Section

TaskType = Literal["binary", "multilabel", "multiclass", "regression", "survival", "competing", "segmentation"]
TIMED = ("survival", "competing")
RISKY = ("binary", "multilabel")
"""Types that predict a risk a label."""
CLASSED = (*RISKY, "multiclass")
"""Types whose outcomes are classes."""


class TaskPlan(Section):
    """An outcome to predict. Every constant that shapes its loss stands here: none is fitted on patients."""

    type: TaskType
    labels: tuple[str, ...] = ()
    headline: tuple[str, ...] = Field(default=(), description="labels of the headline mean; all when empty")
    weight: float = Field(default=1.0, ge=0, le=1e3, description="of this task's loss in the sum over tasks")
    weights: tuple[float, ...] = Field(
        default=(), description="binary, multilabel: of each label's positives; multiclass, segmentation: of each class"
    )
    loss: Literal["mse", "huber", "msle"] = Field(default="mse", description="regression")
    offset: float = Field(default=0.0, description="regression: the loss is of (value - offset) / scale")
    scale: float = Field(default=1.0, gt=0)
    cuts: tuple[float, ...] = Field(
        default=(), max_length=49, description="regression: between the classes whose kappa is told; none when empty"
    )
    survival_model: Literal["hazard", "weibull", "cox"] = "hazard"
    horizon: float = Field(default=365.0, gt=0, description="survival, competing: days; later times count as censored")
    bins: int = Field(default=20, ge=1, le=200, description="survival, competing: equal parts of the horizon")
    windows: tuple[float, ...] = Field(default=(), description="survival, competing: days at which the risk is told")
    bands: tuple[float, float] = Field(default=(0.1, 0.3), description="risk: low below the first, high from the last")
    modality: Name | None = Field(default=None, description="segmentation: whose masks the target is")

    @model_validator(mode="after")
    def _labels_fit_type(self) -> Self:
        several = self.type in ("multilabel", "multiclass")
        if several and len(self.labels) < 2:
            raise ValueError(f"a {self.type} task needs at least two labels. List them in 'labels'.")
        if self.type in ("competing", "segmentation"):
            if not self.labels:
                what = "causes" if self.type == "competing" else "structures, in the order of their numbers from 1"
                raise ValueError(f"a {self.type} task needs 'labels'. List the {what}.")
        elif not several and self.labels:
            raise ValueError(f"a {self.type} task has no labels. Remove 'labels' or use type = 'multilabel'.")
        if unknown := set(self.headline) - set(self.labels):
            raise ValueError(f"headline names unknown labels {sorted(unknown)}. Use names from 'labels'.")
        if (self.type == "segmentation") != (self.modality is not None):
            raise ValueError("a segmentation task names its 'modality', other tasks have none. Correct this.")
        if self.weights and len(self.weights) != self.outputs:
            raise ValueError(f"'weights' has {len(self.weights)} numbers for {self.outputs} outputs. Give one each.")
        if self.weights and (min(self.weights) < 0 or not any(self.weights)):
            raise ValueError("'weights' are 0 or more, and not all 0. Correct them.")
        if self.weights and self.type in ("regression", *TIMED):
            raise ValueError(f"a {self.type} task has no 'weights' of classes. Remove them.")
        if self.offset and self.loss == "msle":
            raise ValueError("loss 'msle' is of the value itself. Remove 'offset'.")
        if self.cuts and self.type != "regression":
            raise ValueError(f"a {self.type} task has no 'cuts' of a number. Remove them.")
        if any(a >= b for a, b in pairwise(self.cuts)):
            raise ValueError("'cuts' must rise. Write e.g. cuts = [1, 2, 4, 8].")
        if not self.bands[0] < self.bands[1]:
            raise ValueError("'bands' must rise. Write e.g. bands = [0.1, 0.3].")
        if any(not 0 < w <= self.horizon for w in self.windows):
            raise ValueError(f"'windows' must lie within the horizon of {self.horizon:g} days. Correct them.")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the target: labels; ``time`` (days) and ``event`` or ``cause``; otherwise the single ``""``.

        The target of a multiclass task is one column that holds the number of its label; a cause is the number of its
        label from 1, 0 being none. A segmentation has no columns: its target is (B, frames, slices, size, size).
        """
        if self.type in TIMED:
            return ("time", "event" if self.type == "survival" else "cause")
        if self.type == "segmentation":
            return ()
        return self.labels if self.type == "multilabel" else ("",)

    @property
    def outputs(self) -> int:
        """Numbers that a head gives a row (logits); of a segmentation, classes with the background."""
        match self.type:
            case "multilabel" | "multiclass":
                return len(self.labels)
            case "segmentation":
                return 1 + len(self.labels)
            case "survival":
                return {"hazard": self.bins, "weibull": 2, "cox": 1}[self.survival_model]
            case "competing":
                return self.bins * (1 + len(self.labels))
            case _:
                return 1

    @property
    def head(self) -> str:
        """Name in the registry of heads."""
        return f"survival_{self.survival_model}" if self.type == "survival" else self.type

    @property
    def told(self) -> tuple[str, ...]:
        """Labels under which results are told, besides ``macro``; of a survival, also its `told_at`: ``90d``."""
        if self.type == "survival":
            return ("", *(f"{day:g}d" for day in self.told_at))
        return self.labels or ("",)

    @property
    def told_at(self) -> tuple[float, ...]:
        """Days at which a risk is judged and told."""
        return self.windows or (self.horizon,)

    @property
    def edges(self) -> tuple[float, ...]:
        """Right ends of the time bins in days, the last one the horizon."""
        return tuple(self.horizon * (k + 1) / self.bins for k in range(self.bins))
