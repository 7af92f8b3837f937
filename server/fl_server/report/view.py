"""What the report says, without how it looks: which numbers are the headline, in which order, in which words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fl_shared.metrics.table import METRICS, Metric, MetricName, metrics_of
from fl_shared.results import (
    Attention,
    Contribution,
    Difference,
    EvaluationRow,
    Gap,
    Importance,
    LearningPoint,
    PrivacyResult,
    Results,
    Summary,
)

ROLE_NAMES = {"external": "external", "train": "internal"}
NO_VALUE = "–"
RECALIBRATED = "recalibrated"  # its order of patients is the raw model's: told beside it, not in headlines


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value of a metric, its interval and what is to be said of it, wherever it was told."""

    metric: MetricName
    value: float | None
    ci_low: float | None
    ci_high: float | None
    note: str = ""


Told = EvaluationRow | Summary | Gap | Difference | Contribution | Importance | Attention | LearningPoint | Estimate


def site_order(results: Results) -> list[str]:
    """External sites first, then training sites, each by name."""
    return sorted(results.sites, key=lambda name: (results.sites[name].role != "external", name))


def headline_metric(results: Results, task: str) -> MetricName:
    """The one metric that stands for a task."""
    return metrics_of(results.study.types[task])[0]


def metrics_shown(results: Results) -> dict[MetricName, Metric]:
    """Every metric of the study's tasks, the headlines of the tasks first."""
    first = [headline_metric(results, task) for task in results.study.tasks]
    kinds = results.study.types.values()
    return {name: METRICS[name] for name in (*first, *(name for kind in kinds for name in metrics_of(kind)))}


def headlines(results: Results) -> list[Metric]:
    """The headline metrics of the study's tasks, each once."""
    return [METRICS[name] for name in dict.fromkeys(headline_metric(results, task) for task in results.study.tasks)]


def headline_modalities(results: Results, task: str) -> str:
    """The inputs that headline results may use: never one that states the diagnosis; a segmentation has its own."""
    if results.study.types[task] == "segmentation":
        return "all"
    offered = {row.modalities for row in results.evaluation}
    return "headline" if results.study.leaky or "headline" in offered else "all"


def headline_label(results: Results, task: str) -> str:
    """``macro`` where there are several labels; a survival's first one is the whole follow-up."""
    labels = results.study.tasks[task]
    return "macro" if len(labels) > 1 and labels[0] else labels[0]


def plain(rows: Iterable[EvaluationRow]) -> list[EvaluationRow]:
    """Rows of all judged patients with all that they have: no subgroup, nothing hidden."""
    return [row for row in rows if not row.subgroup]


def main_model(results: Results) -> str:
    """The model that the page is about: the federated one, or the first that was judged; the others stand beside it."""
    models = dict.fromkeys(row.model for row in results.evaluation if row.model != RECALIBRATED)
    return "federated" if "federated" in models else next(iter(models), "")


def headline_of(results: Results, task: str) -> dict[str, str]:
    """What names the headline of a task in every table of the results: its task, label, inputs and metric."""
    return {
        "task": task,
        "label": headline_label(results, task),
        "modalities": headline_modalities(results, task),
        "metric": headline_metric(results, task),
    }


def is_of(part: object, wanted: Mapping[str, str]) -> bool:
    """Whether a row of any table has these fields."""
    return all(getattr(part, name) == value for name, value in wanted.items())


def headline_rows(results: Results, task: str) -> list[EvaluationRow]:
    """The headline metric of a task at every site that reported it, external sites first; never of a subgroup."""
    place = {name: index for index, name in enumerate(site_order(results))}
    wanted = headline_of(results, task)
    rows = [row for row in plain(results.evaluation) if is_of(row, wanted) and row.model != RECALIBRATED]
    return sorted(rows, key=lambda row: place.get(row.site, len(place)))


def modality_sets(results: Results, task: str) -> list[str]:
    """Sets of inputs that were judged on a task: the headline's first, then all, then the others as in the study."""
    first = (headline_modalities(results, task), "all", *results.study.modalities)
    sets = {row.modalities for row in results.evaluation if row.task == task}
    return sorted(sets, key=lambda s: (first.index(s) if s in first else len(first), s.count("+"), s))


def is_leaky(results: Results, task: str, modalities: str) -> bool:
    """Whether a set of inputs holds one that states the diagnosis; a segmentation sees its images alone."""
    if results.study.types[task] == "segmentation":
        return False
    used = results.study.modalities if modalities == "all" else modalities.split("+")
    return bool(set(used) & set(results.study.leaky))


def modality_name(results: Results, task: str, modalities: str) -> str:
    """A set of inputs in words."""
    if results.study.types[task] == "segmentation":
        return "the images that were drawn on"
    if modalities == "headline":
        return "headline: " + " + ".join(n for n in results.study.modalities if n not in results.study.leaky)
    if modalities == "all":
        return "all: " + " + ".join(results.study.modalities)
    return modalities.replace("+", " + ") if "+" in modalities else f"{modalities} alone"


def find(rows: Iterable[EvaluationRow], **wanted: str) -> EvaluationRow | None:
    """The first row with these fields; of a subgroup only if that is asked for."""
    asked = {"subgroup": "", **wanted}
    return next((row for row in rows if all(getattr(row, key) == value for key, value in asked.items())), None)


def estimate(row: Told | None) -> str:
    """``0.812 (0.741–0.883)``; a dash where there is no value, for the note to explain."""
    return NO_VALUE if row is None or row.value is None else f"{number(row.value, row)} {interval(row)}"


def interval(row: Told) -> str:
    """``(0.741–0.883)``, in its metric's form; never nothing: a value without its interval says so."""
    if row.ci_low is None or row.ci_high is None:
        return "(no interval)"
    return f"({span(row.ci_low, row.ci_high, row)})"


def span(low: float, high: float, row: Told) -> str:
    """``0.741–0.883``, or ``-0.12 to 0.03``: a dash would be read as a sign."""
    return f"{number(low, row)}{' to ' if low < 0 else '–'}{number(high, row)}"


def number(value: float, row: Told) -> str:
    """Three decimals of a share, four digits of what has a unit; of attention the two that are told."""
    if isinstance(row, Attention):
        return f"{value:.2f}"
    return f"{value:.4g}" if METRICS[row.metric].in_unit else f"{value:.3f}"


def count(number: int | None) -> str:
    """A count, or that it is withheld."""
    return NO_VALUE if number is None else f"{number:,}"


def hospitals(results: Results, role: str) -> str:
    """``3 hospitals``, ``1 hospital``: how many have a role."""
    number = sum(site.role == role for site in results.sites.values())
    return f"{number} hospital{'' if number == 1 else 's'}"


def accepted(results: Results, site: str) -> str:
    """``11 of 12``: rounds after the initial one whose update was accepted."""
    rounds = [entry for entry in results.rounds if entry.round > 0]
    taken = sum(site in entry.sites and entry.sites[site].status == "accepted" for entry in rounds)
    return f"{taken} of {len(rounds)}"


def privacy_claim(privacy: PrivacyResult) -> str:
    """What was promised to each patient, or to each site, in one line."""
    if privacy.mode == "none":
        hidden = ", under secure aggregation" if privacy.aggregation == "secure" else ""
        return f"NO PRIVACY GUARANTEE (mode none{hidden})"
    spent = max(privacy.epsilon_spent.values(), default=0.0)
    budget = "" if privacy.epsilon_budget is None else f" (largest spent by a site; budget {privacy.epsilon_budget:g})"
    how = ", noise distributed under secure aggregation" if privacy.noise == "distributed" else ""
    how = how or (", under secure aggregation" if privacy.aggregation == "secure" else "")
    return f"{privacy.mode}-level DP: epsilon = {spent:.3g}{budget}, delta = {privacy.delta:g}{how}"
