"""Judging with noise: risks of a site's judged patients counted by outcome, noised, then measured.

One record a patient, once a label and subset of modalities; what is measured sees the noised counts only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fl_client.privacy.noised_counts import noised
from fl_client.training.judge import Judge, Told, predict
from fl_client.training.rows import one_record
from fl_shared.counts import RISKS, risk_name, risk_sensitivity, risky_tasks, subsets
from fl_shared.metrics.noised import Noised, Place, noised_rows
from fl_shared.models.interface import Batch
from fl_shared.models.model import MultimodalModel
from fl_shared.results import EvaluationRow

NAN_RISK = 0.5


def judge_noised(
    judge: Judge, model: MultimodalModel, batch: Batch, *, name: str, sigma: float, epsilon: float
) -> list[EvaluationRow]:
    """Rows of every task and subset of modalities; a task that has no noised form is named and withheld.

    Args:
        judge: study, site and cohort.
        model: what is judged.
        batch: all rows of the cohort.
        name: of the model, in the results.
        sigma: noise multiplier of all histograms together.
        epsilon: of the judged patients, told beside every number.
    """
    study, site, tasks, sets = judge.study, judge.site, risky_tasks(judge.study), subsets(judge.study)
    rows = one_record(judge.cohort, rows=judge.rows(), plan=study.evaluation)
    told = predict(model, batch, rows=rows, tasks=tasks, subsets=sets)
    exact = {risk_name(task, subset): _counts(told[subset], task) for subset in sets for task in tasks}
    sensitivity = risk_sensitivity(study)
    counts = noised(exact, sigma=sigma, sensitivity=sensitivity)
    found = []
    for subset in sets:
        for task, plan in judge.tasks(name).items():
            alone = plan.modality is not None  # a segmentation: told once, as in the exact form
            if alone and subset != "all":
                continue
            place = Place(site=site.name, role=study.sites[site.name].role, task=task, modalities=subset, model=name)
            held = counts.get(risk_name(task, subset))
            labels = {} if held is None else dict(zip(plan.told, held, strict=True))
            few = max(study.evaluation.min_patients, site.privacy.min_patients)
            found += noised_rows(
                place, plan, _measured(labels, judge, sd=sigma * sensitivity), epsilon=epsilon, min_patients=few
            )
    return found


def _measured(labels: Mapping[str, NDArray[np.int64]], judge: Judge, *, sd: float) -> dict[str, Noised]:
    resamples, seed = judge.study.evaluation.bootstrap, judge.study.seed
    return {label: Noised(counts=held, sd=sd, resamples=resamples, seed=seed) for label, held in labels.items()}


def _counts(told: Told, task: str) -> NDArray[np.int64]:
    """(labels, 2, cells): patients without and with the event by predicted risk."""
    found = []
    for risk, target, known in zip(told.predictions[task].T, told.targets[task].T, told.mask[task].T, strict=True):
        place = RISKS.place(np.nan_to_num(risk, nan=NAN_RISK)) - 1  # no risk lies below 0 or above 1
        sides = [place[known & (target == side)] for side in (0, 1)]
        found.append(np.stack([np.bincount(side, minlength=RISKS.cells) for side in sides]))
    return np.stack(found).astype(np.int64)
