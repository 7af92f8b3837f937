"""What a series of noised sums costs one patient: epsilon of the events, sigma for a budget.

An event is ``steps`` Gaussian mechanisms on Poisson-sampled patients, adjacency add/remove. Epsilon always comes from
the composed events, never from adding epsilons. `dp_accounting` is imported on first use (it loads scipy).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal, NamedTuple, get_args

from fl_shared.errors import ConsiliumError, ExitCode

Accountant = Literal["rdp", "pld"]
# dp_accounting's default orders without those below 2: there its series converges slowly or not at all, and they only
# matter beyond epsilon 30, where the bound stays valid but grows loose.
ORDERS = (*(x / 10 for x in range(20, 110)), *range(11, 64), 128, 256, 512, 1024)
SIGMA_DIGITS = 4  # planned sigmas are rounded up to this, so that every machine plans the same number


class Event(NamedTuple):
    """``steps`` releases of a sum of clipped gradients of patients drawn with probability ``q``.

    ``sigma`` is the noise multiplier: the standard deviation of the noise over the clip norm.
    """

    q: float
    sigma: float
    steps: int


def epsilon(events: Iterable[Event], *, delta: float, accountant: Accountant = "rdp") -> float:
    """Epsilon of the composition of ``events`` at ``delta``.

    ``rdp`` (the gate: fast, an upper bound) follows Mironov et al. 2019 with the conversion of Balle et al. 2020;
    ``pld`` (for reports: tighter) discretises the privacy loss distribution (Doroshenko et al. 2022).

    Raises:
        ConsiliumError: an event outside 0 < q <= 1, sigma >= 0, steps >= 0; another accountant.
    """
    if accountant not in get_args(Accountant):
        problem = f"no accountant '{accountant}': 'gdp' and other approximations understate what was spent"
        raise ConsiliumError(f"{problem}. Use 'rdp' or 'pld'.", code=ExitCode.PRIVACY)
    total: Counter[tuple[float, float]] = Counter()
    for q, sigma, steps in events:
        if not (0 < q <= 1 and 0 <= sigma < math.inf and steps >= 0):
            raise ConsiliumError(f"no such event: q={q}, sigma={sigma}, steps={steps}", code=ExitCode.PRIVACY)
        total[q, sigma] += steps
    merged = tuple(sorted(Event(q, sigma, steps) for (q, sigma), steps in total.items() if steps))
    if any(event.sigma == 0 for event in merged):
        return math.inf
    return _epsilon(merged, delta, accountant) if merged else 0.0


@lru_cache(maxsize=1024)
def _epsilon(events: tuple[Event, ...], delta: float, accountant: Accountant) -> float:
    books = _fresh(accountant)
    for event in events:
        books.compose(_as_dp_event(event), event.steps)
    return float(books.get_epsilon(delta))


def _fresh(accountant: Accountant) -> Any:
    from dp_accounting import pld, rdp

    return rdp.RdpAccountant(ORDERS) if accountant == "rdp" else pld.PLDAccountant()


def _as_dp_event(event: Event) -> Any:
    from dp_accounting import dp_event

    return dp_event.PoissonSampledDpEvent(event.q, dp_event.GaussianDpEvent(event.sigma))


def plan_sigma(*, q: float, steps: int, epsilon: float, delta: float, others: Iterable[Event] = ()) -> float:
    """The smallest noise multiplier (rounded up) whose ``steps`` steps at rate ``q`` stay within ``epsilon`` (RDP).

    ``others`` are events that share the budget.

    Raises:
        ConsiliumError: the rate, steps or budget is not positive, or no sigma reaches the budget.
    """
    if not (0 < q <= 1 and steps > 0 and epsilon > 0 and 0 < delta < 1):
        raise ConsiliumError(
            f"no plan for q={q}, steps={steps}, epsilon={epsilon}, delta={delta}", code=ExitCode.PRIVACY
        )
    from dp_accounting import dp_event, mechanism_calibration

    shared = tuple(others)
    try:
        exact = mechanism_calibration.calibrate_dp_mechanism(
            lambda: _fresh("rdp"),
            lambda sigma: dp_event.ComposedDpEvent(
                [dp_event.SelfComposedDpEvent(_as_dp_event(e), e.steps) for e in (Event(q, sigma, steps), *shared)]
            ),
            epsilon,
            delta,
            mechanism_calibration.LowerEndpointAndGuess(0.0, 1.0),
            tol=10.0 ** -(SIGMA_DIGITS + 1),
        )
    except mechanism_calibration.NoBracketIntervalFoundError as error:
        raise ConsiliumError(f"no sigma reaches epsilon {epsilon} at delta {delta}", code=ExitCode.PRIVACY) from error
    return float(math.ceil(exact * 10**SIGMA_DIGITS) / 10**SIGMA_DIGITS)


def noise_to_signal(*, sigma: float, batch: float, parameters: int) -> float:
    """Length of a step's noise over the longest possible signal: sigma sqrt(d) / (q N).

    Args:
        sigma: noise multiplier.
        batch: expected patients a step (q N).
        parameters: number d of trainable parameters that the noise covers.
    """
    return sigma * math.sqrt(parameters) / batch


def accountant_version() -> str:
    """Name and version of the accountant behind the gate, for the ledger."""
    return f"dp-accounting {version('dp-accounting')} rdp"
