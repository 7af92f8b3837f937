"""How often 95 % intervals hold the truth, over simulated cohorts: ``python tests/benchmarks/interval_coverage.py``.

The intervals are made as the product makes them: at a site from resamples of patients, over sites by the random-effects
summary of what sites tell. Some minutes of one thread; outside CI.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import t as student
from targets import Figure, keep

from fl_shared.metrics.bootstrap import Measure, bootstrap, estimates, interval
from fl_shared.metrics.discrimination import Ranking
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.outcomes import Risks
from fl_shared.metrics.random_effects import random_effects
from fl_shared.metrics.survival import Concordance
from fl_shared.metrics.synthesis import NORMAL, SiteEstimate, Summed, gap, summed
from fl_shared.metrics.table import METRICS, MetricName
from fl_shared.task import TaskPlan

Floats = NDArray[np.float64]
Generator = np.random.Generator

COHORTS, RESAMPLES = 2000, 400
LEAST, MOST = 0.93, 0.97
SLOPE, EXTREME = 1.2, 0.8  # of the logit on the signal; calibration slope of risks that are too extreme
PROMISED = ("auroc", "calibration_slope")  # of a few hundred patients; the others are shown
SITES = (3, 5, 10)
INTERNAL, EXTERNAL, TAU = 0.82, 0.76, 0.3  # AUROC of the typical site; standard deviation of the sites' logits


@dataclass(frozen=True, kw_only=True)
class Only:
    """One AUROC, without the other metrics of `Risks`: thousands of sites are drawn."""

    ranking: Ranking

    def metrics(self, weights: NDArray[np.int64]) -> dict[MetricName, Floats]:
        """AUROC (b,)."""
        return {"auroc": self.ranking.auroc(weights[:, self.ranking.events], weights[:, self.ranking.others])}


Ends = dict[MetricName, tuple[float, float]]


def told(measure: Measure, *, patients: int, seed: int) -> dict[MetricName, tuple[float, float, float]]:
    """Value and interval of each metric; every sample is a patient."""
    (value,) = estimates([measure], cohort=patients)
    (draws,) = bootstrap([measure], cohort=patients, samples=patients, resamples=RESAMPLES, seed=seed)
    ends = {metric: interval(each) for metric, each in draws.items()}
    return {metric: (value[metric], end.low or 0.0, end.high or 0.0) for metric, end in ends.items()}


def risks_and_outcomes(seed: int, *, patients: int, samples: int) -> tuple[Floats, Floats]:
    """Of an outcome in a quarter of the samples; samples of a patient share most of what is predicted and what is not.

    Whatever they share, each sample alone has the same distribution, so that the truth does not depend on it.
    """
    rng = np.random.default_rng(seed)
    share = 0.0 if samples == 1 else 0.8
    common, own = rng.normal(size=(2, patients, 1)), rng.normal(size=(2, patients, samples))
    signal, rest = math.sqrt(share) * common + math.sqrt(1 - share) * own
    logits = (SLOPE * signal - 1.5).ravel()
    return expit(logits / EXTREME), (ndtr(rest.ravel()) < expit(logits)).astype(float)


def risks(seed: int, *, patients: int, samples: int) -> Ends:
    """The interval of each metric, as a site tells it."""
    predicted, outcome = risks_and_outcomes(seed, patients=patients, samples=samples)
    rows, _ = evaluate_predictions(
        site="",
        role="external",
        task="",
        plan=TaskPlan(type="binary"),
        modalities="all",
        model="",
        predictions=predicted[:, None],
        targets=outcome[:, None],
        mask=np.ones((len(outcome), 1), dtype=bool),
        patients=np.repeat(np.arange(patients), samples),
        bootstrap=RESAMPLES,
        seed=seed,
        min_patients=10,
    )
    return {row.metric: (row.ci_low, row.ci_high) for row in rows if row.ci_low is not None and row.ci_high is not None}


def truths() -> dict[MetricName, float]:
    """Of `risks`: AUROC by integration, the slope as drawn, the others of a million patients."""
    predicted, outcome = risks_and_outcomes(10**6, patients=10**6, samples=1)
    measure = Risks.of(predicted, outcome, np.arange(10**6), cohort=10**6)
    found = estimates([measure], cohort=10**6)[0]
    return {**found, "auroc": area_of_risks(), "calibration_slope": EXTREME}


def area_of_risks() -> float:
    """AUROC of `risks`, by integration over the signal."""
    signal = np.linspace(-9, 9, 200_001)
    density, p = np.exp(-(signal**2) / 2), expit(SLOPE * signal - 1.5)
    events, others = density * p, density * (1 - p)
    return float((events * (np.cumsum(others) - others / 2)).sum() / events.sum() / others.sum())


def times(seed: int, *, patients: int) -> dict[MetricName, tuple[float, float, float]]:
    """Times to an event, half of them censored, by a log hazard that is normal."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=patients)
    event_time, follow_up = rng.exponential(np.exp(-risk)), rng.uniform(0, 1.5, patients)
    arguments = risk, np.minimum(event_time, follow_up), event_time <= follow_up, np.arange(patients)
    return told(Concordance.of(*arguments), patients=patients, seed=seed)


def concordance_of_times() -> float:
    """Harrell's C of `times`: the mean of 100 cohorts of 4,000, its standard error below 0.0005."""
    found = []
    for seed in range(100):
        rng = np.random.default_rng(10**6 + seed)
        risk = rng.normal(size=4000)
        event_time, follow_up = rng.exponential(np.exp(-risk)), rng.uniform(0, 1.5, 4000)
        both = np.minimum(event_time, follow_up), event_time <= follow_up
        measure = Concordance.of(risk, *both, np.arange(4000))
        found.append(estimates([measure], cohort=4000)[0]["harrell_c"])
    return float(np.mean(found))


def site(name: str, area: float, rng: Generator, *, seed: int) -> SiteEstimate:
    """A hospital of 100 to 400 patients, a quarter with the event, scores normal, at a true AUROC of ``area``."""
    patients = int(rng.integers(100, 401))
    outcome = rng.random(patients) < 0.25
    scores = rng.normal(size=patients) + math.sqrt(2) * ndtri(area) * outcome
    here = told(Only(ranking=Ranking.of(scores, outcome)), patients=patients, seed=seed)["auroc"]
    return SiteEstimate(site=name, value=here[0], low=here[1], high=here[2])


def over_sites(seed: int) -> tuple[list[SiteEstimate], list[SiteEstimate], float]:
    """Sites that trained, sites that did not, and the true AUROC of one more of the latter."""
    rng = np.random.default_rng(seed)
    inside = expit(logit(INTERNAL) + TAU * rng.normal(size=5))
    outside = expit(logit(EXTERNAL) + TAU * rng.normal(size=max(SITES) + 1))
    internal = [site(f"i{k}", area, rng, seed=seed * 100 + k) for k, area in enumerate(inside)]
    external = [site(f"e{k}", area, rng, seed=seed * 100 + 50 + k) for k, area in enumerate(outside[:-1])]
    return internal, external, float(outside[-1])


def coverage(what: str, hits: NDArray[np.bool_], note: str, *, target: bool = True) -> Figure:
    """Share of the cohorts whose interval holds the truth, beside the nearer end of what is allowed."""
    share, error = float(hits.mean()), math.sqrt(float(hits.mean() * (1 - hits.mean())) / len(hits))
    above = share > (LEAST + MOST) / 2
    figure = Figure(
        what=f"{what}: coverage",
        value=round(share, 4),
        low=round(share - 1.96 * error, 4),
        high=round(share + 1.96 * error, 4),
        target=(MOST if above else LEAST) if target else None,
        better="lower" if above else "higher",
        note=note,
    )
    print(f"{figure.what:66} {share:.3f} {'' if figure.met is not False else 'MISSED'}", flush=True)
    return figure


def holds(ends: Floats, truth: float | Floats) -> NDArray[np.bool_]:
    """Whether each interval (B, 2) holds the truth, (B,) or the same for all."""
    return np.asarray((ends[:, 0] <= truth) & (truth <= ends[:, 1]))


def of_a_site() -> Iterator[Figure]:
    """Intervals that a site tells."""
    truth, concordance = truths(), concordance_of_times()
    for patients, samples in ((400, 1), (200, 3), (100, 1)):
        drawn = [risks(seed, patients=patients, samples=samples) for seed in range(COHORTS)]
        size = f"{patients} patients" + (f", {samples} samples each" if samples > 1 else "")
        for metric, value in truth.items():
            ends = np.array([each[metric] for each in drawn if metric in each])
            note = f"a quarter with the event; truth {value:.4f}; {len(ends)} cohorts, {RESAMPLES} resamples"
            promised = metric in PROMISED and patients > 100
            yield coverage(f"{METRICS[metric].title}, {size}", holds(ends, value), note, target=promised)
    for patients in (300, 100):
        ends = np.array([times(seed, patients=patients)["harrell_c"][1:] for seed in range(COHORTS)])
        note = f"half of the patients censored; truth {concordance:.4f}; {COHORTS} cohorts, {RESAMPLES} resamples"
        yield coverage(f"Harrell C, {patients} patients", holds(ends, concordance), note, target=patients > 100)


def of_sites() -> Iterator[Figure]:
    """Summaries over sites, and what is lost from internal to external ones."""
    drawn = [over_sites(seed) for seed in range(COHORTS)]
    new = np.array([one for _, _, one in drawn])
    note = f"sites of 100 to 400 patients, logits of their AUROCs normal about that of {EXTERNAL}, sd {TAU}"
    external = {k: summed([("auroc", sites[:k]) for _, sites, _ in drawn]) for k in SITES}
    for k, found in external.items():
        yield coverage(f"AUROC over {k} sites", holds(ends_of(found), EXTERNAL), note)
    for k, found in external.items():
        ends = np.array([(one.prediction_low, one.prediction_high) for one in found], dtype=float)
        yield coverage(f"prediction of a new site's AUROC from {k}", holds(ends, new), note, target=False)
    note += "; few sites: each summary is never narrower than the normal one, hence somewhat wide"
    for k, m in ((3, 3), (5, 3), (5, 10)):
        internal = summed([("auroc", sites[:k]) for sites, _, _ in drawn])
        gaps = np.array([gap(a, b)[1:] for a, b in zip(internal, external[m], strict=True)], dtype=float)
        yield coverage(f"gap of AUROC, {k} internal and {m} external sites", holds(gaps, INTERNAL - EXTERNAL), note)
    alone = summed([("auroc", sites[:1]) for sites, _, _ in drawn])
    note = "a single site tells of itself alone: its interval holds nothing of the spread between sites"
    yield coverage("AUROC of the typical site from 1 site", holds(ends_of(alone), EXTERNAL), note, target=False)


def of_guards() -> Iterator[Figure]:
    """Why the summary's interval is guarded as it is: estimates drawn as normal, none of these was promised."""
    rng = np.random.default_rng(0)
    for k, tau in itertools.product((3, 10), (0.0, 0.25)):
        errors = np.exp(rng.uniform(math.log(0.1), math.log(0.4), size=(5 * COHORTS, k)))
        estimates_ = tau * rng.normal(size=errors.shape) + errors * rng.normal(size=errors.shape)
        found = random_effects(estimates_, errors * np.exp(0.08 * rng.normal(size=errors.shape)))
        off, times = np.abs(found.mean), student.ppf(0.975, k - 1)
        reaches = {
            "normal as the least": np.maximum(times * found.se, found.least),
            "no guard": times * found.se,
            "normal error as the least": times * np.maximum(found.se, found.least / NORMAL),
        }
        note = f"normal estimates with errors of 0.1 to 0.4, tau {tau:g}; {5 * COHORTS} groups"
        for guard, reach in reaches.items():
            yield coverage(f"{guard}, {k} sites, tau {tau:g}", off <= reach, note, target=False)


def ends_of(found: list[Summed]) -> Floats:
    """Intervals (B, 2)."""
    return np.array([(one.ci_low, one.ci_high) for one in found], dtype=float)


def main() -> None:
    """Simulate, print, and keep the figures."""
    start = time.perf_counter()
    parts: tuple[Callable[[], Iterator[Figure]], ...] = (of_a_site, of_sites, of_guards)
    figures = [figure for part in parts for figure in part()]
    print(f"{time.perf_counter() - start:.0f} s")
    keep(
        "interval_coverage",
        title="Coverage of 95 % intervals over simulated cohorts (to be within 93-97 %; the nearer end is shown)",
        command="python tests/benchmarks/interval_coverage.py",
        figures=figures,
    )


if __name__ == "__main__":
    main()
