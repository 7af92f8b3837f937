"""The machine twin of the report: everything a run writes to ``runs/<study>/results.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fl_shared.metrics.table import MetricName
from fl_shared.statistics import Statistics
from fl_shared.study import TaskType
from fl_shared.toml import Section


class StudyResult(Section):
    """Which study this was."""

    name: str
    hash: str
    system: str
    synthetic: bool
    tasks: dict[str, tuple[str, ...]] = Field(description="task -> labels under which results are told")
    types: dict[str, TaskType]
    headline: dict[str, tuple[str, ...]]
    modalities: tuple[str, ...]
    leaky: tuple[str, ...]
    package: str


class PrivacyResult(Section):
    """What was promised, and what each site spent."""

    mode: Literal["patient", "site", "none"]
    aggregation: Literal["plain", "secure"] = "plain"
    noise: Literal["local", "distributed"] = "local"
    trust: tuple[str, ...] = Field(default=(), description="who must be trusted for what, a sentence each")
    delta: float
    epsilon_budget: float | None
    evaluation_epsilon: float | None = Field(default=None, description="of the judged patients; null: exact metrics")
    epsilon_spent: dict[str, float]


class SiteRound(Section):
    """A site's part in a round."""

    status: Literal["accepted", "rejected", "failed", "absent"]
    reason: str = ""


class RoundResult(Section):
    """A committed (or failed) round. ``round`` 0 is the initial model."""

    round: int
    outcome: Literal["committed", "failed"]
    seconds: float
    sites: dict[str, SiteRound]


class SiteResult(Section):
    """A hospital as it appears in the report (declared numbers only)."""

    role: Literal["train", "external"]
    declared_patients: int
    title: str = ""


class EvaluationRow(Section):
    """One metric at one site. A suppressed value is null and ``note`` says why."""

    site: str
    role: Literal["train", "external"]
    task: str
    label: str = Field(
        description="a label, '' where a task has none; '90d': by that day; 'macro': mean over the headline labels"
    )
    modalities: str = Field(description="'all', 'headline' (all but leaky) or the names joined by '+'")
    model: str
    metric: MetricName
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    events: int | None
    note: str = ""


class Curve(Section):
    """Points of a curve, each of a group or on a fixed grid, so that no single patient can be read off."""

    site: str
    task: str
    label: str
    modalities: str
    kind: Literal["roc", "pr", "calibration", "bands"] = Field(
        description="bands: mean predicted (x) and observed risk (y) of the low, middle and high band of predicted "
        "risk; bands with few patients are told together and have the same numbers"
    )
    model: str = "federated"
    day: float | None = Field(default=None, description="of bands: the risk is that by this day")
    x: tuple[float, ...]
    y: tuple[float, ...]


class Shift(Section):
    """How far the intercept of a label was moved by recalibration; 0 where it stays."""

    task: str
    label: str
    shift: float = Field(description="added to the logit")


class Results(Section):
    """``results.json``."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    study: StudyResult
    privacy: PrivacyResult
    sites: dict[str, SiteResult]
    rounds: tuple[RoundResult, ...]
    evaluation: tuple[EvaluationRow, ...]
    curves: tuple[Curve, ...]
    shifts: tuple[Shift, ...] = Field(default=(), description="of the model 'recalibrated'")
    statistics: Statistics | None = None
    notes: tuple[str, ...] = ()
