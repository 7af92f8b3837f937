"""What the coordinator accepts from a site: checked before anything is aggregated or reported.

A site's weight is its declared number of patients in the study; nothing that a site says can change it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import numpy as np

from fl_shared.metrics.curves import curve_fits
from fl_shared.metrics.table import fits
from fl_shared.results import Curve, EvaluationRow
from fl_shared.study import Study
from fl_shared.wire import Arrays, Reply

MAX_TEXT = 4000  # characters of a row's note (it may list labels that are left out) or model name


class Reason(StrEnum):
    """Why an answer was rejected; these words stand in manifests, events, metrics and reports."""

    ROLE = "role-may-not-train"
    OTHER_SITE = "names-another-site"
    MISSING_ARRAYS = "missing-arrays"
    UNKNOWN_ARRAYS = "unknown-arrays"
    SHAPE = "wrong-shape"
    DTYPE = "wrong-dtype"
    NOT_FINITE = "not-finite"
    NORM = "norm-exceeds-limit"
    UNEXPECTED_ARRAYS = "arrays-not-asked-for"
    UNKNOWN_ROWS = "rows-outside-the-study"
    REPEATED_ROWS = "repeated-rows"
    TOO_FEW = "cohort-below-minimum"


def validate(update: Arrays, *, base: Arrays, study: Study, site: str, rounds: int = 1) -> Reason | None:
    """Judge the arrays of one site's reply.

    Args:
        update: parameters after training, by name.
        base: the parameters that the site started from: names, shapes and dtypes must be equal.
        study: gives the site's role and ``rounds.max_norm``.
        site: name under which the reply came in.
        rounds: rounds of training since ``base``; the L2 norm (float64) of the difference may be ``max_norm`` a round.

    Returns:
        The first reason to reject it, or None.
    """
    if site not in study.train_sites:
        return Reason.ROLE
    if base.keys() - update.keys():
        return Reason.MISSING_ARRAYS
    if update.keys() - base.keys():
        return Reason.UNKNOWN_ARRAYS
    square = 0.0
    for name, before in base.items():
        after = update[name]
        if after.shape != before.shape:
            return Reason.SHAPE
        if after.dtype != before.dtype:
            return Reason.DTYPE
        if not np.isfinite(after).all():
            return Reason.NOT_FINITE
        difference = np.subtract(after, before, dtype=np.float64).ravel()
        square += float(difference @ difference)
    # `not <=` also refuses a sum that overflowed to NaN
    return None if square**0.5 <= study.rounds.max_norm * rounds else Reason.NORM


def validate_evaluation(reply: Reply, arrays: Arrays, *, study: Study, site: str) -> Reason | None:
    """Judge an evaluation reply: a site speaks for itself alone, of the study's tasks, and never of too few patients.

    Returns:
        The first reason to reject it, or None.
    """
    if arrays:
        return Reason.UNEXPECTED_ARRAYS
    rows, curves = reply.evaluation, reply.curves
    named = {row.site for row in rows} | {curve.site for curve in curves}
    if named - {site} or any(row.role != study.sites[site].role for row in rows):
        return Reason.OTHER_SITE
    if not all(_row_fits(row, study) for row in rows) or not all(_curve_fits(curve, study) for curve in curves):
        return Reason.UNKNOWN_ROWS
    if _repeats((r.task, r.label, r.modalities, r.model, r.metric) for r in rows) or _repeats(
        (c.task, c.label, c.modalities, c.kind, str(c.day)) for c in curves
    ):
        return Reason.REPEATED_ROWS
    if any(r.value is not None and (r.n is None or r.n < study.evaluation.min_patients) for r in rows):
        return Reason.TOO_FEW
    return None


def _row_fits(row: EvaluationRow, study: Study) -> bool:
    return (
        _fits(row, study)
        and fits(row.metric, study.tasks[row.task].type, (row.value, row.ci_low, row.ci_high))
        and all(len(text) <= MAX_TEXT and text.isprintable() for text in (row.note, row.model))
    )


def _curve_fits(curve: Curve, study: Study) -> bool:
    return _fits(curve, study) and curve_fits(curve, study.tasks[curve.task])


def _fits(part: EvaluationRow | Curve, study: Study) -> bool:
    """Whether the part names a task, a label and modalities of the study."""
    plan = study.tasks.get(part.task)
    if plan is None or part.label not in {*plan.told, "macro"}:
        return False
    return part.modalities in {"all", "headline"} or set(part.modalities.split("+")) <= study.modalities.keys()


def _repeats(keys: Iterable[tuple[str, ...]]) -> bool:
    listed = list(keys)
    return len(set(listed)) < len(listed)
