"""What may be told of a judged model: every part of `Findings` against the approved study.

A part that the study does not ask for (`fl_shared.asked`) is refused, and so is one that tells a cell of fewer than 10
patients: by itself, or by subtraction from what is told beside it (`fl_client.egress_cells`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fl_client.egress_cells import (
    check_attention,
    check_counts,
    check_described,
    check_flow,
    check_sets,
    check_subgroups,
)
from fl_client.egress_refused import EgressRefusedError
from fl_shared import asked
from fl_shared.counts import primary
from fl_shared.judged import AGAINST
from fl_shared.metrics.disclosure import MANY_LEFT_OUT, MIN_CELL, UNDEFINED
from fl_shared.metrics.noised import NOISED_NOTE, WITHHELD, is_noised
from fl_shared.metrics.table import METRICS
from fl_shared.results import Curve, Difference, EvaluationRow, Findings, Importance
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.wire import Code

MODELS = frozenset({"federated", "personal", "recalibrated"})
_MEAN_NOTE = re.compile(r"mean of \d{1,3} of \d{1,3} labels(?:, without (.+))?")
_NOTES = tuple(
    re.compile(pattern)
    for pattern in (
        r"suppressed: fewer than \d{1,4} patients",
        r"suppressed: fewer than \d{1,2} patients in a group, with, or without, the event",
        r"not defined: scores are not finite",
        UNDEFINED,
        r"(not defined|events withheld): fewer than \d{1,2} patients with(, or without,)? the event",
        r"events withheld: they would tell a cell of fewer than \d{1,2} patients",
        r"suppressed: it would tell a cell of fewer than \d{1,4} patients",
        r"n as told of other inputs: fewer than \d{1,4} patients apart",
        rf"\d{{1,3}}% {MANY_LEFT_OUT}",
        NOISED_NOTE,
        WITHHELD,
    )
)


def check_parts(found: Findings, *, study: Study, site: Site, min_patients: int) -> None:
    """Whether results may leave: of this site, of what the study asks, of no cohort below ``min_patients``, each number
    once and rounded.

    Raises:
        EgressRefusedError: they may not; `Code.TOO_FEW` for a small cohort or cell.
    """
    _check_speaker(found, study, site)
    for row in found.evaluation:
        _check_row(row, study, min_patients)
        _check_group(row, site)
    keys = [*asked.keys(found)]
    if len(set(keys)) < len(keys):  # two values of one thing would tell of the patients between them
        raise EgressRefusedError("results of one thing twice")
    check_counts(found.evaluation, study)
    check_subgroups(found.evaluation, study)
    check_sets(found.evaluation, study, min_patients)
    _check_noised(found, study)
    _check_curves(found, study)
    for part in asked.compared(found):
        _check_beside(part, found.evaluation, study, min_patients)
    check_attention(found.attention, found.evaluation, study)
    check_described(found.described, study, site)
    check_flow(found.flow, found.evaluation, study)


def _check_speaker(found: Findings, study: Study, site: Site) -> None:
    """Site, role and the names of models."""
    if asked.sites(found) - {site.name}:
        raise EgressRefusedError("results of another site")
    compared = {AGAINST} if study.judged is not None and study.judged.against is not None else set()
    if asked.roles(found) - {study.sites[site.name].role} or asked.models(found) - MODELS - compared:
        raise EgressRefusedError("a row with a wrong role or model name")


def _check_noised(found: Findings, study: Study) -> None:
    """Where noise is promised, only metrics have a noised form: everything else stays."""
    epsilon = study.evaluation.epsilon
    if epsilon is None:
        return
    exact = (found.curves, *asked.compared(found), found.attention, found.described, found.flow)
    if any(exact) or any(row.subgroup for row in found.evaluation) or not is_noised(found.evaluation, epsilon=epsilon):
        raise EgressRefusedError("a result without the noise that the study promises")


def _check_row(row: EvaluationRow, study: Study, min_patients: int) -> None:
    if not asked.row_asked(row, study):
        raise EgressRefusedError("a row that the study does not ask for, or a value outside its range")
    _check_numbers(row, study, min_patients)
    if row.n is None and row.events is not None:
        raise EgressRefusedError(f"a cohort below {min_patients} patients", Code.TOO_FEW)
    if row.events is not None and row.n is not None and not MIN_CELL <= row.events <= row.n - MIN_CELL:
        raise EgressRefusedError(f"a cell below {MIN_CELL} patients", Code.TOO_FEW)
    untold = row.value is not None and row.events is None and row.label != "macro"
    if METRICS[row.metric].tells_events and untold:
        raise EgressRefusedError("a value that tells a withheld number of events", Code.TOO_FEW)


def _check_group(row: EvaluationRow, site: Site) -> None:
    """A group that the site itself defines has one of the names in its site file."""
    variable, _, group = row.subgroup.partition("=")
    if (own := site.subgroups.get(variable)) is not None and group not in own.groups:
        raise EgressRefusedError("a group that the site does not define")


def _check_numbers(part: EvaluationRow | asked.Compared, study: Study, min_patients: int) -> None:
    """Rounded numbers of enough patients, and a note from the list."""
    numbers = [number for number in (part.value, part.ci_low, part.ci_high) if number is not None]
    if not asked.rounded(part.metric, numbers):
        raise EgressRefusedError("a value that is not rounded")
    if (part.n is None and numbers) or (part.n is not None and part.n < min_patients):
        raise EgressRefusedError(f"a cohort below {min_patients} patients", Code.TOO_FEW)
    notes = part.note.split("; ") if part.note else []
    if len(set(notes)) != len(notes) or not all(_is_note(text, study, part.task) for text in notes):
        raise EgressRefusedError("a note that is not in the list")
    told_p = part.p if isinstance(part, Difference) else None
    if told_p is not None and (not numbers or told_p != round(told_p, 4)):
        raise EgressRefusedError("a p value that is not rounded, or of nothing")


def _check_curves(found: Findings, study: Study) -> None:
    """Curves stand beside a value and its number of events, and no point stands for few patients."""
    told = {
        (row.task, row.label, row.modalities, row.model): row.n or 0
        for row in found.evaluation
        if row.value is not None and row.events is not None and not row.subgroup
    }
    for curve in found.curves:
        if not asked.curve_asked(curve, study):
            raise EgressRefusedError(f"no curve of such a task: {curve.kind}, {len(curve.x)} points")
        place = curve.task, curve.label, curve.modalities, curve.model
        if place not in told:
            raise EgressRefusedError("a curve without a released value and its number of events")
        if any(point != round(point, 3) for point in (*curve.x, *curve.y)):
            raise EgressRefusedError("points of a curve that are not rounded")
        _check_points(curve, n=told[place])


def _check_points(curve: Curve, *, n: int) -> None:
    """Of the patients behind each point; those of ``risks`` are parts of the ``n`` that were judged."""
    known = [count for count in curve.counts if count is not None]
    if any(not MIN_CELL <= count <= n for count in known):
        raise EgressRefusedError(f"a point of fewer than {MIN_CELL} patients", Code.TOO_FEW)
    rest, hidden = n - sum(known), len(curve.counts) - len(known)
    if curve.kind == "risks" and (rest < 0 or (hidden and rest < MIN_CELL)):
        raise EgressRefusedError(f"a cell below {MIN_CELL} patients by subtraction", Code.TOO_FEW)


def _check_beside(part: asked.Compared, rows: Sequence[EvaluationRow], study: Study, min_patients: int) -> None:
    """A difference, or what something adds, stands beside a released value of the same metric and patients."""
    if not asked.comparison_asked(part, study):
        raise EgressRefusedError("a comparison that the study does not ask for, or a number outside its range")
    _check_numbers(part, study, min_patients)
    whole = primary(study) if isinstance(part, Importance) else "all"
    modalities = part.modalities if isinstance(part, Difference) else whole
    models = {part.model, part.against} if isinstance(part, Difference) else {part.model}
    told = any(
        row.value is not None
        and row.model in models
        and (row.task, row.label, row.modalities, row.subgroup, row.metric, row.n)
        == (part.task, part.label, modalities, "", part.metric, part.n)
        for row in rows
    )
    if part.value is not None and not told:
        raise EgressRefusedError("a comparison without a released value of the same patients")


def _is_note(text: str, study: Study, task: str) -> bool:
    """Whether a note is one of the known sentences; a mean may name labels of its task."""
    if mean := _MEAN_NOTE.fullmatch(text):
        return mean[1] is None or set(mean[1].split(", ")) <= set(study.tasks[task].told)
    return any(pattern.fullmatch(text) for pattern in _NOTES)
