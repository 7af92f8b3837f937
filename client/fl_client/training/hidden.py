"""Inputs hidden at random, as they are lacking in practice: by a salted hash, the same for every model of a study."""

from __future__ import annotations

import numpy as np

from fl_client.data.cohort import Cohort
from fl_client.training.judge import Shown
from fl_shared.counts import primary, subsets
from fl_shared.study import Study, hidden_draw
from fl_shared.subgroups import hidden_name


def hidden_inputs(cohort: Cohort, study: Study) -> dict[str, Shown]:
    """Name in the results -> which rows still show each modality, when a share of the study's is hidden.

    A patient's modality is hidden with all its samples, and stays hidden where the share is larger; never the last one
    of a row. The share is of those that are there, before the last ones are given back. Of modalities that the study
    does not name (`EvaluationPlan.hidden_of`) nothing is hidden.
    """
    members = subsets(study)[primary(study)]
    plan, there = study.evaluation, np.stack([cohort.present[m] for m in members])
    kept = np.array([[bool(plan.hidden_of) and m not in plan.hidden_of] for m in members])
    draws = np.array(
        [[hidden_draw(p, site=cohort.site, modality=m, plan=plan) for p in cohort.patient_ids] for m in members]
    )[:, cohort.patient]
    last = np.where(there, draws, -1.0).argmax(axis=0) == np.arange(len(members))[:, None]
    found: dict[str, Shown] = {}
    for share in plan.hidden:
        shown = there & (kept | (draws >= share))
        shown |= there & last & ~shown.any(axis=0)
        none = np.zeros(len(cohort), dtype=bool)
        found[hidden_name(share)] = {m: shown[members.index(m)] if m in members else none for m in study.modalities}
    return found
