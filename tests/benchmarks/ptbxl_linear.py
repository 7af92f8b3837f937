"""Linear baselines on PTB-XL: trained on the records of sites 0-2, judged on site 3, which never trained.

    python tests/benchmarks/ptbxl_linear.py

``ecg``: logistic regression on the median beat and rhythm of the 12-lead ECG. ``age_sex``: the same on age and sex.
One model a superclass; its penalty is chosen by patient-grouped cross-validation at the training sites alone.
Intervals: 1,000 bootstraps of patients. Labels are those of the product's importer (any likelihood).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import wfdb
from numpy.typing import NDArray
from scipy.signal import butter, find_peaks, sosfiltfilt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from fl_sites.importers.ptb_xl_source import read_source

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "ptb-xl"
HEADLINE = ("NORM", "MI", "STTC", "CD")
EXTERNAL = 3
LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")  # III and the augmented leads are sums of these
RATE = 100  # Hz
BEFORE, AFTER, EVERY = 30, 50, 2  # samples of a beat around its R peak; every second one is kept
PENALTIES = np.logspace(-5, 0, 11)

Array: TypeAlias = NDArray[np.float64]


def ecg_features(record: Path) -> Array:
    """Median beat (8 leads x 40 samples, mV), spread of each lead, and four numbers of the rhythm (s).

    Args:
        record: WFDB record at 100 Hz, without its suffix.
    """
    signal, fields = wfdb.rdsamp(str(record), channel_names=list(LEADS))
    if fields["fs"] != RATE or fields["sig_name"] != list(LEADS):
        raise ValueError(f"{record}: expected {LEADS} at {RATE} Hz, found {fields['sig_name']} at {fields['fs']} Hz")
    signal = sosfiltfilt(butter(3, (0.5, 40), "bandpass", fs=RATE, output="sos"), signal, axis=0)
    steepness = np.abs(np.gradient(signal, axis=0)).sum(axis=1)
    peaks, _ = find_peaks(steepness, distance=RATE // 4, height=0.4 * np.quantile(steepness, 0.99))
    peaks = peaks[(peaks >= BEFORE) & (peaks < len(signal) - AFTER)]
    if len(peaks) < 2:
        raise ValueError(f"{record}: fewer than two beats")
    beat = np.median([signal[peak - BEFORE : peak + AFTER : EVERY] for peak in peaks], axis=0)
    intervals = np.diff(peaks) / RATE
    change = np.abs(np.diff(intervals)).sum() / max(len(intervals) - 1, 1)
    rhythm = [intervals.mean(), intervals.std(), np.median(intervals), change]
    return np.concatenate([beat.T.ravel(), signal.std(axis=0), np.ptp(beat, axis=0), rhythm])


def fit(x: Array, y: NDArray[np.int64], patients: NDArray[np.str_]) -> Pipeline:
    """Standardised ridge logistic regression; the penalty by 5-fold AUROC over patients."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    search = GridSearchCV(model, {"logisticregression__C": PENALTIES}, scoring="roc_auc", cv=GroupKFold(5))
    best: Pipeline = search.fit(x, y, groups=patients).best_estimator_
    return best


def score(labels: Array, scores: Array) -> Array:
    """AUROC of each headline label and their mean; NaN where a resample has one class only."""
    single = (labels.min(axis=0) == labels.max(axis=0)).tolist()
    found = [np.nan if one else roc_auc_score(labels[:, i], scores[:, i]) for i, one in enumerate(single)]
    return np.array([*found, np.mean(found)])


def judge(records: pd.DataFrame, x: Array, *, draws: int, seed: int) -> dict[str, object]:
    """Fit at sites 0-2 and judge at site 3 with percentile intervals over patients."""
    external = (records["site"] == EXTERNAL).to_numpy()
    labels = records[[f"superclass_{name}" for name in HEADLINE]].to_numpy()
    patients = records["patient_id"].to_numpy()
    models = [fit(x[~external], labels[~external, i], patients[~external]) for i in range(len(HEADLINE))]
    scores = np.stack([model.predict_proba(x[external])[:, 1] for model in models], axis=1)
    rows = [np.flatnonzero(patients[external] == patient) for patient in np.unique(patients[external])]
    generator = np.random.default_rng(seed)
    resamples = []
    for _ in range(draws):
        chosen = np.concatenate([rows[i] for i in generator.integers(len(rows), size=len(rows))])
        resamples.append(score(labels[external][chosen], scores[chosen]))
    low, high = np.nanquantile(resamples, (0.025, 0.975), axis=0)
    point, error = score(labels[external], scores), np.nanstd(resamples, axis=0)
    return {
        name: {"auroc": point[i], "ci_low": low[i], "ci_high": high[i], "standard_error": error[i]}
        for i, name in enumerate((*HEADLINE, "mean"))
    } | {"penalty_C": [float(model[-1].C) for model in models]}


def run(folder: Path, *, draws: int, seed: int) -> dict[str, object]:
    """Both baselines on the release (or a part of it) in ``folder``."""
    records, left_out = read_source(folder)
    external = records["site"] == EXTERNAL
    age = records["age"].fillna(records.loc[~external, "age"].median())
    inputs = {
        "ecg": np.stack([ecg_features(folder / name) for name in records["filename_lr"]]),
        "age_sex": np.column_stack([age, records["sex"]]).astype(float),
    }
    events = records.groupby(external)[[f"superclass_{name}" for name in HEADLINE]].sum()
    return {
        "train": {"records": int((~external).sum()), "events": events.loc[False].to_dict()},
        "external": {"records": int(external.sum()), "events": events.loc[True].to_dict()},
        "left_out": left_out,
        "features": {name: x.shape[1] for name, x in inputs.items()},
        **{name: judge(records, x, draws=draws, seed=seed) for name, x in inputs.items()},
    }


def main() -> None:
    """Run both baselines and print their figures as JSON."""
    parser = argparse.ArgumentParser(description="Linear baselines on PTB-XL: train sites 0-2, test site 3.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of ptbxl_database.csv and records100")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap resamples")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    json.dump(run(options.data, draws=options.draws, seed=options.seed), sys.stdout, indent=2, default=float)
    print()


if __name__ == "__main__":
    main()
