"""How much faster the bootstrap is than a loop over scikit-learn: ``python tests/benchmarks/bootstrap_speed.py``."""

from __future__ import annotations

import time

import numpy as np
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from fl_shared.metrics.bootstrap import bootstrap, patient_weights
from fl_shared.metrics.outcomes import Risks

RESAMPLES = 1000
LOOPED = 100  # resamples of the loop; its time is scaled up


def main() -> None:
    """Print seconds of both for 1,000 resamples, their ratio and the largest difference."""
    print(f"{'samples':>8} {'ours s':>8} {'loop s':>8} {'ratio':>7} {'difference':>11}")
    for n in (500, 2000, 10_000):
        rng = np.random.default_rng(n)
        targets = (rng.random((n, 1)) < 0.2).astype(float)
        scores = np.round(1 / (1 + np.exp(-(targets + rng.normal(size=(n, 1))))), 3)
        start = time.perf_counter()
        measure = Risks.of(scores[:, 0], targets[:, 0], np.arange(n), cohort=n)
        (found,) = bootstrap([measure], cohort=n, samples=n, resamples=RESAMPLES, seed=0)
        ours = time.perf_counter() - start
        weights = next(patient_weights(n, resamples=RESAMPLES, seed=0, rows=LOOPED))
        start = time.perf_counter()
        looped = [
            [metric(targets[:, 0], scores[:, 0], sample_weight=weight) for weight in weights]
            for metric in (roc_auc_score, average_precision_score, brier_score_loss)
        ]
        loop = (time.perf_counter() - start) * RESAMPLES / LOOPED
        difference = max(
            float(np.abs(found[name][:LOOPED] - values).max())
            for name, values in zip(("auroc", "auprc", "brier"), looped, strict=True)
        )
        print(f"{n:>8} {ours:>8.2f} {loop:>8.1f} {loop / ours:>6.0f}x {difference:>11.1e}")


if __name__ == "__main__":
    main()
