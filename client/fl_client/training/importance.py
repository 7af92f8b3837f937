"""What the headline metric loses when a group of fields is read as not observed (M-PRTM's feature groups).

Rows, outcomes and resamples of patients are those of the whole, so that a group's worth is a paired difference. A
modality of which nothing else was observed in a row is absent there; a row of which nothing is left gets the mean
prediction, as in contributions. A group that was observed in fewer than 10 patients of a label is not told of.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fl_client.data.cohort import Cohort
from fl_client.training.contributions import filled
from fl_client.training.judge import Dropped, Judge, Shown, Told
from fl_shared.metrics.disclosure import MIN_CELL
from fl_shared.metrics.paired import paired_differences
from fl_shared.metrics.table import metrics_of
from fl_shared.results import Difference, Importance
from fl_shared.study import Study
from fl_shared.subgroups import grouped_fields, headline_modalities

SUPPRESSED = f"suppressed: fewer than {MIN_CELL} patients"
WITHOUT = "without "


def without(group: str) -> str:
    """Name of the view in which a group is not observed."""
    return WITHOUT + group


def dropped_fields(study: Study) -> dict[str, Dropped]:
    """View -> modality -> numbers of the fields that are not observed in it."""
    held = grouped_fields(study.modalities)
    return {
        without(group): {
            m: tuple(at for at, field in enumerate(own) if field in fields)
            for m, own in held.items()
            if set(own) & set(fields)
        }
        for group, fields in study.evaluation.feature_groups.items()
    }


def shown_without(cohort: Cohort, study: Study, dropped: Mapping[str, Dropped]) -> dict[str, Shown]:
    """View -> which rows still show each modality of the headline's: those in which something else was observed."""
    named = headline_modalities(study.modalities)
    return {
        view: {
            m: _else_observed(cohort, m, fields[m]) if m in fields else np.full(len(cohort), m in named)
            for m in study.modalities
        }
        for view, fields in dropped.items()
    }


def importance(judge: Judge, task: str, said: Mapping[str, Told], *, shown: str, model: str) -> list[Importance]:
    """One entry a group and label, where both metrics are told.

    Args:
        judge: study, site and cohort.
        task: its name.
        said: view -> what the model says.
        shown: the headline's inputs.
        model: its name in the results.
    """
    study, whole = judge.study, said[shown]
    role, plan = study.sites[judge.site.name].role, study.tasks[task]
    found: list[Importance] = []
    for view, fields in dropped_fields(study).items():
        group, less = view.removeprefix(WITHOUT), filled(said[view], whole)
        differences = paired_differences(
            site=judge.site.name,
            role=role,
            task=task,
            plan=plan,
            modalities=shown,
            model=model,
            against=view,
            predictions=whole.predictions[task],
            predictions_against=less.predictions[task],
            targets=whole.targets[task],
            mask=whole.mask[task],
            patients=judge.cohort.patient[whole.rows],
            bootstrap=study.evaluation.bootstrap,
            seed=study.seed,
            min_patients=judge.fewest,
        )
        few = _few(judge, task, whole, _observed(judge.cohort, fields)[whole.rows])
        found += [
            _as_told(difference, group, few=difference.label in few)
            for difference in differences
            if difference.metric == metrics_of(plan.type)[0]
        ]
    return found


def _few(judge: Judge, task: str, whole: Told, observed: NDArray[np.bool_]) -> set[str]:
    """Labels of which the group was observed in few patients, with the mean over such labels."""
    plan, patient = judge.study.tasks[task], judge.cohort.patient[whole.rows]
    mask = whole.mask[task]
    known = mask.T if plan.type == "multilabel" else [mask.all(axis=1)] * len(plan.told)
    few = {
        label
        for label, there in zip(plan.told, known, strict=True)
        if len(np.unique(patient[there & observed])) < MIN_CELL
    }
    return few | ({"macro"} if few & set(plan.headline or plan.told) else set())


def _as_told(difference: Difference, group: str, *, few: bool) -> Importance:
    body = {name: getattr(difference, name) for name in Importance.model_fields if name != "group"} | {"group": group}
    if few:
        body |= {"value": None, "ci_low": None, "ci_high": None, "note": SUPPRESSED}
    return Importance.model_validate(body)


def _else_observed(cohort: Cohort, modality: str, fields: tuple[int, ...]) -> NDArray[np.bool_]:
    """(N,) whether a field besides these was observed."""
    rest = np.delete(cohort.inputs[modality]["observed"], fields, axis=-1)
    return np.asarray(rest.reshape(len(rest), -1).any(axis=1), dtype=np.bool_)


def _observed(cohort: Cohort, dropped: Dropped) -> NDArray[np.bool_]:
    """(N,) whether any of the fields was observed."""
    each = []
    for modality, fields in dropped.items():
        some = cohort.inputs[modality]["observed"][..., list(fields)].reshape(len(cohort), -1).any(axis=1)
        each.append(cohort.present[modality] & some)
    return np.asarray(np.logical_or.reduce(each), dtype=np.bool_)
