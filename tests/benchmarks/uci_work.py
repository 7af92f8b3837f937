"""The piece of work that every framework is given: UCI heart disease, four hospitals, logistic regression, FedAvg.

Data as in FLamby's Fed-Heart-Disease (Ogier du Terrail et al., NeurIPS 2022): columns 10-12 dropped, rows with gaps
dropped, columns 2 and 6 one-hot (13 features), 66/34 split per centre with seed 43, standardised with each centre's
training rows. Work: ``ROUNDS`` rounds of ``UPDATES`` SGD steps of ``BATCH`` patients at each hospital, averaged by the
number of training patients. Batches depend on (seed, round, hospital) alone: every deployment ends at the same weights.

    python tests/benchmarks/uci_work.py     # the plain loop in one process: the floor
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "uci-heart-disease"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
FEATURES = 13
ROUNDS, UPDATES, BATCH, RATE, SEED = 10, 100, 4, 0.05, 42

Array: TypeAlias = NDArray[np.float32]
Weights: TypeAlias = tuple[Array, Array]  # (1, FEATURES), (1,): a torch.nn.Linear


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """Standardised features (n, FEATURES) and labels (n,) of 0 and 1."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array

    def save(self, path: Path) -> None:
        """Write one ``.npz`` (a ClientApp then needs neither pandas nor scikit-learn)."""
        np.savez(path, train_x=self.train_x, train_y=self.train_y, test_x=self.test_x, test_y=self.test_y)

    @classmethod
    def read(cls, path: Path) -> Hospital:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})


def load_hospitals(folder: Path = DATA) -> dict[str, Hospital]:
    """The four hospitals' tables; 199/104, 172/89, 30/16 and 85/45 training and test patients."""
    import pandas as pd

    tables = {}
    for name in HOSPITALS:
        table = pd.read_csv(folder / f"processed.{name}.data", header=None, na_values="?")
        tables[name] = table.drop(columns=[10, 11, 12]).dropna()
    rows = pd.concat(tables)
    rows["label"] = (rows[13] > 0).astype(float)
    table = pd.get_dummies(rows.drop(columns=[13]), columns=[2, 6], drop_first=True).astype(np.float32)
    features, labels = table.drop(columns=["label"]), table["label"]
    return {name: _split(features.loc[name].to_numpy(), labels.loc[name].to_numpy()) for name in HOSPITALS}


def _split(x: Array, y: Array) -> Hospital:
    from sklearn.model_selection import train_test_split

    counts = np.bincount(y.astype(int), minlength=2)
    train, test = train_test_split(
        np.arange(len(y)),
        train_size=0.66,
        test_size=1 - 0.66,
        random_state=43,
        stratify=y if counts.min() > 2 else None,
    )
    mean, deviation = x[train].mean(0), x[train].std(0, ddof=1)
    deviation[deviation == 0] = 1
    x = (x - mean) / deviation
    return Hospital(train_x=x[train], train_y=y[train], test_x=x[test], test_y=y[test])


def initial() -> Weights:
    """Where every run starts: zeros."""
    return np.zeros((1, FEATURES), np.float32), np.zeros(1, np.float32)


def train(weights: Weights, hospital: Hospital, *, name: str, round_number: int) -> Weights:
    """``UPDATES`` steps of torch SGD on one hospital's training rows.

    Args:
        weights: The global model.
        hospital: Its rows.
        name: Which of `HOSPITALS` (seeds the batches).
        round_number: From 1.
    """
    import torch

    model = torch.nn.Linear(FEATURES, 1)
    model.load_state_dict({"weight": torch.from_numpy(weights[0].copy()), "bias": torch.from_numpy(weights[1].copy())})
    x, y = torch.from_numpy(hospital.train_x), torch.from_numpy(hospital.train_y)
    draw = np.random.default_rng([SEED, round_number, HOSPITALS.index(name)])
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(UPDATES):
        rows = torch.from_numpy(draw.choice(len(y), BATCH, replace=False))
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x[rows])[:, 0], y[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model.weight.detach().numpy(), model.bias.detach().numpy()


def average(updates: Sequence[Weights], sizes: Sequence[int]) -> Weights:
    """Mean weighted by the numbers of training patients."""
    weight, bias = (np.average(parts, axis=0, weights=sizes).astype(np.float32) for parts in zip(*updates, strict=True))
    return weight, bias


def evaluate(weights: Weights, hospitals: Mapping[str, Hospital]) -> dict[str, float]:
    """Accuracy and AUROC on the test rows, means over the hospitals."""
    from sklearn.metrics import roc_auc_score

    scores = {name: hospital.test_x @ weights[0][0] + weights[1][0] for name, hospital in hospitals.items()}
    accuracy = [float(np.mean((scores[name] > 0) == (hospitals[name].test_y > 0.5))) for name in hospitals]
    auroc = [float(roc_auc_score(hospitals[name].test_y, scores[name])) for name in hospitals]
    return {"accuracy": float(np.mean(accuracy)), "auroc": float(np.mean(auroc))}


def run_plain(hospitals: Mapping[str, Hospital], *, rounds: int = ROUNDS) -> Weights:
    """The whole work in one process: what every deployment must reproduce (to 1e-6)."""
    weights = initial()
    sizes = [len(hospital.train_y) for hospital in hospitals.values()]
    for number in range(1, rounds + 1):
        updates = [train(weights, hospital, name=name, round_number=number) for name, hospital in hospitals.items()]
        weights = average(updates, sizes)
    return weights


def main() -> None:
    """Run the plain loop and print its result as JSON."""
    parser = argparse.ArgumentParser(description="UCI heart disease in a plain loop: no framework, no network.")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the processed.*.data files")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    hospitals = load_hospitals(options.data)
    began = time.monotonic()
    weights = run_plain(hospitals, rounds=options.rounds)
    seconds = (time.monotonic() - began) / options.rounds
    print(json.dumps({**evaluate(weights, hospitals), "seconds_a_round": seconds, "weights": weights[0].tolist()}))


if __name__ == "__main__":
    main()
