"""What is told of one patient, as plain values: read by the page, by ``--format json`` and by the tables of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fl_client.bedside.case import Case
from fl_client.bedside.costs import costs_of, members
from fl_client.bedside.course import same_band
from fl_client.bedside.opened import Opened
from fl_client.bedside.register import Record
from fl_client.bedside.similar import Similar, similar
from fl_client.bedside.targets import Target, log_odds, main_target, number, targets_of
from fl_client.bedside.timeline import Lane, Window, lanes_of, suggestion_of
from fl_client.data.cohort import Quarantined
from fl_shared.results import Results
from fl_shared.site import Site
from fl_shared.study import Study

EVEN = 0.5


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a bundle's results tell that can stand beside a prediction."""

    study: Study
    results: Results
    model: str

    @classmethod
    def of(cls, opened: Opened) -> Evaluation:
        """Of a bundle."""
        bundle = opened.bundle
        return cls(study=bundle.study, results=bundle.results, model=bundle.card.model)

    def like(self, target: Target, risk: float, present: Sequence[str]) -> Similar | None:
        """Judged patients of like risk: judged on the inputs that this patient has, else on all."""
        if target.kind != "risk":
            return None
        curves = self.results.curves
        return similar(
            curves,
            risk,
            task=target.task,
            label=target.told,
            day=target.day,
            model=self.model,
            inputs=(present, tuple(self.study.modalities)),
            members={curve.modalities: members(self.study, curve.modalities) for curve in curves},
        )

    def like_band(self, task: str, band: str, day: float, present: Sequence[str]) -> Similar | None:
        """Judged patients of the same band by the horizon: judged on the inputs that this patient has, else on all."""
        if self.study.tasks[task].type != "survival":
            return None
        names = {curve.modalities for curve in self.results.curves}
        for wanted in (present, tuple(self.study.modalities)):
            same = [name for name in names if members(self.study, name) == frozenset(wanted)]
            curves = self.results.curves
            found = same_band(curves, band, task=task, day=day, model=self.model, modalities=same)
            if found is not None:
                return replace(found, inputs=tuple(wanted))
        return None

    def base_rate(self, target: Target) -> float | None:
        """Share of the judged patients with the event, all hospitals together; None where it is not told."""
        every = frozenset(self.study.modalities)
        told = [
            (y, n)
            for curve in self.results.curves
            if (curve.kind, curve.task, curve.label, curve.model) == ("risks", target.task, target.told, self.model)
            and curve.day in (None, target.day)
            and members(self.study, curve.modalities) == every
            for y, n in zip(curve.y, curve.counts, strict=False)
            if n
        ]
        patients = sum(n for _, n in told)
        return sum(y * n for y, n in told) / patients if patients else None

    def start(self, target: Target) -> float:
        """The score with no modality: log-odds of the base rate (even odds where it is not told), or the constant
        that the study gives a regression.
        """
        if target.kind == "risk":
            return log_odds_of(self.base_rate(target) or EVEN)
        plan = self.study.tasks[target.task]
        if target.kind == "hazard":
            return 0.0
        return plan.scale if plan.loss == "msle" else plan.offset


def log_odds_of(risk: float) -> float:
    """Of a number."""
    return float(log_odds(torch.tensor(risk, dtype=torch.float64)))


def told_of(
    case: Case,
    opened: Opened,
    site: Site,
    *,
    record: Record,
    others: Sequence[tuple[Record, Mapping[Target, float]]],
    aside: Sequence[Quarantined],
    trained_on: bool,
) -> dict[str, Any]:
    """Everything that the page says in numbers and words.

    Args:
        case: the record that is told in full.
        opened: the model.
        site: this hospital.
        record: of the case, in the samples table.
        others: the patient's other usable records with their scores, the latest first.
        aside: what of this patient was set aside.
        trained_on: whether the patient was among those that the model was trained on, as the study draws them.
    """
    study, evaluation = opened.bundle.study, Evaluation.of(opened)
    scores, main = case.scores(), main_target(opened.bundle.study)
    start = {target: evaluation.start(target) for target in targets_of(study)}
    parts = case.contributions(start)
    numbers = [
        _number(target, score, evaluation, case.present, parts[target], start[target])
        for target, score in scores.items()
    ]
    costs = costs_of(opened.bundle.results, study, main, missing=case.missing, model=evaluation.model)
    suggestion = suggestion_of(study, scores)
    return {
        "patient": record.patient,
        **_record(record),
        "site": site.name,
        "synthetic": synthetic(opened, site),
        "trained_on": trained_on,
        "model": about_model(opened),
        "present": list(case.present),
        "missing": [_missing(name, opened, aside, record) for name in case.missing],
        "aside": [_aside(item) for item in aside],
        "main": main.title,
        "numbers": numbers,
        "timeline": [
            {
                "title": lane.title,
                "limits": list(lane.limits),
                "days": [window.day for window in lane.windows],
                "windows": [_window(window, lane, evaluation, case.present) for window in lane.windows],
            }
            for lane in lanes_of(study, scores)
        ],
        "follow_up": asdict(suggestion) if suggestion else None,
        "costs": {
            "metric": costs.title,
            "hospitals": [asdict(cost) for cost in costs.costs],
            "adds": [
                {"site": c.site, "modality": c.modality, "value": c.value, "low": c.ci_low, "high": c.ci_high}
                for c in costs.shares
            ],
        },
        "other_records": [
            {**_record(other), "value": number(told[main], main), "kind": main.kind} for other, told in others
        ],
    }


def synthetic(opened: Opened, site: Site) -> bool:
    """Whether invented patients are behind the model or in front of it."""
    return site.synthetic or opened.bundle.card.synthetic


def about_model(opened: Opened) -> dict[str, Any]:
    """Which model this is, and who vouches for it."""
    card, bundle = opened.bundle.card, opened.bundle
    return {
        "study": card.name,
        "hash": card.study,
        "system": card.system,
        "kind": card.model,
        "arrays": card.arrays,
        "signer": bundle.signer,
        "unsigned": bundle.unsigned,
        "intended_use": card.intended_use,
        "training_sites": card.training_sites,
        "external_sites": list(card.external_sites),
        "privacy": card.privacy_claim,
        "not_mapped_here": list(opened.unmapped),
    }


def _number(
    target: Target,
    score: float,
    evaluation: Evaluation,
    present: Sequence[str],
    parts: Mapping[str, float],
    start: float,
) -> dict[str, Any]:
    value = number(score, target)
    like = evaluation.like(target, value, present)
    return {
        "task": target.task,
        "label": target.label,
        "day": target.day,
        "title": target.title,
        "kind": target.kind,
        "value": value,
        "similar": asdict(like) if like else None,
        "start": number(start, target),
        "start_known": target.kind != "risk" or evaluation.base_rate(target) is not None,
        "contributions": dict(parts),
    }


def _record(record: Record) -> dict[str, Any]:
    return {
        "sample": record.sample,
        "index_time": None if record.when is None else record.when.strftime("%Y-%m-%d %H:%M UTC"),
    }


def _window(window: Window, lane: Lane, evaluation: Evaluation, present: Sequence[str]) -> dict[str, Any]:
    """``same_band``: what came of judged patients in the band that this one is in by the horizon, where it is told."""
    last, plan = lane.windows[-1], evaluation.study.tasks[window.target.task]
    like = None
    if last.day == plan.horizon:
        like = evaluation.like_band(window.target.task, last.band, window.day, present)
    return {"day": window.day, "risk": window.risk, "band": window.band, "same_band": asdict(like) if like else None}


def _missing(name: str, opened: Opened, aside: Sequence[Quarantined], record: Record) -> dict[str, Any]:
    """Why a modality is not there, in words for the ward."""
    found = [item for item in aside if item.modality == name and item.row == record.line]
    if name in opened.unmapped:
        why = "this hospital does not provide it (site.toml maps none)"
    elif found:
        why = "set aside: " + "; ".join(f"{item.check} ({item.detail})" for item in found)
    else:
        why = "none in this record"
    return {"modality": name, "kind": opened.bundle.study.modalities[name].kind, "why": why}


def _aside(item: Quarantined) -> dict[str, Any]:
    return {"row": item.row, "modality": item.modality or "", "check": item.check, "detail": item.detail}
