"""What the report says, without how it looks: which numbers are the headline, in which order, in which words."""

from __future__ import annotations

from collections.abc import Iterable

from fl_shared.results import EvaluationRow, PrivacyResult, Results

HEADLINE_METRIC = "auroc"
METRIC_NAMES = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier score"}
ROLE_NAMES = {"external": "external", "train": "internal"}
NO_VALUE = "–"


def site_order(results: Results) -> list[str]:
    """External sites first, then training sites, each by name."""
    return sorted(results.sites, key=lambda name: (results.sites[name].role != "external", name))


def headline_modalities(results: Results) -> str:
    """The inputs that headline results may use: never one that states the diagnosis."""
    offered = {row.modalities for row in results.evaluation}
    return "headline" if results.study.leaky or "headline" in offered else "all"


def headline_label(results: Results, task: str) -> str:
    """``macro`` for a multilabel task, ``""`` for a binary one."""
    return "macro" if len(results.study.tasks[task]) > 1 else ""


def headline_rows(results: Results, task: str) -> list[EvaluationRow]:
    """The headline metric of a task at every site that reported it, external sites first."""
    place = {name: index for index, name in enumerate(site_order(results))}
    label, modalities = headline_label(results, task), headline_modalities(results)
    rows = [
        row
        for row in results.evaluation
        if (row.task, row.label, row.modalities, row.metric) == (task, label, modalities, HEADLINE_METRIC)
    ]
    return sorted(rows, key=lambda row: place.get(row.site, len(place)))


def modality_sets(results: Results, task: str) -> list[str]:
    """Sets of inputs that were judged on a task: the headline's first, then all, then the others as in the study."""
    first = (headline_modalities(results), "all", *results.study.modalities)
    sets = {row.modalities for row in results.evaluation if row.task == task}
    return sorted(sets, key=lambda name: (first.index(name) if name in first else len(first), name))


def is_leaky(results: Results, modalities: str) -> bool:
    """Whether a set of inputs holds one that states the diagnosis."""
    used = results.study.modalities if modalities == "all" else modalities.split("+")
    return bool(set(used) & set(results.study.leaky))


def modality_name(results: Results, modalities: str) -> str:
    """A set of inputs in words."""
    if modalities == "headline":
        return "headline: " + " + ".join(n for n in results.study.modalities if n not in results.study.leaky)
    if modalities == "all":
        return "all: " + " + ".join(results.study.modalities)
    return f"{modalities.replace('+', ' + ')} {'only' if '+' in modalities else 'alone'}"


def find(rows: Iterable[EvaluationRow], **wanted: str) -> EvaluationRow | None:
    """The first row with these fields."""
    return next((row for row in rows if all(getattr(row, key) == value for key, value in wanted.items())), None)


def estimate(row: EvaluationRow | None) -> str:
    """``0.812 (0.741–0.883)``; a dash where there is no value, for the note to explain."""
    return NO_VALUE if row is None or row.value is None else f"{row.value:.3f} {interval(row)}"


def interval(row: EvaluationRow) -> str:
    """``(0.741–0.883)``, never nothing: a value without its interval says so."""
    if row.ci_low is None or row.ci_high is None:
        return "(no interval)"
    return f"({row.ci_low:.3f}–{row.ci_high:.3f})"


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
    """What was promised to each patient, in one line."""
    if privacy.mode == "none":
        return "NO PRIVACY GUARANTEE (mode none)"
    spent = max(privacy.epsilon_spent.values(), default=0.0)
    budget = "" if privacy.epsilon_budget is None else f" (largest spent by a site; budget {privacy.epsilon_budget:g})"
    return f"patient-level DP: epsilon = {spent:.3g}{budget}, delta = {privacy.delta:g}"
