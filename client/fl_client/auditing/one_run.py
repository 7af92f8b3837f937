"""What correct guesses about canaries prove: a lower bound of epsilon from one training run.

Steinke, Nasr, Jagielski 2023, Privacy auditing with one (1) training run, theorem 5.2: if each of m canaries takes
part with probability 1/2 and the training is (epsilon, delta)-private, then among r guesses at least v are right with
probability at most P[B >= v] + 2 m delta max_i P[v > B >= v - i] / i, B ~ Binomial(r, e^epsilon / (1 + e^epsilon)).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

CONFIDENCE = 0.95
GUESSED = 0.2  # share of the canaries that is guessed, fixed beforehand: half of them in, half of them out
LARGEST = 50.0  # no bound beyond is looked for


def guesses(scores: NDArray[np.float64], member: NDArray[np.bool_]) -> tuple[int, int]:
    """Guess the highest scores to have taken part and the lowest not.

    Args:
        scores: (m,), higher for a canary that seems learned.
        member: (m,) whether it took part.

    Returns:
        Number of guesses, and of right ones.
    """
    each = max(1, int(len(scores) * GUESSED / 2))
    order = np.argsort(scores, kind="stable")
    right = np.count_nonzero(member[order[-each:]]) + np.count_nonzero(~member[order[:each]])
    return 2 * each, int(right)


def probability(*, epsilon: float, delta: float, canaries: int, guessed: int, right: int) -> float:
    """Most probable that (epsilon, delta)-private training allows so many right guesses."""
    within = 1 / (1 + np.exp(-epsilon))
    beta = binom.sf(right - 1, guessed, within)
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guessed, within))
    alpha = np.max(below / np.arange(1, right + 1), initial=0.0)
    return float(min(1.0, beta + 2 * canaries * delta * alpha))


def epsilon_lower_bound(*, delta: float, canaries: int, guessed: int, right: int) -> float:
    """The largest epsilon that these guesses refute with 95 % confidence; 0 when they refute none."""

    def refuted(epsilon: float) -> bool:
        found = probability(epsilon=epsilon, delta=delta, canaries=canaries, guessed=guessed, right=right)
        return found <= 1 - CONFIDENCE

    low, high = 0.0, LARGEST
    if not refuted(low):
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
