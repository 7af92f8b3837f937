"""The lower bound of epsilon, against guesses whose true epsilon is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from fl_client.auditing.one_run import epsilon_lower_bound, guesses, probability


def test_without_delta_it_is_the_binomial_tail() -> None:
    right = probability(epsilon=np.log(3), delta=0.0, canaries=100, guessed=20, right=18)
    assert right == pytest.approx(sum(binom.pmf(k, 20, 0.75) for k in (18, 19, 20)), rel=1e-12)


def test_delta_adds_the_papers_correction() -> None:
    within, v, r, m, delta = 0.75, 15, 20, 100, 1e-3
    steps = [sum(binom.pmf(k, r, within) for k in range(v - i, v)) / i for i in range(1, v + 1)]
    expected = binom.sf(v - 1, r, within) + 2 * m * delta * max(steps)
    assert probability(epsilon=np.log(3), delta=delta, canaries=m, guessed=r, right=v) == pytest.approx(expected)


@pytest.mark.parametrize("true", [0.5, 2.0])
def test_randomised_response_is_bounded_from_below_and_not_beyond(true: float) -> None:
    """Each answer is right with probability e^eps / (1 + e^eps): exactly eps-private, and no better attack exists."""
    rng = np.random.default_rng(0)
    rights = rng.binomial(400, 1 / (1 + np.exp(-true)), size=300)
    found = np.array([epsilon_lower_bound(delta=0.0, canaries=400, guessed=400, right=int(v)) for v in rights])
    assert np.mean(found > true) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert np.median(found) > 0.55 * true


def test_chance_proves_nothing_and_certainty_much() -> None:
    assert epsilon_lower_bound(delta=1e-5, canaries=100, guessed=20, right=10) == 0.0
    assert epsilon_lower_bound(delta=0.0, canaries=100, guessed=100, right=100) == pytest.approx(
        -np.log(0.05 ** (-1 / 100) - 1), rel=1e-6
    )


def test_guesses_take_the_extremes() -> None:
    member = np.arange(40) >= 20
    assert guesses(np.arange(40.0), member) == (8, 8)
    assert guesses(-np.arange(40.0), member) == (8, 0)
