"""What each modality adds to the headline metric: exact Shapley values over all sets of modalities.

All sets are judged on the same rows, those of ``all``. A row that shows nothing of a set gets the constant prediction:
the mean of what the model says of these rows from all inputs, which no outcome enters. The empty set is that constant
for everybody: 0.5 of an AUROC or a C, the error of the constant of an MAE. Resamples of patients are the same in all
sets, so that intervals are of the differences; values add up to ``all`` less the empty set.

Source: Shapley, A value for n-person games, 1953; of a metric as here: Covert et al., NeurIPS 2020 (SAGE).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations
from math import comb, isfinite

import numpy as np
from numpy.typing import NDArray

from fl_client.training.judge import Judge, Told
from fl_shared.counts import subsets
from fl_shared.metrics import bootstrap as resampling
from fl_shared.metrics.disclosure import MANY_LEFT_OUT
from fl_shared.metrics.part import Part
from fl_shared.metrics.table import METRICS, MetricName, metrics_of
from fl_shared.results import Contribution, EvaluationRow

Floats = NDArray[np.float64]
Members = frozenset[str]


def filled(said: Told, whole: Told) -> Told:
    """What the model says of a set of modalities, on all rows of ``whole``."""
    at = np.searchsorted(whole.rows, said.rows)
    predictions = {}
    for task, every in whole.predictions.items():
        predictions[task] = np.repeat(every.mean(axis=0, keepdims=True), len(every), axis=0)
        predictions[task][at] = said.predictions[task]
    return replace(whole, predictions=predictions)


def contributions(
    judge: Judge, task: str, told: Mapping[str, Told], rows: Iterable[EvaluationRow], *, model: str
) -> list[Contribution]:
    """One entry a label and modality, where ``rows`` (of the task from all inputs) tell the metric.

    Args:
        judge: study, site and cohort.
        task: its name.
        told: set of modalities -> what the model says; all sets of the study.
        rows: what is told from all inputs.
        model: its name in the results.
    """
    study, whole = judge.study, told["all"]
    plan, metric = study.tasks[task], metrics_of(study.tasks[task].type)[0]
    known = {row.label: row for row in rows if row.metric == metric and row.value is not None}
    sets: dict[Members, list[Part]] = {
        frozenset(members): judge.parts(task, filled(told[name], whole)) for name, members in subsets(study).items()
    }
    sets[frozenset()] = judge.parts(task, filled(whole.some(np.zeros(len(whole.rows), dtype=bool)), whole))
    found = _measured(sets, [label for label in known if label != "macro"], metric, judge=judge, rows=whole.rows)
    if "macro" in known:
        head = [label for label in plan.headline or plan.told if label in known]
        found["macro"] = {
            members: (
                float(np.mean([found[label][members][0] for label in head])),
                np.mean([found[label][members][1] for label in head], axis=0),
            )
            for members in sets
        }
    place = {"site": judge.site.name, "role": study.sites[judge.site.name].role, "task": task, "model": model}
    return [
        Contribution.model_validate(
            place | {"label": label, "metric": metric, "modality": m, "n": row.n} | _told(metric, found[label], m)
        )
        for label, row in known.items()
        for m in study.modalities
    ]


def shapley(values: Mapping[Members, Floats], modality: str) -> Floats:
    """A modality's mean gain over all orders in which the modalities can come, of values (...,) a set."""
    everyone = frozenset(chain.from_iterable(values))
    others, n = sorted(everyone - {modality}), len(everyone)
    gains = (
        (values[frozenset(s) | {modality}] - values[frozenset(s)]) / (n * comb(n - 1, len(s)))
        for size in range(n)
        for s in combinations(others, size)
    )
    return np.asarray(sum(gains), dtype=np.float64)


_Found = dict[Members, tuple[float, Floats]]


def _measured(
    sets: Mapping[Members, Sequence[Part]],
    labels: Sequence[str],
    metric: MetricName,
    *,
    judge: Judge,
    rows: NDArray[np.int64],
) -> dict[str, _Found]:
    """Label -> the metric of each set and its resamples (B,), the same ones in all sets."""
    plan, cohort = judge.study.evaluation, len(np.unique(judge.cohort.patient[rows]))
    named = [(label, members) for members in sets for label in labels]
    measures = [next(p for p in sets[members] if p.cell.label == label).measure() for label, members in named]
    values = resampling.estimates(measures, cohort=cohort)
    draws = resampling.bootstrap(
        measures, cohort=cohort, samples=len(rows), resamples=plan.bootstrap, seed=judge.study.seed
    )
    found: dict[str, _Found] = {label: {} for label in labels}
    for (label, members), value, drawn in zip(named, values, draws, strict=True):
        found[label][members] = value[metric], drawn[metric]
    return found


def _told(metric: MetricName, found: _Found, modality: str) -> dict[str, object]:
    value = float(shapley({members: np.array(pair[0]) for members, pair in found.items()}, modality))
    draws = shapley({members: pair[1] for members, pair in found.items()}, modality)
    within, rounded = resampling.interval(draws), METRICS[metric].rounded
    if not isfinite(value) or within.low is None or within.high is None:
        return {"value": None, "ci_low": None, "ci_high": None, "note": "not defined on these patients"}
    many = within.left_out > resampling.MAX_LEFT_OUT
    note = f"{within.left_out:.0%} {MANY_LEFT_OUT}" if many else ""
    return {"value": rounded(value), "ci_low": rounded(within.low), "ci_high": rounded(within.high), "note": note}
