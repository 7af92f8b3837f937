"""Brier score of a predicted risk course, averaged over the days up to the horizon (Graf, Stat Med 1999).

By a day the error of a patient is that of the risk told for it, against whether the event had happened. Who was
censored before is made up for by the others: an event at T, of any cause, stands for 1 / G(T) patients, somebody still
free of events on the day for 1 / G(day), G being the Kaplan-Meier estimate of the censoring just before, in the same
resample. Oracle in the tests: scikit-survival.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.bootstrap import Metrics
from fl_shared.metrics.calibration import by_patient
from fl_shared.metrics.follow_up import FollowUp
from fl_shared.metrics.survival import MINE

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PARTS = 20  # equal parts of the horizon, or more: each bin of the study is divided alike


@dataclass(frozen=True, kw_only=True)
class IntegratedBrier:
    """The mean over the days by the trapezoidal rule; on day 0 nobody has an event, the error is 0.

    samples: (K,) of each patient. ended: (E,) patients of the events, errors: (E,) their integrals from then on.
    free: (K, D) squared risks of who is free of events on each day, a patient. follow_up: asked at the events' times,
    then the days. spacing: (D,) of the rule, their sum is 1 less half a step.
    """

    samples: Floats
    ended: Integers
    errors: Floats
    free: Floats
    follow_up: FollowUp
    spacing: Floats

    @classmethod
    def of(
        cls,
        risks: Floats,
        time: Floats,
        cause: NDArray[np.integer],
        patients: Integers,
        *,
        days: Sequence[float],
        cohort: int,
    ) -> Self:
        """For one cause.

        Args:
            risks: (n, D) predicted by each day.
            time: (n,) followed.
            cause: (n,) that ended it: 0 none, `MINE`, or any other number.
            patients: (n,) numbers below ``cohort``.
            days: (D,) rising, from above 0 to the horizon.
            cohort: patients.
        """
        day = np.asarray(days, dtype=np.float64)
        steps = np.diff(np.concatenate([[0.0], day]))
        spacing = (steps + np.append(steps[1:], 0.0)) / 2 / day[-1]
        happened = (cause > 0) & (time <= day[-1])
        error = np.where(cause[:, None] == MINE, 1.0 - risks, risks) ** 2 * (time[:, None] <= day)
        free = (time[:, None] > day) | ((time[:, None] == day) & (cause[:, None] == 0))
        return cls(
            samples=by_patient(patients, np.ones_like(time), cohort=cohort)[:, 0],
            ended=patients[happened],
            errors=error[happened] @ spacing,
            free=by_patient(patients, *(np.square(risks) * free).T, cohort=cohort),
            follow_up=FollowUp.of(time, cause > 0, patients, asked=np.concatenate([time[happened], day])),
            spacing=spacing,
        )

    def metrics(self, weights: Integers) -> Metrics:
        """The score (b,) under ``weights`` (b, K); NaN where nobody's follow-up reaches the horizon."""
        share = self.follow_up.share(weights)
        with np.errstate(divide="ignore"):
            inverse = 1.0 / share
        early, late = inverse[:, : len(self.ended)], inverse[:, len(self.ended) :]
        w, once = weights.astype(np.float64), weights[:, self.ended]
        with np.errstate(invalid="ignore"):
            of_ended = np.where(once > 0, once * early, 0.0) @ self.errors
            of_free = (w @ self.free * late) @ self.spacing  # 0 / 0 where all were censored before
        count = w @ self.samples
        total = (of_ended + of_free) / np.where(count > 0, count, np.nan)
        return {"ibs": np.where(np.isfinite(total), total, np.nan)}
