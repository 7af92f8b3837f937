"""Fed-Heart-Disease as FLamby publishes it (Ogier du Terrail et al., NeurIPS 2022): its split, features and training.

Columns 10-12 and then rows with gaps dropped, columns 2 and 6 one-hot (13 features), 66/34 split of each centre with
seed 43, logistic regression, batches of 4. FedAvg: 15 rounds of 100 steps of SGD at rate 0.001, mean weighted by
training rows, features standardised by each centre's training rows. Pooled: 50 epochs of Adam at rate 0.001 on all
training rows, standardised by the statistics of all of them; but the test rows stay standardised by their own centre's
(so the release computes its per-centre figures: with the centres' statistics throughout it would be .7146, not .7353).

A plain loop: no missing values, one-hot columns and statistics of a site's own patients have no place in a study. Of
the product: the server's weighted mean, the site's optimiser, the metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from fl_client.training.optimizer import Optimizer
from fl_server.aggregation import weighted_mean
from fl_shared.study import Study, TrainingPlan

CENTRES = {"cleveland": "cleveland", "hungary": "hungarian", "switzerland": "switzerland", "va": "va"}
"""Site of the importer -> word in the file's name."""
BATCH, ROUNDS, UPDATES, EPOCHS, RATE = 4, 15, 100, 50, 1e-3
SPLIT_SEED, TRAIN_SHARE = 43, 0.66
TINY = 1e-9  # added to standard deviations

Floats: TypeAlias = NDArray[np.float32]
Weights: TypeAlias = dict[str, NDArray[np.float32]]  # of a torch.nn.Linear


@dataclass(frozen=True, kw_only=True)
class Centre:
    """Features (n, 13) and labels (n,); numbers: (n,) line of each row in its file, from 1; train, test: rows."""

    x: Floats
    y: Floats
    numbers: NDArray[np.int64]
    train: NDArray[np.int64]
    test: NDArray[np.int64]


def read_centres(folder: Path) -> dict[str, Centre]:
    """The four centres' raw features; 199/104, 172/89, 30/16 and 85/45 training and test rows, in the file's order."""
    import pandas as pd

    tables = {}
    for name, word in CENTRES.items():
        table = pd.read_csv(folder / f"processed.{word}.data", header=None, na_values="?")
        tables[name] = table.drop(columns=[10, 11, 12]).dropna()
    rows = pd.concat(tables)
    labels = pd.Series(rows[13] > 0, dtype=np.float32)
    features = pd.get_dummies(rows.drop(columns=[13]), columns=[2, 6], drop_first=True).astype(np.float32)
    found = {}
    for name in tables:
        y = labels.loc[[name]].to_numpy()
        train, test = _split(y)
        numbers = tables[name].index.to_numpy() + 1
        found[name] = Centre(x=features.loc[name].to_numpy(), y=y, numbers=numbers, train=train, test=test)
    return found


def _split(y: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from sklearn.model_selection import train_test_split

    stratify = y if np.bincount(y.astype(int), minlength=2).min() > 2 else None
    train, test = train_test_split(
        np.arange(len(y)),
        train_size=TRAIN_SHARE,
        test_size=1 - TRAIN_SHARE,
        random_state=SPLIT_SEED,
        stratify=stratify,
    )
    return np.sort(train), np.sort(test)


def folds(centres: Mapping[str, Centre], *, number: int, seed: int) -> Iterator[dict[str, Centre]]:
    """The training rows split again: each a test row once. The judged rows are in none."""
    draw = np.random.default_rng(seed)
    part = {name: dealt(centre.y[centre.train], number=number, draw=draw) for name, centre in centres.items()}
    for fold in range(number):
        yield {
            name: replace(c, train=c.train[part[name] != fold], test=c.train[part[name] == fold])
            for name, c in centres.items()
        }


def dealt(y: NDArray[np.floating], *, number: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """A fold (n,) for each row, dealt out within each class in random order."""
    order = np.lexsort((draw.random(len(y)), y))
    part = np.empty(len(y), dtype=np.int64)
    part[order] = np.arange(len(y)) % number
    return part


Scale: TypeAlias = Literal["own", "all"]


def standardised(centres: Mapping[str, Centre], *, train: Scale = "own") -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Training features by the centre's ``own`` training rows or by those of ``all``, labels, test features (own)."""
    every = np.concatenate([c.x[c.train] for c in centres.values()])
    found = {}
    for name, centre in centres.items():
        mine = centre.x[centre.train]
        x = _by(mine, mine if train == "own" else every)
        y = torch.from_numpy(centre.y[centre.train])
        found[name] = torch.from_numpy(x), y, torch.from_numpy(_by(centre.x[centre.test], mine))
    return found


def _by(x: Floats, rows: Floats) -> Floats:
    scaled: Floats = (x - rows.mean(0)) / (rows.std(0, ddof=1) + TINY)
    return scaled


def pooled(centres: Mapping[str, Centre], *, seed: int) -> dict[str, Floats]:
    """Centre -> predicted risks of its test rows, of one model of all centres' rows."""
    data = standardised(centres, train="all")
    model = _initial(seed)
    x, y = (torch.cat([each[k] for each in data.values()]) for k in (0, 1))
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    optimizer = Optimizer(dict(model.named_parameters()), _plan(optimizer="adam", rate=RATE))
    for _ in range(EPOCHS):
        for batch in loader:
            _step(model, optimizer, batch)
    return {name: _risks(model, test) for name, (_, _, test) in data.items()}


def federated(
    centres: Mapping[str, Centre], study: Study, *, seed: int, rate: float = RATE, finetune: tuple[int, ...] = ()
) -> dict[int, dict[str, Floats]]:
    """FedAvg (0), and each centre's model after some further steps of its own: steps -> centre -> risks.

    Args:
        centres: whose training rows are trained on.
        study: names the sites and their training rows (the weights of the mean).
        seed: of the first weights and of all batches.
        rate: of SGD.
        finetune: numbers of steps after the last round, ascending.
    """
    data = standardised(centres)
    batches = {name: _Batches(x, y) for name, (x, y, _) in data.items()}
    model = _initial(seed)
    plan = _plan(optimizer="sgd", rate=rate)

    def trained(base: Weights, name: str, steps: int) -> Weights:
        _load(model, base)
        optimizer = Optimizer(dict(model.named_parameters()), plan)
        for _ in range(steps):
            _step(model, optimizer, next(batches[name]))
        return {key: value.numpy().copy() for key, value in model.state_dict().items()}

    base: Weights = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    for _ in range(ROUNDS):
        updates = {name: trained(base, name, UPDATES) for name in data}
        base = {
            key: np.asarray(v, np.float32) for key, v in weighted_mean(study=study, base=base, updates=updates).items()
        }
    risks: dict[int, dict[str, Floats]] = {steps: {} for steps in (0, *finetune)}
    for name, (_, _, test) in data.items():
        mine, done = base, 0
        for steps in risks:
            mine, done = trained(mine, name, steps - done), steps
            _load(model, mine)
            risks[steps][name] = _risks(model, test)
    return risks


def _initial(seed: int) -> torch.nn.Linear:
    """The release seeds twice: before the first weights and before the batches."""
    torch.manual_seed(seed)
    model = torch.nn.Linear(13, 1)
    torch.manual_seed(seed)
    return model


class _Batches:
    """Endless shuffled epochs, the last batch of each as small as what is left.

    As in the release the first epoch is begun before the seed is set: a loader takes a random number of its own then.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
        self._epoch = iter(self._loader)

    def __next__(self) -> tuple[Tensor, Tensor]:
        if (batch := next(self._epoch, None)) is None:
            self._epoch = iter(self._loader)
            batch = next(self._epoch)
        return batch[0], batch[1]


def _step(model: torch.nn.Linear, optimizer: Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    parameters = dict(model.named_parameters())
    loss = binary_cross_entropy_with_logits(model(x)[:, 0], y)
    optimizer.step(dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True)))


def _load(model: torch.nn.Linear, weights: Weights) -> None:
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})


@torch.no_grad()
def _risks(model: torch.nn.Linear, x: Tensor) -> Floats:
    return np.asarray(model(x)[:, 0].sigmoid().numpy())


@lru_cache
def _plan(*, optimizer: str, rate: float) -> TrainingPlan:
    phases = ({"name": "all", "rounds": 1},)
    body = {"rounds": 1, "steps": 1, "batch": BATCH, "optimizer": optimizer, "learning_rate": rate, "phases": phases}
    return TrainingPlan.model_validate(body)
