"""What a study asks of one site, as events of the accountant: each part's noise, planned before anything runs.

A noised count or histogram is one Gaussian release (q = 1) whose sigma is the noise over its L2 sensitivity.

Of distributed noise (`fl_shared.together`) sigma is what the mean of the sites holds at least for a unit of this site.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fl_shared.accounting import Event, plan_sigma
from fl_shared.study import Study


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Events of one study at one site; None for what the study does not do, or does without noise.

    Attributes:
        training: all rounds together.
        statistics: the counts before training.
        recalibration: what intercepts are refitted from.
        evaluation: of one judged model; of the judged patients, outside ``privacy.epsilon``.
    """

    training: Event | None = None
    statistics: Event | None = None
    recalibration: Event | None = None
    evaluation: Event | None = None


def budget(study: Study, site: str, *, delta: float) -> Budget:
    """The parts of a study at a site; ``delta`` is the stricter of the study's and the site's.

    Raises:
        ConsiliumError: no noise reaches the study's epsilon (exit code 16).
    """
    judged, models = study.evaluation.epsilon, 2 if study.evaluation.recalibrate else 1
    evaluation = Event(1.0, _planned(1.0, models, judged, delta, ()), 1) if judged is not None else None
    if study.privacy.epsilon is None or study.sites[site].role != "train":
        return Budget(evaluation=evaluation)
    parts = {
        "statistics": study.statistics.epsilon if study.statistics else None,
        "recalibration": study.evaluation.recalibrate_epsilon,
    }
    single = {name: _once(epsilon, delta) for name, epsilon in parts.items() if epsilon is not None}
    q = study.sampling_rate(site) if study.privacy.mode == "patient" else 1.0
    steps = study.training.rounds * (study.training.steps if study.privacy.mode == "patient" else 1)
    sigma = _planned(q, steps, study.privacy.epsilon, delta, tuple(single.values()))
    return Budget(training=Event(q, sigma, steps), evaluation=evaluation, **single)


def reach(study: Study, site: str) -> float:
    """By how many clips the mean of the sites moves when one unit of this site leaves, but for one factor that all
    share: the sum of a site that draws few of its patients counts for all of them."""
    return 1 / study.sampling_rate(site) if study.privacy.mode == "patient" else float(study.sites[site].patients)


def _once(epsilon: float, delta: float) -> Event:
    return Event(1.0, _planned(1.0, 1, epsilon, delta, ()), 1)


@lru_cache(maxsize=64)
def _planned(q: float, steps: int, epsilon: float, delta: float, others: tuple[Event, ...]) -> float:
    return plan_sigma(q=q, steps=steps, epsilon=epsilon, delta=delta, others=others)
