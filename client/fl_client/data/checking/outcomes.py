"""How often every outcome occurs, by the type of its task."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import CensoredData, ecdf

from fl_client.data.checking.characteristics import quartiles, rounded
from fl_client.data.checking.disclosure import Group, Teller
from fl_client.data.cohort import Cohort
from fl_client.data.load import Wanted
from fl_shared.study import TaskPlan

Entry = dict[str, Any]


def outcomes(cohort: Cohort, *, wanted: Wanted, samples: Group, teller: Teller) -> dict[str, list[Entry]]:
    """Task -> one entry a label: samples ``labelled``; ``positive``, ``count``, quartiles, or events and follow-up.

    A multilabel task has an entry a label, a multiclass task one a class, each named ``label``; other tasks have one.
    """
    return {
        task: _task(plan, cohort.targets[task], cohort.target_mask[task], samples=samples, teller=teller)
        for task, plan in wanted.tasks.items()
    }


def _task(
    plan: TaskPlan, target: NDArray[np.float32], mask: NDArray[np.bool_], *, samples: Group, teller: Teller
) -> list[Entry]:
    if plan.type in ("binary", "multilabel"):
        return [
            ({"label": name} if name else {}) | _binary(target[:, c], mask[:, c], samples=samples, teller=teller)
            for c, name in enumerate(plan.names)
        ]
    known = np.asarray(mask.all(axis=1))
    labelled = teller.group(known, samples)
    if plan.type == "multiclass":
        classes = {name: mask[:, 0] & (target[:, 0] == c) for c, name in enumerate(plan.labels)}
        told = teller.parts(labelled, classes, strict=True)
        return [{"label": name, "labelled": labelled.told, "count": part.told} for name, part in told.items()]
    if plan.type == "regression":
        values = np.where(mask[:, 0], target[:, 0], np.nan).astype(np.float64)
        return [{"labelled": labelled.told, **quartiles(values, teller=teller)}]
    events = teller.group(known & (target[:, 1] == 1), labelled, strict=True)
    follow_up = _median_follow_up(target, known, teller=teller)
    return [{"labelled": labelled.told, "events": events.told, "median_follow_up_days": follow_up}]


def _binary(target: NDArray[np.float32], mask: NDArray[np.bool_], *, samples: Group, teller: Teller) -> Entry:
    labelled = teller.group(mask, samples)
    positive = teller.group(mask & (target == 1), labelled, strict=True)
    return {"labelled": labelled.told, "positive": positive.told}


def _median_follow_up(target: NDArray[np.float32], known: NDArray[np.bool_], *, teller: Teller) -> float | None:
    """Days, by the reverse Kaplan-Meier estimator (Schemper & Smith 1996): death ends the wait for censoring.

    None where it is not reached, or rests on too few patients.
    """
    if not teller.enough(known & (target[:, 1] == 0)):
        return None
    days, event = target[known, 0].astype(np.float64), target[known, 1] == 1
    curve = ecdf(CensoredData.right_censored(days, event)).sf
    reached = curve.quantiles[curve.probabilities <= 0.5]
    return rounded(float(reached[0])) if len(reached) else None
