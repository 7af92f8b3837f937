"""A metric over sites: summary of the sites' own estimates, and what is lost from internal to external sites.

The scale on which estimates are taken to be normal follows from a metric's range: shares (AUROC, C, Brier score, Dice)
are summed up as logits, positive numbers (expected over observed, errors) as logarithms, the others (calibration slope,
R2) as they are. A site's standard error is the width of its bootstrap interval on that scale over 2 x 1.96. What has no
such width is left out, and the note names it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import t as student

from fl_shared.metrics.random_effects import Effects, random_effects
from fl_shared.metrics.table import METRICS, MetricName

Floats = NDArray[np.float64]

NORMAL = 1.959963984540054  # 97.5 %
ALONE = "one site: its own interval"
NOTHING = "no site gives a value with an interval"


@dataclass(frozen=True, kw_only=True)
class SiteEstimate:
    """A metric at one site with its 95 % interval; None where it is withheld. remark: what sets it apart, in words."""

    site: str
    value: float | None
    low: float | None
    high: float | None
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The summary of several sites on the scale of the model, as of `Effects`. free: degrees of freedom of ``se``."""

    mean: float
    se: float
    least: float
    free: int


@dataclass(frozen=True, kw_only=True)
class Summed:
    """A metric over sites, on its own scale (tau: on that of the model); fields as of `fl_shared.results.Summary`.

    effect: of several sites.
    """

    metric: MetricName
    sites: tuple[str, ...]
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    prediction_low: float | None = None
    prediction_high: float | None = None
    tau: float | None = None
    i2: float | None = None
    worst: str = ""
    note: str = ""
    effect: Effect | None = None

    def told(self) -> dict[str, Any]:
        """The fields of a summary, rounded as the metric's values are."""
        fields, rounded = dict(vars(self)), METRICS[self.metric].rounded
        del fields["effect"]
        for name in ("value", "ci_low", "ci_high", "prediction_low", "prediction_high"):
            fields[name] = None if fields[name] is None else rounded(fields[name])
        for name in ("tau", "i2"):
            fields[name] = None if fields[name] is None else round(fields[name], 4)
        return fields


def to_scale(metric: MetricName, value: float) -> float:
    """The value on the scale of the model; infinite at the ends of the range."""
    low, high = METRICS[metric].low, METRICS[metric].high
    if (low, high) == (0.0, 1.0):
        return float(logit(value))
    if (low, high) == (0.0, math.inf):
        return math.log(value) if value > 0 else -math.inf
    return value


def from_scale(metric: MetricName, value: float) -> float:
    """Inverse of `to_scale`, within the metric's range."""
    low, high = METRICS[metric].low, METRICS[metric].high
    if (low, high) == (0.0, 1.0):
        return float(expit(value))
    if (low, high) == (0.0, math.inf):
        return math.exp(min(value, 700.0))
    return min(max(value, low), high)


def summed(groups: Sequence[tuple[MetricName, Sequence[SiteEstimate]]]) -> list[Summed]:
    """Sum up each group: one metric at several sites."""
    if not groups:
        return []
    read = [[_read(metric, site) for site in sites] for metric, sites in groups]
    most = max(len(sites) for _, sites in groups)
    numbers = np.full((2, len(groups), most), np.nan)
    for g, group in enumerate(read):
        for k, one in enumerate(group):
            if not isinstance(one, str):
                numbers[:, g, k] = one
    effects = random_effects(*numbers)
    return [
        _summed(metric, sites, one, effects, g)
        for g, ((metric, sites), one) in enumerate(zip(groups, read, strict=True))
    ]


def gap(internal: Summed, external: Summed) -> tuple[float | None, float | None, float | None]:
    """What is lost at external sites, with its 95 % interval, on the metric's own scale.

    Internal less external; of an error external less internal. The interval is made of those of the two summaries,
    which stand on different sites, so that both may be lopsided (MOVER: Zou and Donner, Stat Med 2008). Their Student's
    t has the degrees of freedom of the difference (Welch and Satterthwaite, Biometrika 1947): with those of each
    summary it would hold the truth in 99 % of cases and be a third wider.
    """
    first, second = (internal, external) if METRICS[internal.metric].higher_is_better else (external, internal)
    if first.value is None or second.value is None:
        return None, None, None
    variances = [_variance(each) for each in (first, second)]
    squares = sum(
        variance**2 / each.effect.free for variance, each in zip(variances, (first, second), strict=True) if each.effect
    )
    times = float(student.ppf(0.975, sum(variances) ** 2 / squares)) if squares else NORMAL
    (low, high), (other_low, other_high) = (_ends(each, times) for each in (first, second))
    value = first.value - second.value
    below = math.hypot(first.value - low, other_high - second.value)
    above = math.hypot(high - first.value, second.value - other_low)
    return value, value - below, value + above


def _ends(summed: Summed, times: float) -> tuple[float, float]:
    """The interval, its t being ``times``."""
    if (effect := summed.effect) is None:
        assert summed.ci_low is not None and summed.ci_high is not None
        return summed.ci_low, summed.ci_high
    reach = max(times * effect.se, effect.least)
    return from_scale(summed.metric, effect.mean - reach), from_scale(summed.metric, effect.mean + reach)


def _variance(summed: Summed) -> float:
    """Of the value, on the metric's own scale (delta method)."""
    if (effect := summed.effect) is None:
        low, high = _ends(summed, NORMAL)
        return ((high - low) / (2 * NORMAL)) ** 2
    step = 1e-4 * effect.se
    up, down = (from_scale(summed.metric, effect.mean + by) for by in (step, -step))
    return ((up - down) / 2e-4) ** 2


def _read(metric: MetricName, site: SiteEstimate) -> tuple[float, float] | str:
    """Estimate and standard error on the scale of the model, or why there is none.

    At an end of the range the scale is infinite: an interval that ends there (a share of 1) counts by its other half.
    """
    if site.value is None:
        return "withheld"
    if site.low is None or site.high is None:
        return "without an interval"
    value, low, high = (to_scale(metric, number) for number in (site.value, site.low, site.high))
    if not math.isfinite(value):
        return "at the end of the range"
    width = high - low if math.isfinite(high - low) else 2 * min(value - low, high - value)
    return (value, width / (2 * NORMAL)) if 0 < width < math.inf else "an interval without width"


def _summed(
    metric: MetricName,
    sites: Sequence[SiteEstimate],
    read: Sequence[tuple[float, float] | str],
    effects: Effects,
    g: int,
) -> Summed:
    used = tuple(site.site for site, one in zip(sites, read, strict=True) if not isinstance(one, str))
    left = [f"{site.site} ({one})" for site, one in zip(sites, read, strict=True) if isinstance(one, str)]
    without = f"without {', '.join(left)}" if left else ""
    words = {0: NOTHING, 1: ALONE}.get(len(used), "")
    remarks = (f"{site.site}: {site.remark}" for site in sites if site.remark and site.site in used)
    note = "; ".join(part for part in (words, without, *remarks) if part)
    worst = _worst(metric, sites)
    if not used:
        return Summed(metric=metric, sites=(), worst=worst, note=note)

    if len(used) == 1:
        (one,) = (site for site in sites if site.site == used[0])
        return Summed(
            metric=metric, sites=used, value=one.value, ci_low=one.low, ci_high=one.high, worst=worst, note=note
        )

    def back(values: Floats) -> float | None:
        return from_scale(metric, float(values[g])) if math.isfinite(values[g]) else None

    return Summed(
        metric=metric,
        sites=used,
        value=back(effects.mean),
        ci_low=back(effects.low),
        ci_high=back(effects.high),
        prediction_low=back(effects.predicted_low),
        prediction_high=back(effects.predicted_high),
        tau=math.sqrt(effects.tau2[g]),
        i2=float(effects.i2[g]),
        worst=worst,
        note=note,
        effect=Effect(
            mean=float(effects.mean[g]), se=float(effects.se[g]), least=float(effects.least[g]), free=len(used) - 1
        ),
    )


def _worst(metric: MetricName, sites: Sequence[SiteEstimate]) -> str:
    """The site with the worst value, whether or not it enters the summary."""
    about = METRICS[metric]
    values = {site.site: site.value for site in sites if site.value is not None}
    if about.ideal is not None:
        right = to_scale(metric, about.ideal)
        values = {site: -abs(to_scale(metric, value) - right) for site, value in values.items()}
    elif not about.higher_is_better:
        values = {site: -value for site, value in values.items()}
    return min(values, key=values.__getitem__, default="")
