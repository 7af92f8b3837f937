"""What part of the fusion's attention each modality gets, over the judged samples.

All modalities are told or none: where fewer than 10 patients have one, or lack it, its mean share would tell of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fl_client.training.judge import Judge, Told
from fl_shared.asked import SHARE_DIGITS
from fl_shared.counts import primary
from fl_shared.metrics.bootstrap import CHUNK_CELLS, interval, patient_weights
from fl_shared.metrics.disclosure import MIN_CELL
from fl_shared.results import Attention, EvaluationRow
from fl_shared.subgroups import headline_modalities

SUPPRESSED = f"suppressed: fewer than {MIN_CELL} patients"
Floats = NDArray[np.float64]


def attention(judge: Judge, said: Told, rows: Iterable[EvaluationRow], *, model: str) -> list[Attention]:
    """The mean share of each modality with its interval over resampled patients; nothing of a fusion without shares.

    Args:
        judge: study, site and cohort.
        said: what the model says of the headline's inputs, with their shares.
        rows: what is told of it, of all tasks: as many samples are named as the most of these tell.
        model: its name in the results.
    """
    study = judge.study
    names = [m for m in said.shares if m in headline_modalities(study.modalities)]
    if not names or not np.isfinite([said.shares[m] for m in names]).all():
        return []
    n = max((row.n for row in rows if row.n and (row.modalities, row.subgroup) == (primary(study), "")), default=None)
    place = {"site": judge.site.name, "role": study.sites[judge.site.name].role, "model": model, "n": n}
    nothing: dict[str, object] = {"value": None, "ci_low": None, "ci_high": None, "note": SUPPRESSED}
    told = [nothing] * len(names)
    if n is not None and not _tells_few(judge, said, names):
        told = [*map(_numbers, *means(judge, said, np.stack([said.shares[m] for m in names], axis=1)))]
    return [Attention.model_validate(place | {"modality": m} | each) for m, each in zip(names, told, strict=True)]


def means(judge: Judge, said: Told, shares: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Means (M,) of shares (n, M) over the samples, and their resamples (M, B)."""
    _, patient = np.unique(judge.cohort.patient[said.rows], return_inverse=True)
    cohort, plan = int(patient.max()) + 1, judge.study.evaluation
    sums = np.stack([np.bincount(patient, weights=share, minlength=cohort) for share in shares.T.astype(np.float64)])
    samples = np.bincount(patient, minlength=cohort)
    chunk = max(1, CHUNK_CELLS // cohort)
    weights = patient_weights(cohort, resamples=plan.bootstrap, seed=judge.study.seed, rows=chunk)
    draws = [(sums @ w.T) / (w @ samples) for w in weights]
    return sums.sum(1) / samples.sum(), np.concatenate(draws, axis=1)


def _tells_few(judge: Judge, said: Told, names: Iterable[str]) -> bool:
    """Whether the samples are of few patients, or few of them have a modality or lack it."""
    patient = judge.cohort.patient[said.rows]
    if len(np.unique(patient)) < max(judge.fewest, MIN_CELL):
        return True
    sides = (judge.cohort.present[m][said.rows] == side for m in names for side in (True, False))
    return any(0 < len(np.unique(patient[side])) < MIN_CELL for side in sides)


def _numbers(value: float, draws: Floats) -> dict[str, object]:
    within = interval(draws)
    assert within.low is not None and within.high is not None  # of finite shares
    numbers = {"value": value, "ci_low": within.low, "ci_high": within.high}
    return {name: min(1.0, max(0.0, round(float(number), SHARE_DIGITS))) for name, number in numbers.items()}
