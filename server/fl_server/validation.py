"""What the coordinator accepts from a site: checked before anything is aggregated or reported.

A site's weight is its declared number of patients in the study; nothing that a site says can change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

import numpy as np

from fl_shared import asked
from fl_shared.between import tells_small
from fl_shared.metrics.disclosure import MIN_CELL
from fl_shared.results import Findings
from fl_shared.study import Study
from fl_shared.wire import Arrays, Reply

COMMON = frozenset({"federated", "personal"})
MANY, FAR = 2.0, 10.0  # times the declared patients, and standard deviations of the noise, that counts may reach
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
    SMALL_CELLS = "cells-below-minimum"
    TOO_MANY = "more-patients-than-declared"
    KEY = "not-a-key"
    UNMASK = "sum-not-opened"
    LEDGER_UNTOLD = "ledger-mark-missing"
    LEDGER_BEHIND = "ledger-rolled-back"
    LEDGER_FORKED = "ledger-forked"


def validate(update: Arrays, *, base: Arrays, study: Study, site: str, rounds: int = 1) -> Reason | None:
    """Judge the arrays of one site's reply.

    Args:
        update: parameters after training, by name.
        base: the parameters that the site started from: names, shapes and dtypes must be equal.
        study: gives the site's role and the limit of an update's norm.
        site: name under which the reply came in.
        rounds: rounds of training since ``base``; the L2 norm (float64) of the difference may be that limit a round.

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
    return None if square**0.5 <= study.norm_limit * rounds else Reason.NORM


def validate_counts(
    counts: Arrays, *, schema: Mapping[str, tuple[tuple[int, ...], str]], study: Study, site: str, noise: float
) -> Reason | None:
    """Judge the counts of one training site; the last axis of each array is one histogram.

    Args:
        counts: array -> whole numbers.
        schema: names, shapes and dtypes.
        study: gives the site's role and its declared number of patients, of which it may tell no more than twice.
        site: name under which the reply came in.
        noise: standard deviation of each count; exact counts (0) are 0 or of 10 patients and more.

    Returns:
        The first reason to reject them, or None.
    """
    if site not in study.train_sites:
        return Reason.ROLE
    if schema.keys() - counts.keys():
        return Reason.MISSING_ARRAYS
    if counts.keys() - schema.keys():
        return Reason.UNKNOWN_ARRAYS
    for name, (shape, dtype) in schema.items():
        cells = counts[name]
        if cells.shape != shape:
            return Reason.SHAPE
        if str(cells.dtype) != dtype:
            return Reason.DTYPE
        numbers = cells.astype(np.float64)
        if not noise and ((numbers != 0) & (numbers < MIN_CELL)).any():
            return Reason.SMALL_CELLS
        most = MANY * study.sites[site].patients + FAR * noise * shape[-1] ** 0.5
        if max(np.abs(numbers).max(), np.abs(numbers.sum(axis=-1)).max()) > most:
            return Reason.TOO_MANY
    return None


def validate_evaluation(
    reply: Reply, arrays: Arrays, *, study: Study, site: str, models: frozenset[str] = COMMON
) -> Reason | None:
    """Judge an evaluation reply: a site speaks for itself alone, of the study's tasks, and never of too few patients.

    ``models`` are the names under which results may be told.

    Returns:
        The first reason to reject it, or None.
    """
    if arrays:
        return Reason.UNEXPECTED_ARRAYS
    if asked.models(reply) - models:
        return Reason.UNKNOWN_ROWS
    if asked.sites(reply) - {site} or asked.roles(reply) - {study.sites[site].role}:
        return Reason.OTHER_SITE
    if not _asked(reply, study):
        return Reason.UNKNOWN_ROWS
    keys = [*asked.keys(reply)]
    if len(set(keys)) < len(keys):
        return Reason.REPEATED_ROWS
    return _few(reply, study)


def _asked(found: Findings, study: Study) -> bool:
    """Whether the study asks for every part; with noise, for those alone that have a noised form."""
    exact = (found.curves, *asked.compared(found), found.attention, found.described, found.flow)
    if study.evaluation.epsilon is not None and any(exact):
        return False
    return (
        all(asked.row_asked(row, study) for row in found.evaluation)
        and all(asked.curve_asked(curve, study) for curve in found.curves)
        and all(asked.comparison_asked(part, study) for part in asked.compared(found))
        and all(asked.attention_asked(part, study) for part in found.attention)
        and all(asked.described_asked(part, study) for part in found.described)
        and all(asked.flow_asked(part, study) for part in found.flow)
        and all(len(text) <= MAX_TEXT and text.isprintable() for text in _texts(found))
    )


def _texts(found: Findings) -> Iterator[str]:
    """Free text of every part: the rest is names of the study, or of a fixed list."""
    yield from (text for part in asked.valued(found) for text in (part.note, part.model))
    yield from (part.note for part in found.described)


def _few(found: Findings, study: Study) -> Reason | None:
    """Cohorts and cells that the site's own gate should have kept."""
    judged = asked.valued(found)
    if any(part.value is not None and (part.n is None or part.n < study.evaluation.min_patients) for part in judged):
        return Reason.TOO_FEW
    counts = [count for curve in found.curves for count in curve.counts]
    counts += [count for stage in found.flow for count in (stage.samples, stage.patients)]
    counts += [row.n for row in found.evaluation if row.subgroup and row.value is not None]
    if any(count is not None and count < MIN_CELL for count in counts):
        return Reason.SMALL_CELLS
    plan = study.evaluation
    exact, least = plan.epsilon is None, max(MIN_CELL, plan.min_patients)
    return Reason.SMALL_CELLS if exact and tells_small(found.evaluation, study, least=least) else None
