"""How much faster the bootstrap is than a loop over scikit-learn, and what judging five sites takes.

python tests/benchmarks/bootstrap_speed.py
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from targets import Figure, keep

from fl_server.synthesis import synthesized
from fl_shared.metrics.bootstrap import Measure, bootstrap, patient_weights
from fl_shared.metrics.calibration import by_patient
from fl_shared.metrics.discrimination import Ranking
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.outcomes import Risks
from fl_shared.metrics.table import MetricName
from fl_shared.study import TaskPlan

Floats = NDArray[np.float64]

RESAMPLES = 1000
LOOPED = 100  # resamples of the loop; its time is scaled up
RUNS = 3  # the fastest counts
SITES, PATIENTS = 5, 500
TASKS: Mapping[str, TaskPlan] = {
    "death": TaskPlan(type="binary"),
    "findings": TaskPlan(type="multilabel", labels=("a", "b", "c", "d")),
    "event": TaskPlan(type="survival", horizon=365.0, windows=(90.0, 365.0)),
    "days": TaskPlan(type="regression"),
}


class Three:
    """AUROC, average precision and Brier score alone, which is what the loop does."""

    def __init__(self, scores: Floats, targets: Floats) -> None:
        self._ranking = Ranking.of(scores, targets)
        self._squares = by_patient(np.arange(len(scores)), np.square(scores - targets), cohort=len(scores))[:, 0]

    def metrics(self, weights: NDArray[np.int64]) -> dict[MetricName, Floats]:
        """Each (b,); every sample is a patient."""
        auroc, auprc = self._ranking.auroc_ap(weights[:, self._ranking.events], weights[:, self._ranking.others])
        return {"auroc": auroc, "auprc": auprc, "brier": weights @ self._squares / weights.sum(axis=1)}


def drawn(n: int) -> tuple[Floats, Floats]:
    """Scores and outcomes (n,)."""
    rng = np.random.default_rng(n)
    targets = (rng.random(n) < 0.2).astype(float)
    return np.round(1 / (1 + np.exp(-(targets + rng.normal(size=n)))), 3), targets


def ours(measure: Measure, n: int) -> tuple[float, Mapping[MetricName, Floats]]:
    """Seconds of all resamples, and their metrics."""
    seconds = []
    for _ in range(RUNS):
        start = time.process_time()
        (found,) = bootstrap([measure], cohort=n, samples=n, resamples=RESAMPLES, seed=0)
        seconds.append(time.process_time() - start)
    return min(seconds), found


def loop(scores: Floats, targets: Floats) -> tuple[float, Mapping[MetricName, Floats]]:
    """The same by scikit-learn, one resample after the other."""
    n = len(scores)
    weights = next(patient_weights(n, resamples=RESAMPLES, seed=0, rows=LOOPED))
    of: dict[MetricName, object] = {"auroc": roc_auc_score, "auprc": average_precision_score, "brier": brier_score_loss}
    start = time.process_time()
    found = {
        name: np.array([metric(targets, scores, sample_weight=weight) for weight in weights])  # type: ignore[operator]
        for name, metric in of.items()
    }
    return (time.process_time() - start) * RESAMPLES / LOOPED, found


def against_the_loop(n: int) -> Iterator[Figure]:
    """Ratio of both ways at ``n`` samples, and how far they differ."""
    scores, targets = drawn(n)
    reference, by_loop = loop(scores, targets)
    size = f"n = {n}, {RESAMPLES} resamples"
    wholes: dict[str, Measure] = {
        "AUROC, AUPRC, Brier": Three(scores, targets),
        "all metrics of a risk": Risks.of(scores, targets, np.arange(n), cohort=n),
    }
    for name, measure in wholes.items():
        seconds, found = ours(measure, n)
        off = max(float(np.abs(found[metric][:LOOPED] - by_loop[metric]).max()) for metric in by_loop)
        note = f"{size}: {seconds:.2f} s against {reference:.1f} s; largest difference {off:.0e}"
        alone = name == "AUROC, AUPRC, Brier" and n == 5000
        yield shown(
            Figure(what=f"{name}, times faster", value=reference / seconds, target=20 if alone else None, note=note)
        )


def predictions(plan: TaskPlan, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """What a model says of one site's patients, and what was true."""
    signal = rng.normal(size=(PATIENTS, max(len(plan.labels), 1)))
    noisy = signal + rng.normal(size=signal.shape)
    match plan.type:
        case "survival":
            rate = np.exp(signal) / 600
            when, until = rng.exponential(1 / rate[:, 0]), rng.uniform(100, 700, PATIENTS)
            told = 1 - np.exp(-np.exp(noisy) / 600 * np.linspace(plan.horizon / plan.bins, plan.horizon, plan.bins))
            return told, np.stack([np.minimum(when, until), when <= until], axis=1).astype(float)
        case "regression":
            return noisy, signal
        case _:
            return 1 / (1 + np.exp(-noisy)), (rng.random(signal.shape) < 1 / (1 + np.exp(1 - signal))).astype(float)


def all_sites() -> Figure:
    """Seconds of judging every task at every site, with curves, and of the summary over sites."""
    rng = np.random.default_rng(0)
    sites = {f"site{k}": "train" if k < 3 else "external" for k in range(SITES)}
    cases = [(site, task, *predictions(TASKS[task], rng)) for site in sites for task in TASKS]
    start, rows, curves = time.process_time(), [], []
    for site, task, told, true in cases:
        found = evaluate_predictions(
            site=site,
            role=sites[site],  # type: ignore[arg-type]
            task=task,
            plan=TASKS[task],
            modalities="all",
            model="federated",
            predictions=told,
            targets=true,
            mask=np.ones(true.shape, dtype=bool),
            patients=np.arange(PATIENTS),
            bootstrap=RESAMPLES,
            seed=0,
            min_patients=10,
        )
        rows += found[0]
        curves += found[1]
    judged = time.process_time() - start
    over = synthesized(rows, curves, roles=sites)  # type: ignore[arg-type]
    seconds = time.process_time() - start
    note = (
        f"{PATIENTS} patients a site, {RESAMPLES} resamples: {len(rows)} rows, {len(curves)} curves, "
        f"{len(over.summaries)} summaries (these {seconds - judged:.2f} s)"
    )
    return shown(Figure(what="5 sites x 4 tasks, s", value=seconds, target=10, better="lower", note=note))


def shown(figure: Figure) -> Figure:
    """The figure, printed."""
    print(f"{figure.what:38} {figure.value:8.1f}   {figure.note}", flush=True)
    return figure


def main() -> None:
    """Measure, print, and keep the figures."""
    figures = [figure for n in (500, 5000) for figure in against_the_loop(n)]
    keep(
        "bootstrap_speed",
        title="Bootstrap against a scikit-learn loop in the same run, and judging all sites (one thread)",
        command="OMP_NUM_THREADS=1 python tests/benchmarks/bootstrap_speed.py",
        figures=[*figures, all_sites()],
    )


if __name__ == "__main__":
    main()
