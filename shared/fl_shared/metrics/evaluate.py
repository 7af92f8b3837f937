"""From predictions to the rows and curves that may leave a site (rules: `fl_shared.metrics.disclosure`).

Values are rounded to 4 decimals (curves 3): finer than any interval, coarser than what would give counts away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics import bootstrap as resampling
from fl_shared.metrics.calibration import brier, calibration_bins
from fl_shared.metrics.disclosure import MIN_CELL, Cell
from fl_shared.metrics.discrimination import PR_GRID, ROC_GRID, auroc, average_precision, pr_curve, roc_curve
from fl_shared.results import Curve, EvaluationRow

Floats = NDArray[np.float64]

_METRICS = {"auroc": auroc, "auprc": average_precision, "brier": brier}


def evaluate_predictions(
    *,
    site: str,
    role: Literal["train", "external"],
    task: str,
    labels: Sequence[str],
    headline: Sequence[str],
    modalities: str,
    model: str,
    scores: NDArray[np.floating],
    targets: NDArray[np.floating],
    mask: NDArray[np.bool_],
    patients: NDArray[np.integer],
    bootstrap: int,
    seed: int,
    min_patients: int,
) -> tuple[list[EvaluationRow], list[Curve]]:
    """Judge one task at one site.

    Args:
        site: name of the site.
        role: its role in the study.
        task: name of the task.
        labels: names of the C labels; ``[""]`` for a binary task.
        headline: labels of the macro mean (all when empty); no macro row for a binary task.
        modalities: which inputs the model was given: ``all``, ``headline`` or names joined by ``+``.
        model: what was judged, as shown in the report.
        scores: (N, C) predicted probabilities.
        targets: (N, C) 0 or 1.
        mask: (N, C) true where the target is known.
        patients: (N,) patient of each sample, as arbitrary integers.
        bootstrap: number of resamples for the 95 % intervals.
        seed: of the resamples; the same for all systems that are to be compared.
        min_patients: a smaller cohort releases no number.

    Returns:
        Rows (three metrics a label, then three of the macro mean) and the curves that the rules above allow.

    Raises:
        ValueError: the shapes do not fit.
    """
    shape = (len(patients), len(labels))
    if not scores.shape == targets.shape == mask.shape == shape:
        raise ValueError(f"scores {scores.shape}, targets {targets.shape}, mask {mask.shape}: expected {shape}")
    risks, outcomes = scores.astype(np.float64), targets.astype(np.float64)
    cells = [
        Cell(label=label, scores=p[known], targets=y[known], patients=patients[known], min_patients=min_patients)
        for label, p, y, known in zip(labels, risks.T, outcomes.T, mask.T, strict=True)
    ]
    draws = _draws(cells, risks, outcomes, mask, patients, resamples=bootstrap, seed=seed)
    names: dict[str, Any] = {"site": site, "task": task, "modalities": modalities}
    numbers = [_numbers(cell, metric, draws[metric][:, c]) for c, cell in enumerate(cells) for metric in _METRICS]
    if len(labels) > 1:
        head = [c for c, label in enumerate(labels) if label in headline or not headline]
        counts = _macro_counts(mask[:, head], patients, min_patients=min_patients)
        parts = [cells[c] for c in head]
        numbers += [_macro(parts, metric, draws[metric][:, head]) | counts for metric in _METRICS]
    rows = [EvaluationRow(**names, role=role, model=model, **number) for number in numbers]
    return rows, [Curve(**names, label=cell.label, **curve) for cell in cells for curve in _curves(cell)]


def _draws(
    cells: Sequence[Cell],
    scores: Floats,
    targets: Floats,
    mask: NDArray[np.bool_],
    patients: NDArray[np.integer],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Floats]:
    """Resampled metrics, each (B, C); NaN for the labels that release no value."""
    given = [c for c, cell in enumerate(cells) if not cell.withheld]
    draws = {metric: np.full((resamples, len(cells)), np.nan) for metric in _METRICS}
    if given:
        found = resampling.bootstrap(
            scores[:, given], targets[:, given], mask[:, given], patients, resamples=resamples, seed=seed
        )
        for metric, values in found.items():
            draws[metric][:, given] = values
    return draws


def _numbers(cell: Cell, metric: str, draws: Floats) -> dict[str, Any]:
    """The numbers of a row of one label."""
    row = {"label": cell.label, "metric": metric, "n": cell.n, "events": cell.events}
    if cell.withheld:
        return row | {"value": None, "ci_low": None, "ci_high": None, "note": cell.withheld}
    return row | _estimate(_METRICS[metric](cell.scores, cell.targets), draws, notes=[cell.note])


def _macro(cells: Sequence[Cell], metric: str, draws: Floats) -> dict[str, Any]:
    """The mean over the headline labels that release a value; ``draws`` (B, C) are theirs."""
    row = {"label": "macro", "metric": metric}
    given = [c for c, cell in enumerate(cells) if not cell.withheld]
    if not given:
        return row | {"value": None, "ci_low": None, "ci_high": None, "note": cells[0].withheld}
    without = [cell.label for cell in cells if cell.withheld]
    note = f"mean of {len(given)} of {len(cells)} labels, without {', '.join(without)}" if without else ""
    value = float(np.mean([_METRICS[metric](cells[c].scores, cells[c].targets) for c in given]))
    return row | _estimate(value, draws[:, given].mean(axis=1), notes=[note])


def _macro_counts(
    mask: NDArray[np.bool_], patients: NDArray[np.integer], *, min_patients: int
) -> dict[str, int | None]:
    """Samples with any headline label known; events have no meaning for a mean."""
    judged = np.flatnonzero(mask.any(axis=1))
    few = len(np.unique(patients[judged])) < min_patients
    return {"n": None if few else len(judged), "events": None}


def _estimate(value: float, draws: Floats, *, notes: Sequence[str]) -> dict[str, Any]:
    """A value with its interval, rounded, and every note that belongs to it."""
    found = resampling.interval(draws)
    many = found.left_out > resampling.MAX_LEFT_OUT
    left_out = f"{found.left_out:.0%} of resamples had a single class and were left out" if many else ""
    return {
        "value": round(value, 4),
        "ci_low": None if found.low is None else round(found.low, 4),
        "ci_high": None if found.high is None else round(found.high, 4),
        "note": "; ".join(note for note in (*notes, left_out) if note),
    }


def _curves(cell: Cell) -> list[dict[str, Any]]:
    """The curves of a label, none when its cells are small; a calibration bin holds 10 patients or more."""
    if not cell.shows_curves:
        return []
    points = {
        "roc": (ROC_GRID, roc_curve(cell.scores, cell.targets)),
        "pr": (PR_GRID, pr_curve(cell.scores, cell.targets)),
        "calibration": calibration_bins(
            cell.scores, cell.targets, cell.patients, min_patients=max(MIN_CELL, cell.min_patients)
        ),
    }
    return [
        {"kind": kind, "x": tuple(np.round(x, 3).tolist()), "y": tuple(np.round(y, 3).tolist())}
        for kind, (x, y) in points.items()
    ]
