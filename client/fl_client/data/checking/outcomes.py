"""How often every outcome occurs, by the type of its task."""

from __future__ import annotations

from collections.abc import Mapping
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


def outcomes(
    cohort: Cohort, *, wanted: Wanted, samples: Group, present: Mapping[str, Group], teller: Teller
) -> dict[str, list[Entry]]:
    """Task -> one entry a label: samples ``labelled``; ``positive``, ``count``, quartiles, or events and follow-up.

    A multilabel task has an entry a label, a multiclass task one a class, competing events one a cause, a segmentation
    one a structure, each named ``label``; other tasks have one.
    """
    found = {}
    for task, plan in wanted.tasks.items():
        target, mask = cohort.targets[task], cohort.target_mask[task]
        if plan.modality is not None:
            found[task] = _drawn(plan, target, mask, wholes=(samples, present[plan.modality]), teller=teller)
        else:
            found[task] = _task(plan, target, mask, samples=samples, teller=teller)
    return found


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
    follow_up = _median_follow_up(target, known, teller=teller)
    events = teller.group(known & (target[:, 1] > 0), labelled, strict=True)
    if plan.type == "competing":
        causes = {name: known & (target[:, 1] == c) for c, name in enumerate(plan.labels, start=1)}
        told = teller.parts(events, causes, strict=True)  # other tasks may tell how many events there are
        counts = {"labelled": labelled.told, "median_follow_up_days": follow_up}
        return [{"label": name, **counts, "events": told[name].told} for name in plan.labels]
    return [{"labelled": labelled.told, "events": events.told, "median_follow_up_days": follow_up}]


def _binary(target: NDArray[np.float32], mask: NDArray[np.bool_], *, samples: Group, teller: Teller) -> Entry:
    labelled = teller.group(mask, samples)
    positive = teller.group(mask & (target == 1), labelled, strict=True)
    return {"labelled": labelled.told, "positive": positive.told}


def _drawn(
    plan: TaskPlan, target: NDArray[np.uint8], mask: NDArray[np.bool_], *, wholes: tuple[Group, ...], teller: Teller
) -> list[Entry]:
    """Samples with a drawn frame, and those of them in which each structure was drawn."""
    known = np.asarray(mask.any(axis=(1, 2)))
    there = np.zeros((len(target), 256), dtype=bool)
    for row in np.flatnonzero(known):
        there[row] = np.bincount(target[row][mask[row]].reshape(-1), minlength=256) > 0
    labelled = teller.group(known, *wholes)
    found = []
    for number, name in enumerate(plan.labels, start=1):
        positive = teller.group(there[:, number], labelled, strict=True)
        found.append({"label": name, "labelled": labelled.told, "positive": positive.told})
    return found


def _median_follow_up(target: NDArray[np.float32], known: NDArray[np.bool_], *, teller: Teller) -> float | None:
    """Days, by the reverse Kaplan-Meier estimator (Schemper & Smith 1996): an event ends the wait for censoring.

    None where it is not reached, or rests on too few patients.
    """
    if not teller.enough(known & (target[:, 1] == 0)):
        return None
    days, event = target[known, 0].astype(np.float64), target[known, 1] > 0
    curve = ecdf(CensoredData.right_censored(days, event)).sf
    reached = curve.quantiles[curve.probabilities <= 0.5]
    return rounded(float(reached[0])) if len(reached) else None
