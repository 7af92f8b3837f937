"""Results that hold everything a report can show, wholly invented (labelled synthetic), and results that hold nothing.

Every number is marked, so that one which the page made up itself can be told from one that it was given: a share or a
metric has 3 as its third decimal and no more of them, a count ends in 3. A mean, a difference or a rounding of such
numbers is not marked but by chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from fl_shared.metrics.table import METRICS, metrics_of
from fl_shared.results import (
    Attention,
    Contribution,
    Curve,
    Described,
    Difference,
    EvaluationRow,
    Flow,
    Gap,
    Importance,
    LearningPoint,
    PhaseResult,
    PooledApproximate,
    PrivacyResult,
    Results,
    RoundResult,
    Shift,
    SiteResult,
    SiteRound,
    StudyResult,
    Summary,
)  # fmt: skip

SITES = {
    "harbour": "external",
    "west_bank": "external",
    "lake_side": "external",
    "drum_tower": "train",
    "east": "train",
}
TYPES = {"death": "binary", "events": "multilabel", "survival": "survival", "ef": "regression"}
TASKS = {"death": ("",), "events": ("arrhythmia", "decompensation", "stroke", "infarction", "shock"),
         "survival": ("", "90d", "365d"), "ef": ("",)}  # fmt: skip
MODALITIES = ("cine", "ecg", "ehr", "text")
SUBGROUPS = ("age=18-64", "age=65-", "paired=no", "paired=yes", "sex=female", "sex=male")
GROUPS, PARTS = ("vitals", "labs", "drugs"), {"cine": 0.53, "ecg": 0.13, "ehr": 0.23, "text": 0.13}
HIDDEN = ("hidden=0.253", "hidden=0.503", "hidden=0.753")
SETS = [*MODALITIES, *("+".join(c) for k in (2, 3) for c in itertools.combinations(MODALITIES, k)), "all"]


def marked(value: float) -> float:
    """The nearest number with 3 as its third and last decimal."""
    return round(np.floor(value * 100) / 100 + 0.003, 3)


def count(value: float) -> int:
    """The nearest count that ends in 3."""
    return int(value // 10) * 10 + 3


class _Draw:
    """Numbers in the range of a metric, with an interval around."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(11)

    def estimate(self, metric: str, *, around: float = 0.72) -> dict[str, float]:
        found = METRICS[metric]
        unit = found.high if np.isfinite(found.high) else 1.4
        value = marked(float(np.clip(self.rng.normal(around, 0.06), 0.05, 0.93)) * unit)
        half = marked(0.02 + 0.05 * self.rng.random())
        return {"value": value, "ci_low": marked(value - half), "ci_high": marked(min(value + half, unit - 0.01))}

    def small(self) -> dict[str, float]:
        value = marked(self.rng.normal(0.02, 0.04))
        return {"value": value, "ci_low": marked(value - 0.05), "ci_high": marked(value + 0.05)}


def _rows(draw: _Draw) -> Iterator[EvaluationRow]:
    for site, task, model in itertools.product(SITES, TASKS, ("federated", "local_only")):
        several = TYPES[task] == "multilabel"
        labels = (*TASKS[task], "macro") if several else TASKS[task]
        n = count(400 if SITES[site] == "external" else 180)
        asked = [(s, "") for s in SETS] + [("all", g) for g in (*SUBGROUPS, *HIDDEN)]
        for (modalities, group), label in itertools.product(asked if model == "federated" else [("all", "")], labels):
            for metric in metrics_of(TYPES[task]):
                timed = metric in ("uno_auc", "uno_c", "ibs")
                if TYPES[task] == "survival" and (label == "") == timed:
                    continue
                small = (site, group) == ("east", "age=18-64")
                told = {"value": None, "ci_low": None, "ci_high": None} if small else draw.estimate(metric)
                yield EvaluationRow(
                    site=site, role=SITES[site], task=task, label=label, modalities=modalities, model=model,
                    subgroup=group, metric=metric, n=None if small else n,
                    events=None if label == "macro" or task == "ef" or small else count(n / 4),
                    note="suppressed: fewer than 13 patients" if small else "", **told,
                )  # fmt: skip


def _curves(draw: _Draw) -> Iterator[Curve]:
    grid = [marked(x) for x in np.linspace(0.02, 0.99, 40)]
    for site, task in itertools.product(SITES, ("death", "events")):
        for label in TASKS[task]:
            place = {"site": site, "task": task, "label": label, "modalities": "all"}
            bend = 0.3 + 0.3 * draw.rng.random()
            yield Curve(**place, kind="roc", x=grid, y=[marked(x**bend) for x in grid])
            yield Curve(**place, kind="pr", x=grid, y=[marked(0.9 - 0.6 * x) for x in grid])
            few = [marked(x) for x in np.linspace(0.03, 0.8, 10)]
            yield Curve(**place, kind="calibration", x=few, y=[marked(0.95 * x) for x in few])
            yield Curve(**place, kind="risks", x=few, y=[marked(0.9 * x) for x in few], counts=[43] * 10)
            at = [marked(t) for t in np.linspace(0.01, 0.6, 30)]
            yield Curve(**place, kind="decision", x=at, y=[marked(0.2 - 0.4 * t) for t in at])
    for site in SITES:
        days = [float(count(day)) for day in np.linspace(1, 360, 25)]
        for at, group in enumerate(("low", "middle", "high")):
            y = [marked((0.03, 0.12, 0.35)[at] * day / 365) for day in days]
            counts = [count(150 - day / 3) if day < 300 else None for day in days]
            yield Curve(site=site, task="survival", label="", modalities="all", kind="incidence", group=group,
                        x=days, y=y, counts=counts)  # fmt: skip
        for day in (90.0, 365.0):
            yield Curve(site=site, task="survival", label=f"{day:g}d", modalities="all", kind="bands", day=day,
                        x=(0.053, 0.203, 0.553), y=(0.033, 0.223, 0.503))  # fmt: skip


def _described() -> Iterator[Described]:
    for at, site in enumerate(SITES):
        for statistic, value in {"mean": 63, "sd": 13, "median": 63, "q1": 53, "q3": 73, "missing": 0.043}.items():
            yield Described(site=site, variable="age", statistic=statistic, value=value)
        for category, share in (("female", 0.423), ("male", 0.573)):
            yield Described(site=site, variable="sex", category=category, statistic="share", value=share)
        for modality in MODALITIES:
            none = at == 4 and modality == "cine"
            yield Described(site=site, variable=f"has {modality}", statistic="share", value=None if none else 0.843,
                            note="suppressed: fewer than 13 patients" if none else "")  # fmt: skip
        yield Described(site=site, variable="outcome death", statistic="share", value=0.233)


def _attention() -> Iterator[Attention]:
    """Parts with 3 as their second and last decimal."""
    for at, (site, role) in enumerate(SITES.items()):
        for modality, part in PARTS.items():
            told = (part, part - 0.1, part + 0.1) if at < 4 else (None, None, None)
            value, low, high = (None if x is None else round(x, 2) for x in told)
            note = "" if at < 4 else "suppressed: fewer than 13 patients"
            yield Attention(site=site, role=role, model="federated", modality=modality, value=value, ci_low=low,
                            ci_high=high, n=183, note=note)  # fmt: skip


def _flow() -> Iterator[Flow]:
    for at, site in enumerate(SITES):
        stages = {"rows of the table": 513, "set aside: outcome-before-index": 23, "set aside: cine: unreadable": None,
                  "usable": 473, "judged": 443}  # fmt: skip
        for stage, samples in stages.items():
            told = samples and samples - 100 * at
            yield Flow(site=site, stage=stage, samples=abs(told) if told else None, patients=None)


def _learning(draw: _Draw) -> Iterator[LearningPoint]:
    """Of the training sites, in the second phase; east lacks a round."""
    headline = {"death": ("", "auroc"), "events": ("macro", "auroc"), "survival": ("", "harrell_c"), "ef": ("", "mae")}
    for number, site in itertools.product(range(33, 84, 10), ("drum_tower", "east")):
        for task, (label, metric) in headline.items():
            if (number, site) != (53, "east"):
                told = draw.estimate(metric, around=0.5 + number / 400)
                yield LearningPoint(round=number, site=site, task=task, label=label, metric=metric, **told)


def everything() -> Results:
    """A study of 5 sites and 4 tasks with all that can be asked for."""
    draw = _Draw()
    train = [site for site, role in SITES.items() if role == "train"]
    headline = {"death": ("", "auroc"), "events": ("macro", "auroc"), "survival": ("", "harrell_c"), "ef": ("", "mae")}
    place = {task: {"task": task, "label": label, "modalities": "all", "metric": metric}
             for task, (label, metric) in headline.items()}  # fmt: skip
    summaries, gaps, differences, contributions, importance = [], [], [], [], []
    for of in place.values():
        for role in ("external", "train"):
            more = {"prediction_low": 0.503, "prediction_high": 0.853} if role == "external" else {}
            summaries.append(Summary(**of, model="federated", role=role, tau=0.113, i2=0.423, worst="lake_side" if
                             role == "external" else "east", sites=tuple(s for s, r in SITES.items() if r == role),
                             **more, **draw.estimate(of["metric"])))  # fmt: skip
        gaps.append(Gap(**of, model="federated", **draw.small()))
        for site, role in SITES.items():
            differences.append(Difference(**of, site=site, role=role, model="federated", against="local_only",
                               p=0.043, test="bootstrap", n=183, **draw.small()))  # fmt: skip
            plain = {name: value for name, value in of.items() if name != "modalities"}
            contributions += [Contribution(**plain, site=site, role=role, model="federated", modality=modality, n=183,
                              **draw.small()) for modality in MODALITIES]  # fmt: skip
            importance += [Importance(**plain, site=site, role=role, model="federated", group=group, n=183,
                           **draw.small()) for group in GROUPS]  # fmt: skip
    rounds = [RoundResult(round=0, outcome="committed", seconds=1.3, sites={})]
    rounds += [RoundResult(round=10 * r + 3, outcome="committed", seconds=20.3, sites={s: SiteRound(status="accepted")
               for s in train}) for r in range(1, 9)]  # fmt: skip
    return Results(
        schema=1,
        study=StudyResult(
            name="invented", hash="5d" * 32, system="attention", synthetic=True, tasks=TASKS, types=TYPES,
            headline=TASKS, modalities=MODALITIES, leaky=(), package="0.1.0",
            phases=(PhaseResult(name="unimodal", first=1, last=23), PhaseResult(name="fusion", first=24, last=83)),
        ),
        privacy=PrivacyResult(mode="patient", delta=1e-5, epsilon_budget=8.0,
                              epsilon_spent={"drum_tower": 5.213, "east": 6.873}, trust=("The sites trust nobody.",)),
        sites={site: SiteResult(role=role, declared_patients=903 if role == "train" else 0, title=f"{site} hospital")
               for site, role in SITES.items()},
        rounds=tuple(rounds),
        evaluation=tuple(_rows(draw)),
        curves=tuple(_curves(draw)),
        differences=tuple(differences),
        contributions=tuple(contributions),
        importance=tuple(importance),
        attention=tuple(_attention()),
        described=tuple(_described()),
        flow=tuple(_flow()),
        summaries=tuple(summaries),
        gaps=tuple(gaps),
        pooled=(PooledApproximate(task="death", label="", modalities="all", model="federated", role="external",
                sites=("harbour", "west_bank", "lake_side"), value=0.733, ci_low=0.703, ci_high=0.763, n=1203),),
        shifts=(Shift(task="death", label="", shift=-0.213),),
        learning=tuple(_learning(_Draw())),
        notes=("SYNTHETIC: invented for a test.",),
    )  # fmt: skip


def nothing() -> Results:
    """A study that was stopped before anything was trained or judged."""
    found = everything()
    empty = {name: () for name in ("rounds", "evaluation", "curves", "differences", "contributions", "importance",
             "attention", "described", "flow", "summaries", "gaps", "pooled", "shifts", "learning",
             "notes")}  # fmt: skip
    private = PrivacyResult(mode="none", delta=1e-5, epsilon_budget=None, epsilon_spent={})
    return found.model_copy(update={**empty, "privacy": private})
