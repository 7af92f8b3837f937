"""How the judged samples came about: from the site's table through what was set aside, by the rules of the data check.

Beside the numbers of samples that metrics tell, a stage is told where the difference is nobody or 10 patients or more.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fl_client.data.checking import completeness
from fl_client.data.checking.disclosure import FEW, Group, Teller
from fl_client.data.cohort import Cohort
from fl_shared.asked import SET_ASIDE
from fl_shared.results import EvaluationRow, Flow
from fl_shared.study import Study

Rows = NDArray[np.int64]


def flow(cohort: Cohort, rows: Rows, *, study: Study, evaluation: Iterable[EvaluationRow]) -> list[Flow]:
    """Stages of the flow and why samples, or a modality of them, were set aside; nothing of a cohort without report.

    Args:
        cohort: with the report of reading it.
        rows: the judged samples.
        study: names the modalities.
        evaluation: what is told of the judged samples.
    """
    report = cohort.report
    if report is None:
        return []
    teller = Teller(patient=cohort.patient, local=False)
    stages = completeness.flow(report, teller=teller)
    before = [group for step, group in stages.items() if step != "usable"]
    usable = stages["usable"] = teller.group(np.ones(len(cohort), dtype=bool), before[-1])
    inside = np.zeros(len(cohort), dtype=bool)
    inside[rows] = True
    stages["judged"] = teller.group(inside, usable)
    told = {row.n for row in evaluation if row.n is not None and not row.subgroup}
    found = [
        Flow(site=cohort.site, stage=step, **_counts(group, told, cohort, study, rows))
        for step, group in stages.items()
    ]
    present = {name: teller.group(there, usable) for name, there in cohort.present.items()}
    for item in completeness.quarantine(report, present, teller=teller):
        of = "" if item["modality"] == "(sample)" else f"{item['modality']}: "
        stage, count = f"set aside: {of}{item['check']}", item["count"]
        known = SET_ASIDE.fullmatch(stage)
        if known is not None and (known[1] is None or known[1] in study.modalities):
            samples = count if isinstance(count, int) else None
            found.append(Flow(site=cohort.site, stage=stage, samples=samples, patients=None))
    return _apart(found)


def _counts(group: Group, told: set[int], cohort: Cohort, study: Study, rows: Rows) -> dict[str, int | None]:
    """Samples and patients of a stage, as far as nothing small lies between it and what is told of judged samples."""
    close = any(0 < group.n - n < FEW for n in told)
    if group.exact is None or close or (group.rows is not None and _few_unknown(group.rows, cohort, study, rows)):
        return {"samples": None, "patients": None}
    patients = None if group.rows is None else len(np.unique(cohort.patient[group.rows]))
    return {"samples": group.exact, "patients": patients}


def _few_unknown(stage: NDArray[np.bool_], cohort: Cohort, study: Study, rows: Rows) -> bool:
    """Whether those of a stage who are not judged by some outcome are few patients."""
    for task, plan in study.tasks.items():
        if plan.modality is None:
            mask = cohort.target_mask[task][rows]
            whole = np.asarray(mask.all(axis=1))
            for known in mask.T if plan.type == "multilabel" else [whole]:
                rest = stage.copy()
                rest[rows[known]] = False
                if 0 < len(np.unique(cohort.patient[rest])) < FEW:
                    return True
    return False


def _apart(found: list[Flow]) -> list[Flow]:
    """Numbers of patients of two stages tell those between them."""
    kept: list[Flow] = []
    last = None
    for stage in found:
        few = last is not None and stage.patients is not None and 0 < last - stage.patients < FEW
        kept.append(stage.model_copy(update={"patients": None}) if few else stage)
        last = kept[-1].patients if kept[-1].patients is not None else last
    return kept
