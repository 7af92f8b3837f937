"""A study and a fleet for tests of the coordinator. The fleet is a FAKE: sites in memory that move a toy vector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fl_server.fleet import Missing
from fl_shared.results import EvaluationRow
from fl_shared.study import Study
from fl_shared.wire import Code, Reply, digest

SITES = {"aarau": 100, "basel": 300, "chur": 250}
TARGETS = {"aarau": 1.0, "basel": -2.0, "chur": 0.3, "davos": 0.5, "pooled": 0.0}


def build_study(**changes) -> Study:
    plan = {
        "schema": 1,
        "name": "toy",
        "seed": 7,
        "sites": {name: {"role": "train", "patients": n} for name, n in SITES.items()}
        | {"davos": {"role": "external"}},
        "tasks": {"mace": {"type": "binary"}},
        "modalities": {"ecg": {"kind": "waveform", "leads": ["I"], "rate": 100, "seconds": 10}},
        "training": {"rounds": 3, "steps": 1, "batch": 10},
        "privacy": {"mode": "none"},
        "rounds": {"quorum": 2, "deadline": 1.0, "max_norm": 100.0},
        "evaluation": {"salt": "saltsalt"},
    }
    for key, value in changes.items():
        plan[key] = {**plan.get(key, {}), **value} if isinstance(value, dict) else value
    return Study.model_validate(plan)


def initial_model() -> dict[str, np.ndarray]:
    return {
        "heads.mace.scale": np.array(0.5, dtype=np.float32),
        "fusion.weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
        "heads.mace.steps": np.array([3], dtype=np.int64),
        "encoders.ecg.weight": np.full(4, 0.1, dtype=np.float32),
    }


class FakeFleet:
    """Fake sites: a training step moves a third of the way to the site's own target; one epsilon a new request.

    ``faults[site, kind, round]`` replaces the answer: a reason (`Missing`), a `Code` (refused) or a function of
    (reply, arrays). ``asked`` lists every question; answers are kept by (kind, round, base) as a site's outbox does.
    """

    def __init__(self, study: Study, faults: dict | None = None) -> None:
        self.study, self.faults, self.asked = study, faults or {}, []
        self.epsilon = dict.fromkeys(study.sites, 0.0)
        self.outbox: dict = {}

    def hello(self, requests, *, deadline, arrived):
        questions = {site: (request, {}) for site, request in requests.items()}
        return self.ask(questions, deadline=deadline, arrived=arrived)

    def ask(self, questions, *, deadline, arrived):
        return {site: self._answer(site, request, arrays, arrived) for site, (request, arrays) in questions.items()}

    def _answer(self, site, request, arrays, arrived):
        self.asked.append((request.kind, site, request.round))
        if request.kind == "encoders" and request.round != self.study.training.rounds:
            return Reply(status="refused", code=Code.EGRESS, site=site), {}  # as the real site: after the last round
        if request.base != digest(arrays) or request.study != self.study.identity:
            return Reply(status="refused", code=Code.BAD_REQUEST, site=site), {}
        fault = self.faults.get((site, request.kind, request.round))
        if isinstance(fault, Code):
            return Reply(status="refused", code=fault, site=site), {}
        if isinstance(fault, str):
            return Missing(reason=fault)
        key = (site, request.kind, request.round, request.base)
        if key not in self.outbox:
            self.epsilon[site] += 1.0 if request.kind == "train" else 0.0
            self.outbox[key] = self._work(site, request, arrays)
        arrived(site)
        answer = (
            Reply(
                status="ok",
                site=site,
                role=self.study.sites[site].role,
                approved=True,
                epsilon=self.epsilon[site] or None,
                evaluation=self._rows(site) if request.kind == "evaluate" else (),
            ),
            self.outbox[key],
        )
        return fault(*answer) if fault else answer

    def _work(self, site, request, arrays):
        if request.kind == "train":
            return {name: (a + (TARGETS[site] - a) / 3).astype(a.dtype) for name, a in arrays.items()}
        if request.kind == "encoders":
            return {"encoders.ecg.weight": np.full(4, TARGETS[site] / 7, dtype=np.float32)}
        return {}

    def _rows(self, site) -> tuple[EvaluationRow, ...]:
        role = self.study.sites[site].role
        return (
            EvaluationRow(
                site=site, role=role, task="mace", label="", modalities="all", model="federated", metric="auroc",
                value=0.7, ci_low=0.6, ci_high=0.8, n=40, events=9,
            ),
        )  # fmt: skip


@pytest.fixture
def make_study() -> Callable[..., Study]:
    return build_study


@pytest.fixture
def initial() -> dict[str, np.ndarray]:
    return initial_model()


@pytest.fixture
def make_fleet() -> Callable[..., FakeFleet]:
    return FakeFleet
