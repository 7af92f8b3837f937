"""The machine twin of the report: everything a run writes to ``runs/<study>/results.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fl_shared.metrics.table import MetricName
from fl_shared.statistics import Statistics
from fl_shared.study import TaskType
from fl_shared.toml import Section


class PhaseResult(Section):
    """A phase of the training: its first and last round, as the study plans them."""

    name: str
    first: int
    last: int


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
    hidden_of: tuple[str, ...] = Field(default=(), description="what 'hidden=' hides; empty: all inputs")
    package: str
    judged: str = Field(default="", description="evaluate-only: identity of the study that trained the model")
    against: str = Field(default="", description="the same of the second model, 'against' in differences")
    phases: tuple[PhaseResult, ...] = Field(default=(), description="of the training, in order")


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
    modalities: str = Field(
        description="'all', 'headline' (all but leaky), one name (of samples that have it), or several joined by '+' "
        "(of the samples of 'all'; one that has none of them gets the mean prediction)"
    )
    model: str
    subgroup: str = Field(
        default="",
        description="'': all judged patients; 'sex=female', 'age=65-79': a subgroup of them; 'paired=yes': those with "
        "every modality of the headline's; 'hidden=0.5': all, that share of their inputs (`StudyResult.hidden_of`) "
        "hidden at random. Told of 'headline', or of 'all' where there is none",
    )
    metric: MetricName
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None = Field(
        description="samples judged; that of other inputs, fewer than the named number of patients apart, where the "
        "note says so"
    )
    events: int | None
    note: str = ""


class Curve(Section):
    """Points of a curve, each of a group or on a fixed grid, so that no single patient can be read off."""

    site: str
    task: str
    label: str
    modalities: str
    kind: Literal["roc", "pr", "calibration", "bands", "decision", "risks", "incidence"] = Field(
        description="bands: mean predicted (x) and observed risk (y) of the low, middle and high band of predicted "
        "risk; bands with few patients are told together and have the same numbers. decision: net benefit (y) by "
        "threshold (x). risks: mean predicted risk (x) and share of events (y) of groups of patients by predicted "
        "risk, ``counts`` patients each. incidence: share with the event (y) by day (x) in a risk ``group``, "
        "``counts`` at risk"
    )
    model: str = "federated"
    day: float | None = Field(default=None, description="of bands: the risk is that by this day")
    group: str = Field(
        default="", description="of incidence: low, middle or high predicted risk; 'low+middle': told together"
    )
    x: tuple[float, ...]
    y: tuple[float, ...]
    counts: tuple[int | None, ...] = Field(default=(), description="patients behind each point; null: withheld")


class Difference(Section):
    """Two models on the same patients of one site, resampled together: ``model`` less ``against``."""

    site: str
    role: Literal["train", "external"]
    task: str
    label: str
    modalities: str
    model: str
    against: str
    metric: MetricName
    value: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None = Field(default=None, description="two-sided, of no difference")
    test: str = Field(default="", description="'DeLong' or 'bootstrap'")
    n: int | None
    note: str = ""


class Contribution(Section):
    """What a modality adds to the headline metric: its exact Shapley value over all sets of modalities.

    All sets are judged on the samples of 'all'; one that has none of a set gets the mean prediction, and the empty set
    is that for everybody (0.5 of an AUROC or C): the values add up to 'all' less the empty set.
    """

    site: str
    role: Literal["train", "external"]
    task: str
    label: str
    model: str
    metric: MetricName
    modality: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    note: str = ""


class Importance(Section):
    """What the headline metric loses when a group of fields is read as not observed: whole less without.

    On the same samples and resamples, from the headline's inputs; a sample of which nothing is left gets the mean
    prediction.
    """

    site: str
    role: Literal["train", "external"]
    task: str
    label: str
    model: str
    metric: MetricName
    group: str = Field(description="of `evaluation.feature_groups`")
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    note: str = ""


class Attention(Section):
    """Mean part of a modality in what the fusion attends to, over the judged samples of the headline's inputs.

    As `fl_shared.models.interface.Fusion.shares` defines it, 0 where the modality is absent; of a site and model the
    values add up to 1, but for rounding.
    """

    site: str
    role: Literal["train", "external"]
    model: str
    modality: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None = Field(description="samples, at least: the largest number told of the headline's inputs")
    note: str = ""


class Described(Section):
    """One number of Table 1: of the judged patients of a site."""

    site: str
    variable: str = Field(description="'age', 'sex', a field of a table, a site's own subgroup, 'has ecg', 'outcome T'")
    category: str = Field(default="", description="of a category: which; '' of a number")
    statistic: Literal["count", "share", "mean", "sd", "median", "q1", "q3", "missing"]
    value: float | None
    note: str = ""


class Flow(Section):
    """How many samples of a site passed a stage, from its table to the judged ones; null: withheld."""

    site: str
    stage: str
    samples: int | None
    patients: int | None


class Findings(Section):
    """What a site tells of a judged model: aggregates that passed its egress gate."""

    evaluation: tuple[EvaluationRow, ...] = ()
    curves: tuple[Curve, ...] = ()
    differences: tuple[Difference, ...] = ()
    contributions: tuple[Contribution, ...] = ()
    importance: tuple[Importance, ...] = ()
    attention: tuple[Attention, ...] = ()
    described: tuple[Described, ...] = ()
    flow: tuple[Flow, ...] = ()


class Summary(Section):
    """A metric over sites: random-effects summary of their own estimates."""

    task: str
    label: str
    modalities: str
    model: str
    metric: MetricName
    role: Literal["train", "external"]
    sites: tuple[str, ...]
    value: float | None
    ci_low: float | None
    ci_high: float | None
    prediction_low: float | None = Field(default=None, description="where a new site is expected; from 3 sites on")
    prediction_high: float | None = None
    tau: float | None = Field(default=None, description="standard deviation between sites, on the scale of the model")
    i2: float | None = Field(default=None, description="share of the variance that is between sites")
    worst: str = Field(default="", description="the site with the worst estimate")
    note: str = ""


class Gap(Section):
    """How much is lost at new hospitals: internal less external summary (of an error: external less internal)."""

    task: str
    label: str
    modalities: str
    model: str
    metric: MetricName
    value: float | None
    ci_low: float | None
    ci_high: float | None
    note: str = ""


class PooledApproximate(Section):
    """AUROC of the patients of several sites together, from the groups by predicted risk that they told."""

    task: str
    label: str
    modalities: str
    model: str
    role: Literal["train", "external", "all"]
    sites: tuple[str, ...]
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    note: str = ""


class Shift(Section):
    """How far the intercept of a label was moved by recalibration; 0 where it stays."""

    task: str
    label: str
    shift: float = Field(description="added to the logit")


class LearningPoint(Section):
    """The headline metric of the model that a round ended with, on a training site's held-out patients.

    The site judges what it would run then: the shared groups of that round and, of what each site has of its own
    (encoders, heads, normalisation), its own.
    """

    round: int
    site: str
    task: str
    label: str
    metric: MetricName
    value: float
    ci_low: float
    ci_high: float


class Results(Findings):
    """``results.json``."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    study: StudyResult
    privacy: PrivacyResult
    sites: dict[str, SiteResult]
    rounds: tuple[RoundResult, ...]
    summaries: tuple[Summary, ...] = ()
    gaps: tuple[Gap, ...] = ()
    pooled: tuple[PooledApproximate, ...] = ()
    shifts: tuple[Shift, ...] = Field(default=(), description="of the model 'recalibrated'")
    learning: tuple[LearningPoint, ...] = Field(
        default=(), description="learning curves: the headline inputs, held-out patients of training sites only"
    )
    statistics: Statistics | None = None
    notes: tuple[str, ...] = ()
