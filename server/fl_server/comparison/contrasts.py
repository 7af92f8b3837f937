"""A variant less the reference on the same patients: over the sites of a role, over seeds, adjusted over variants."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from fl_server.comparison.numbers import FEDERATED, Told, What
from fl_server.comparison.result import Contrast, Role
from fl_shared.metrics.paired import LEAST_P
from fl_shared.metrics.random_effects import random_effects
from fl_shared.metrics.synthesis import ALONE, NORMAL, NOTHING
from fl_shared.metrics.table import METRICS
from fl_shared.results import Difference

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def of_pair(
    rows: Iterable[Difference], roles: Mapping[str, Role], *, turned: bool = False, headline: Collection[str] = ()
) -> dict[What, Told]:
    """The differences of one seed at each site, with their summaries over sites.

    Args:
        rows: as the sites told them.
        roles: of the sites, in the study from which all were derived.
        turned: they are reference less variant.
        headline: tasks of which 'all' inputs of the judged model are what others call 'headline'.
    """
    found = {}
    for row in rows:
        if row.model == FEDERATED:
            inputs = "headline" if row.modalities == "all" and row.task in headline else row.modalities
            what = What(roles[row.site], row.site, row.task, row.label, inputs, "", row.metric)
            found[what] = _told(row, turned=turned)
    return found | over_sites(found)


def _told(row: Difference, *, turned: bool) -> Told:
    ends = (row.ci_low, row.ci_high)
    if not turned:
        return Told(row.value, *ends, row.note)
    value, high, low = (None if number is None else -number for number in (row.value, *ends))
    return Told(value, low, high, row.note)


def over_sites(at_sites: Mapping[What, Told]) -> dict[What, Told]:
    """Random-effects summaries of differences as they are (they have no range to be mapped from), under the site ''."""
    groups: defaultdict[What, dict[str, Told]] = defaultdict(dict)
    for what, told in at_sites.items():
        groups[what._replace(site="")][what.site] = told
    if not groups:
        return {}
    numbers = np.full((2, len(groups), max(map(len, groups.values()))), np.nan)
    for g, sites in enumerate(groups.values()):
        for k, told in enumerate(sites.values()):
            if (error := _error(told)) is not None and error > 0:
                numbers[:, g, k] = told.value, error
    effects = random_effects(*numbers)
    return {
        what: _summary(sites, numbers[1, g], effects.mean[g], effects.low[g], effects.high[g])
        for g, (what, sites) in enumerate(groups.items())
    }


def _summary(sites: Mapping[str, Told], errors: Floats, mean: float, low: float, high: float) -> Told:
    used = int(np.isfinite(errors).sum())
    left = [name for name, error in zip(sites, errors, strict=False) if not math.isfinite(error)]
    without = f"without {', '.join(left)}" if left and used else ""
    if len(sites) == 1:
        (one,) = sites.values()
        return one._replace(note=one.note or ALONE)
    if not used:
        return Told(None, None, None, NOTHING)
    return Told(float(mean), float(low), float(high), "; ".join(filter(None, (ALONE if used == 1 else "", without))))


def _error(told: Told) -> float | None:
    """Standard error: the width of the interval over 2 x 1.96."""
    if told.value is None or told.low is None or told.high is None:
        return None
    return (told.high - told.low) / (2 * NORMAL)


@dataclass(frozen=True, kw_only=True)
class Combined:
    """A difference over seeds."""

    value: float
    low: float
    high: float
    p: float


def combined(told: Sequence[Told]) -> Combined | None:
    """Mean difference of the seeds' ones, with interval and two-sided p of a normal statistic.

    The patients are the same in every seed, so that more seeds make their share of the variance no smaller: it is the
    mean of the seeds' variances, plus that of the mean over seeds.
    """
    pairs = [(one.value, error) for one in told if (error := _error(one)) is not None and one.value is not None]
    if not pairs:
        return None
    values = [value for value, _ in pairs]
    value = statistics.fmean(values)
    between = statistics.variance(values) / len(values) if len(values) > 1 else 0.0
    error = math.sqrt(statistics.fmean(error**2 for _, error in pairs) + between)
    return Combined(value=value, low=value - NORMAL * error, high=value + NORMAL * error, p=_p(value, error))


def _p(value: float, error: float) -> float:
    """Two-sided, never below what a test's tail is known to."""
    if error == 0:
        return 1.0 if value == 0 else LEAST_P
    return max(LEAST_P, 2 * float(norm.sf(abs(value) / error)))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p of each test of a family (Holm, Scand J Stat 1979): p of rank r times those not yet rejected."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, ps[at] * (len(ps) - rank)))
        adjusted[at] = highest
    return adjusted


def contrasts(found: Mapping[tuple[str, str], Sequence[Mapping[What, Told]]], *, against: str) -> Iterator[Contrast]:
    """Every contrast: ``found`` is (variant, mode) -> what each seed gave; variants of one mode are a family."""
    families: defaultdict[tuple[str, What], dict[str, list[Told]]] = defaultdict(dict)
    for (variant, mode), by_seed in found.items():
        for told in by_seed:
            for what, one in told.items():
                families[mode, what].setdefault(variant, []).append(one)
    for (mode, place), variants in families.items():
        means = {variant: combined(seeds) for variant, seeds in variants.items()}
        tested = {variant: mean.p for variant, mean in means.items() if mean is not None}
        adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
        rounded = METRICS[place.metric].rounded
        for variant, seeds in variants.items():
            mean = means[variant]
            yield Contrast.model_construct(
                **place._asdict(),
                variant=variant,
                mode=mode,
                against=against,
                value=rounded(mean.value) if mean else None,
                low=rounded(mean.low) if mean else None,
                high=rounded(mean.high) if mean else None,
                p=round(mean.p, 4) if mean else None,
                p_holm=round(adjusted[variant], 4) if mean else None,
                seeds=sum(_error(each) is not None for each in seeds),
                note="; ".join(dict.fromkeys(each.note for each in seeds if each.note)),
            )
