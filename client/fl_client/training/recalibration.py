"""What intercepts are refitted from: logits of a site's training patients in fixed cells, and how many had the event.

Only the intercept can be refitted: with noise, a fit of two parameters can turn the slope round.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from fl_client.data.cohort import Cohort
from fl_client.privacy.noised_counts import noised
from fl_client.privacy.small_cells import merged_cells
from fl_client.training.judge import predict
from fl_client.training.rows import one_record
from fl_shared.counts import LOGITS, recalibration_sensitivity
from fl_shared.metrics.disclosure import MIN_CELL
from fl_shared.models.interface import Batch
from fl_shared.models.model import MultimodalModel
from fl_shared.study import Study

Counts = dict[str, NDArray[np.int64]]


def recalibration(
    study: Study,
    cohort: Cohort,
    model: MultimodalModel,
    batch: Batch,
    *,
    tasks: Sequence[str],
    sigma: float | None,
    min_patients: int,
) -> Counts:
    """What leaves: noised counts, or (without a noise multiplier) exact ones under the rules for small cells.

    Args:
        study: the plan.
        cohort: the site's samples.
        model: filled with the arrays whose intercepts are asked for.
        batch: all rows of the cohort.
        tasks: whose.
        sigma: noise multiplier.
        min_patients: without noise, labels that fewer patients have are not told.
    """
    rows = one_record(cohort, rows=cohort.rows(held_out=False), plan=study.evaluation)
    plans = {task: study.tasks[task] for task in tasks}
    said = predict(model, batch, rows=rows, tasks=plans, subsets={"all": tuple(study.modalities)})["all"]
    exact = {}
    for task in tasks:
        columns = zip(said.predictions[task].T, said.targets[task].T, said.mask[task].T, strict=True)
        exact[f"tasks.{task}"] = np.stack([_label(risk, target, known) for risk, target, known in columns])
    if sigma is not None:
        return noised(exact, sigma=sigma, sensitivity=recalibration_sensitivity(study, tasks))
    told = partial(_told, of=len(rows), min_patients=min_patients)
    return {name: np.stack([told(label) for label in labels]) for name, labels in exact.items()}


def _label(risk: NDArray[np.floating], target: NDArray[np.floating], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Cells of the logits of patients whose outcome is known, then the number of events among them."""
    with np.errstate(divide="ignore"):
        logits = np.nan_to_num(logit(risk[known].astype(np.float64)), nan=0.0)
    cells = np.bincount(LOGITS.place(logits), minlength=LOGITS.size)
    return np.append(cells, (target[known] == 1).sum()).astype(np.int64)


def _told(label: NDArray[np.int64], *, of: int, min_patients: int) -> NDArray[np.int64]:
    """Without noise: nothing where with, without or (by the number of all patients) unknown is a small cell."""
    cells, events = label[:-1], int(label[-1])
    known = int(cells.sum())
    if known < min_patients or min(events, known - events) < MIN_CELL or 0 < of - known < MIN_CELL:
        return np.zeros_like(label)
    return np.append(merged_cells(cells, 0)[0], events)
