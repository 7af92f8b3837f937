"""Accounting against published figures and other accountants."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.utils import get_noise_multiplier
from scipy import optimize, stats

from fl_shared.accounting import Event, epsilon, noise_to_signal, plan_sigma
from fl_shared.errors import ConsiliumError, ExitCode

MNIST = Event(q=256 / 60_000, sigma=1.12, steps=14_062)  # TF-Privacy tutorial: 60 epochs


def test_mnist_tutorial():
    assert epsilon([MNIST], delta=1e-5) == pytest.approx(2.5186, abs=5e-5)
    assert epsilon([MNIST], delta=1e-5, accountant="pld") == pytest.approx(2.3102, abs=5e-4)


def classical(event: Event, *, delta: float) -> float:
    """The conversion of Abadi et al. and Mironov (2017), with the orders that the tutorials use."""
    from dp_accounting import dp_event, rdp

    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
    books = rdp.RdpAccountant(orders)
    books.compose(dp_event.PoissonSampledDpEvent(event.q, dp_event.GaussianDpEvent(event.sigma)), event.steps)
    return min(r + math.log(1 / delta) / (a - 1) for r, a in zip(books._rdp, books._orders, strict=True))


@pytest.mark.parametrize(
    ("sigma", "epochs", "published"),
    [(1.12, 60, 2.92), (1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10), (0.7, 70, 8.68)],
    ids=["tutorial", "tutorial 1", "tutorial 2", "tutorial 3", "Bu et al. 2020"],
)
def test_published_figures_of_mnist_follow_by_the_classical_conversion(sigma: float, epochs: int, published: float):
    event = Event(256 / 60_000, sigma, int(epochs * 60_000 / 256))
    assert round(classical(event, delta=1e-5), 2) == published
    assert epsilon([event], delta=1e-5, accountant="pld") < epsilon([event], delta=1e-5) < published


def test_opacus_accountants_agree():
    books = RDPAccountant()
    books.history = [(1.5, 0.04, 2250)]
    assert books.get_epsilon(1e-5) == pytest.approx(7.32911117143, abs=1e-8)  # its own regression figure
    assert epsilon([Event(0.04, 1.5, 2250)], delta=1e-5) == pytest.approx(7.32911117143, rel=5e-5)
    books.history = [(MNIST.sigma, MNIST.q, MNIST.steps)]
    assert books.get_epsilon(1e-5) == pytest.approx(2.5186, abs=5e-5)
    prv = PRVAccountant()
    prv.history = [(MNIST.sigma, MNIST.q, MNIST.steps)]
    assert prv.get_epsilon(1e-5) == pytest.approx(2.3202, abs=5e-5)  # its upper end; PLD's is 2.3102


def gaussian_epsilon(mu: float, *, delta: float) -> float:
    """Balle and Wang 2018, eq. 6: delta(eps) of one Gaussian mechanism of sensitivity over noise ``mu``, inverted."""
    phi = stats.norm.cdf

    def gap(eps: float) -> float:
        return float(phi(mu / 2 - eps / mu) - math.exp(eps) * phi(-mu / 2 - eps / mu) - delta)

    return float(optimize.brentq(gap, 0.1, 20))


def test_plain_gaussian_against_the_closed_form():
    sigma, steps, delta = 4.0, 9, 1e-5
    exact = gaussian_epsilon(math.sqrt(steps) / sigma, delta=delta)
    assert epsilon([Event(1.0, sigma, steps)], delta=delta, accountant="pld") == pytest.approx(exact, rel=1e-3)
    assert exact <= epsilon([Event(1.0, sigma, steps)], delta=delta) <= exact * 1.15


def opacus_sigma(*, q: float, epsilon: float, delta: float, **length: int) -> float:
    return float(
        get_noise_multiplier(
            target_epsilon=epsilon, target_delta=delta, sample_rate=q, accountant="rdp", **length
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("patients", "true_epsilon"),
    [(199, 1.48), (172, 1.61), (30, 4.39), (85, 2.38)],
    ids=["Cleveland", "Hungary", "Switzerland", "Long Beach"],
)
def test_published_benchmark_claims_epsilon_1_but_spends_more(patients: int, true_epsilon: float):
    """Heart disease of four hospitals (UCI), batches of 4, delta 1e-3: noise for 15 epochs, but 1,500 steps taken.

    The figures are RDP's, at Opacus' rate of one over the number of batches, with the sigma of its own search.
    """
    batches = math.ceil(patients / 4)
    q, planned, taken = 1 / batches, 15 * batches, 1_500
    theirs = opacus_sigma(q=q, epsilon=1.0, delta=1e-3, epochs=15)
    assert epsilon([Event(q, theirs, planned)], delta=1e-3) == pytest.approx(1.0, abs=0.01)
    assert round(epsilon([Event(q, theirs, taken)], delta=1e-3), 2) == true_epsilon
    ours = plan_sigma(q=q, steps=taken, epsilon=1.0, delta=1e-3)  # planned for the steps that are taken
    assert ours > theirs and 0.999 < epsilon([Event(q, ours, taken)], delta=1e-3) <= 1.0


@pytest.mark.parametrize(("q", "steps", "budget"), [(0.05, 1000, 3.0), (0.32, 40, 8.0), (1.0, 10, 1.0)])
def test_planned_sigma_is_the_smallest_that_keeps_the_budget(q: float, steps: int, budget: float):
    sigma = plan_sigma(q=q, steps=steps, epsilon=budget, delta=1e-5)
    assert epsilon([Event(q, sigma, steps)], delta=1e-5) <= budget
    assert epsilon([Event(q, sigma - 2e-4, steps)], delta=1e-5) > budget
    assert sigma == round(sigma, 4)


def test_calibrated_sigmas():
    theirs = opacus_sigma(q=0.05, epsilon=3.0, delta=1e-5, steps=1000)
    assert round(theirs, 4) == 2.5195  # its search stops at epsilon 2.99...: slightly more noise
    assert 0.998 * theirs < plan_sigma(q=0.05, steps=1000, epsilon=3.0, delta=1e-5) <= theirs
    from dp_accounting import dp_event, mechanism_calibration, pld

    step = dp_event.PoissonSampledDpEvent
    tight = mechanism_calibration.calibrate_dp_mechanism(
        pld.PLDAccountant,
        lambda sigma: dp_event.SelfComposedDpEvent(step(0.05, dp_event.GaussianDpEvent(sigma)), 1000),
        3.0, 1e-5, mechanism_calibration.LowerEndpointAndGuess(0.0, 1.0), tol=1e-6,
    )  # fmt: skip
    assert round(tight, 4) == 2.3520
    assert epsilon([Event(0.05, tight, 1000)], delta=1e-5, accountant="pld") == pytest.approx(3.0, abs=1e-3)


def test_only_sound_accountants():
    for name in ("gdp", "prv", "RDP", ""):
        with pytest.raises(ConsiliumError, match="understate") as caught:
            epsilon([MNIST], delta=1e-5, accountant=name)  # type: ignore[arg-type]
        assert caught.value.code == ExitCode.PRIVACY


MIXED = (Event(0.1, 1.1, 200), Event(1.0, 6.0, 1), Event(0.02, 0.9, 500), Event(1.0, 9.0, 3), Event(0.1, 1.1, 40))


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_mixed_events_against_the_library_one_by_one(accountant: str):
    """In the order of a ledger, by the library's own calls, orders and grid."""
    from dp_accounting import dp_event, pld, rdp

    books = rdp.RdpAccountant() if accountant == "rdp" else pld.PLDAccountant()
    for event in MIXED:
        noise = dp_event.GaussianDpEvent(event.sigma)
        one = noise if event.q == 1 else dp_event.PoissonSampledDpEvent(event.q, noise)
        books.compose(dp_event.SelfComposedDpEvent(one, event.steps))
    found = epsilon(MIXED, delta=1e-5, accountant=accountant)  # type: ignore[arg-type]
    assert found == pytest.approx(books.get_epsilon(1e-5), rel=2e-3)
    parts = sum(epsilon([event], delta=1e-5, accountant=accountant) for event in MIXED)  # type: ignore[arg-type]
    assert max(epsilon([event], delta=1e-5) for event in MIXED) < found < 0.7 * parts  # no sum of epsilons


def test_mixed_gaussians_against_the_closed_form():
    """Counts without sampling add up as one Gaussian: mu^2 is the sum of steps / sigma^2 (Dong et al. 2022)."""
    events = [Event(1.0, 6.0, 1), Event(1.0, 9.0, 3), Event(1.0, 2.5, 2)]
    mu = math.sqrt(sum(event.steps / event.sigma**2 for event in events))
    exact = gaussian_epsilon(mu, delta=1e-5)
    assert epsilon(events, delta=1e-5, accountant="pld") == pytest.approx(exact, rel=1e-3)
    assert exact <= epsilon(events, delta=1e-5) <= exact * 1.15


def test_a_vector_of_counts_costs_little_beside_training():
    """One Gaussian release (statistics, an intercept) in the ledger of a training."""
    training = Event(0.05, 2.9, 1000)
    alone, noise = epsilon([training], delta=1e-5), 30.0
    assert 2.4 < alone < 2.7
    assert 0 < epsilon([training, Event(1.0, noise, 1)], delta=1e-5) - alone < 0.05


def test_composition_merges_events_and_does_not_add_epsilons():
    one = Event(0.1, 1.0, 20)
    other = Event(0.1, 2.0, 20)
    together = epsilon([one, other, one], delta=1e-5)
    assert together == epsilon([Event(0.1, 1.0, 40), other], delta=1e-5)
    assert together < 2 * epsilon([one], delta=1e-5) + epsilon([other], delta=1e-5)


def test_edges():
    assert epsilon([], delta=1e-5) == 0
    assert epsilon([Event(0.1, 0.0, 1)], delta=1e-5) == math.inf
    for wrong in (Event(0, 1, 1), Event(1.1, 1, 1), Event(0.5, -1, 1), Event(0.5, math.nan, 1)):
        with pytest.raises(ConsiliumError):
            epsilon([wrong], delta=1e-5)
    with pytest.raises(ConsiliumError):
        plan_sigma(q=0, steps=1, epsilon=1, delta=1e-5)
    assert noise_to_signal(sigma=2, batch=50, parameters=10_000) == 4


def test_import_loads_neither_torch_nor_scipy():
    code = "import sys, fl_shared.accounting; assert not {'torch', 'scipy', 'dp_accounting'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
