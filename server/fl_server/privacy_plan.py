"""What a privacy budget means before anything runs: sigma for an epsilon, epsilon for a sigma, noise against signal.

Sigma is planned by RDP, as the sites' ledgers will count it; PLD, tighter, is told beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fl_shared.accounting import Event, epsilon, noise_to_signal, plan_sigma
from fl_shared.budget import Budget, budget, reach
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.fitting_secure import FEWEST, threshold
from fl_shared.study import Study
from fl_shared.together import own_sigmas

ENOUGH = 2000  # patients a site: below, local noise at epsilon 8 was seen to cost more than .02 AUROC (frozen encoders)
SHOWN = 20  # most rounds in the table
GENERAL = (
    "Freeze encoders from public data and distribute the noise over the sites (privacy.aggregation = 'secure'): in a "
    "simulation of 150 to 1,300 patients a site at epsilon 8 they lost .05 AUROC to local noise, under .01 to that."
)
PARTS = ("statistics", "recalibration", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Parameters that the noise covers in the largest phase, and how many of them are not of encoders."""

    noised: int
    without_encoders: int


@dataclass(frozen=True, kw_only=True)
class SitePlanned:
    """One training site.

    Attributes:
        rounds: round -> epsilon by then (RDP), the statistics before the first round included.
        epsilon: of training, statistics and recalibration together (RDP).
        pld: the same by PLD.
        ratio: length of a step's noise over the longest possible signal of its patients.
        in_all: the same over all steps: signals may add up, noises do by their squares.
    """

    site: str
    patients: int
    q: float
    sigma: float
    rounds: Mapping[int, float]
    epsilon: float
    pld: float
    ratio: float | None
    in_all: float | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study's budget. ``parts`` are the releases besides training: name -> (sigma, epsilon of one by itself)."""

    study: str
    unit: str
    noise: str
    delta: float
    asked: float | None
    size: Size | None
    sites: tuple[SitePlanned, ...]
    parts: Mapping[str, tuple[float, float]]
    pooled: Mapping[str, float]  # 'local', 'distributed': step's noise over signal in the mean of all sites
    words: tuple[str, ...]


def bare(
    *, patients: int, batch: int, steps: int, rounds: int, delta: float, target: float | None, sigma: float | None
) -> Plan:
    """The plan of one site by numbers alone.

    Raises:
        ConsiliumError: no sigma reaches the target (exit code 16).
    """
    q, total = min(1.0, batch / patients), steps * rounds
    found = sigma if sigma is not None else plan_sigma(q=q, steps=total, epsilon=target or 0.0, delta=delta)
    site = _site("a site", patients, Budget(training=Event(q, found, total)), rounds=rounds, delta=delta, size=None)
    return Plan(
        study="", unit="patient", noise="local", delta=delta, asked=target, size=None, sites=(site,), parts={},
        pooled={}, words=(*_little([site]), *([GENERAL] if patients < ENOUGH else [])),
    )  # fmt: skip


def planned(study: Study, *, size: Size | None, sigma: float | None = None) -> Plan:
    """The plan of a study.

    Args:
        study: with a privacy mode.
        size: of its model.
        sigma: of training, instead of the planned one.

    Raises:
        ConsiliumError: it has no privacy, or no sigma reaches its epsilon (exit code 16).
    """
    if study.privacy.mode == "none":
        raise ConsiliumError("privacy mode 'none' has no budget. Give --epsilon or --sigma.", code=ExitCode.USAGE)
    delta = study.privacy.delta
    budgets = {name: budget(study, name, delta=delta) for name in study.train_sites}
    if sigma is not None:
        budgets = {n: replace(b, training=b.training and b.training._replace(sigma=sigma)) for n, b in budgets.items()}
    sites = tuple(
        _site(name, study.sites[name].patients, b, rounds=study.training.rounds, delta=delta, size=size)
        for name, b in budgets.items()
    )
    events = {part: getattr(budgets[study.train_sites[0]], part) for part in PARTS}
    pooled = _pooled(study, {site.site: site.sigma for site in sites}, size) if size else {}
    words = (*_little(sites), *_mends(study, sites, size, pooled))
    return Plan(
        study=study.name,
        unit=study.privacy.mode,
        noise=study.privacy.noise,
        delta=delta,
        asked=None if sigma is not None else study.privacy.epsilon,
        size=size,
        sites=sites,
        parts={name: (e.sigma, epsilon([e], delta=delta)) for name, e in events.items() if e is not None},
        pooled=pooled,
        words=words,
    )


def _site(name: str, patients: int, parts: Budget, *, rounds: int, delta: float, size: Size | None) -> SitePlanned:
    training = parts.training
    if training is None:
        raise ConsiliumError(f"site '{name}' trains nothing", code=ExitCode.PRIVACY)
    each = training.steps // rounds
    before = [parts.statistics] if parts.statistics else []
    every = [*before, training, *([parts.recalibration] if parts.recalibration else [])]
    shown = sorted({max(1, round(rounds * k / SHOWN)) for k in range(SHOWN + 1)})
    unit = training.q * patients if training.q < 1 or each > 1 else 1.0
    ratio = noise_to_signal(sigma=training.sigma, batch=unit, parameters=size.noised) if size else None
    return SitePlanned(
        site=name,
        patients=patients,
        q=training.q,
        sigma=training.sigma,
        rounds={k: epsilon([*before, training._replace(steps=each * k)], delta=delta) for k in shown},
        epsilon=epsilon(every, delta=delta),
        pld=epsilon(every, delta=delta, accountant="pld"),
        ratio=ratio,
        in_all=ratio / math.sqrt(training.steps) if ratio is not None else None,
    )


def _pooled(study: Study, sigmas: Mapping[str, float], size: Size) -> dict[str, float]:
    """A step's noise over its signal in the weighted mean of the sites: each adds its own, or what any quorum needs."""
    quorum = max(study.rounds.quorum, threshold(len(sigmas)))
    kinds = {"local": sigmas, "distributed": own_sigmas(study, sigmas, common=sigmas, quorum=quorum)}
    signal = sum(study.sites[name].patients for name in sigmas)
    scale = math.sqrt(size.noised) / signal
    return {
        kind: math.hypot(*(sigma * reach(study, name) for name, sigma in own.items())) * scale
        for kind, own in kinds.items()
    }


def _little(sites: Sequence[SitePlanned]) -> tuple[str, ...]:
    """What a reader must not overlook at each site."""
    found = []
    for site in sites:
        if site.patients >= ENOUGH and (site.in_all or 0.0) <= 1:
            continue
        told = f"{site.site}: {site.patients:,} patients is little for epsilon {site.epsilon:.3g}"
        if site.ratio is not None and site.in_all is not None:
            told += f"; a step's noise is {site.ratio:.3g} times the longest possible signal"
            told += f", {site.in_all:.2g} times over all steps" + (": expect chance" if site.in_all > 1 else "")
        found.append(f"{told}.")
    return tuple(found)


def _mends(
    study: Study, sites: Sequence[SitePlanned], size: Size | None, pooled: Mapping[str, float]
) -> tuple[str, ...]:
    """What would help, in figures, where patients are few."""
    if all(site.patients >= ENOUGH and (site.in_all or 0.0) <= 1 for site in sites):
        return ()
    found = []
    if size is not None and 0 < size.without_encoders < size.noised:
        times = math.sqrt(size.noised / size.without_encoders)
        found.append(
            f"Freeze the encoders (training.encoders = 'frozen', from public or disjoint bundles): "
            f"{size.without_encoders:,} noised parameters instead of {size.noised:,}, {times:.2g} times less noise."
        )
    elif size is not None:
        found.append("The encoders are frozen already: fewer and narrower fusion layers are noised less.")
    if pooled and study.privacy.noise == "local" and len(sites) >= FEWEST:
        times = pooled["local"] / pooled["distributed"]
        found.append(
            "Distribute the noise (privacy.aggregation = 'secure', noise = 'distributed'; the report states whom the "
            f"sites then trust): {times:.2g} times less noise in the mean of {len(sites)} sites."
        )
    return tuple(found)
