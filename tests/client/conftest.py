"""A site with a stub trainer: the door (service, egress, approval, runtime) is tested without torch, ray or data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_client.approval import approve
from fl_client.service import SiteService
from fl_shared.counts import recalibration_schema, statistics_schema
from fl_shared.results import Curve, EvaluationRow, Findings
from fl_shared.site import Site, load_site
from fl_shared.study import Study, load_study
from fl_shared.wire import Arrays, Reply, Request, digest, to_npy

SITE = """schema = 1
name = "drum_tower"
roles = {roles}
[modalities.ehr]
kind = "table"
[tasks.death.columns]
value = "died"
[privacy]
epsilon_cap = {cap}
allow_without_privacy = {open}
"""

STUDY = """schema = 1
name = "door"
seed = 7
[sites.drum_tower]
role = "{role}"
patients = 200
[sites.other]
role = "train"
patients = 200
[tasks.death]
type = "binary"
[modalities.ehr]
kind = "table"
fields = ["age"]
[training]
rounds = 2
steps = 3
batch = 20
encoders = "{encoders}"
[privacy]
mode = "{mode}"
{epsilon}
[rounds]
quorum = 1
deadline = 20.0
[evaluation]
salt = "saltsaltsalt"
"""

SCHEMA = {
    "fusion.proj.weight": ((3, 4), "float32"),
    "heads.death.bias": ((1,), "float32"),
    "encoders.ehr.weight": ((2, 2), "float32"),
    "adapters.ehr.weight": ((2,), "float32"),
}


class StubPool:
    """Stands in for the Ray trainer: adds random numbers, counts what it was asked."""

    def __init__(self) -> None:
        self.trained: list[tuple[int, float | None]] = []
        self.evaluated = 0
        self.judged: list[tuple[str, float | None]] = []
        self.counted: list[tuple[str, float | None]] = []
        self.count: Callable[[Any], Arrays] | None = None  # replaces counting
        self.action: Callable[[Arrays], Arrays] | None = None  # replaces training
        self.rows: list[EvaluationRow] = []
        self.curves: list[Curve] = []

    def load(self, study: Study) -> None:
        """Nothing to load."""

    def schema(self, study: Study) -> dict[str, tuple[tuple[int, ...], str]]:
        return SCHEMA

    def initial_digest(self, study: Study) -> str:
        return "1" * 64

    def train(self, study: Study, *, round: int, base: Arrays, sigma: float | None, deadline: float) -> Arrays:
        self.trained.append((round, sigma))
        if self.action is not None:
            return self.action(base)
        noise = np.random.default_rng()
        return {n: (a + noise.normal(size=a.shape)).astype(np.float32) for n, a in base.items()}

    def encoders(self, study: Study, *, deadline: float) -> Arrays:
        return {n: np.ones(s, d) for n, (s, d) in SCHEMA.items() if n.startswith(("encoders.", "adapters."))}

    def statistics(self, study: Study, *, sigma: float | None, deadline: float) -> Arrays:
        self.counted.append(("statistics", sigma))
        return self._counts(statistics_schema(study), sigma)

    def recalibration(
        self, study: Study, *, arrays: Arrays, tasks: tuple[str, ...], sigma: float | None, deadline: float
    ) -> Arrays:
        self.counted.append(("recalibrate", sigma))
        return self._counts(recalibration_schema(study, tasks), sigma)

    def _counts(self, schema: Any, sigma: float | None) -> Arrays:
        if self.count is not None:
            return self.count(schema)
        noise = np.random.default_rng()
        return {n: (np.full(s, 20) + (sigma or 0) * noise.normal(size=s)).astype(d) for n, (s, d) in schema.items()}

    def evaluate(
        self, study: Study, *, arrays: Arrays, name: str = "federated", sigma: float | None = None, deadline: float
    ) -> Findings:
        self.judged.append((name, sigma))
        self.evaluated += 1
        return Findings(evaluation=tuple(self.rows), curves=tuple(self.curves))


@dataclass
class House:
    """A site, an approved study, the service, and how to ask it."""

    site: Site
    study: Study
    study_path: Path
    pool: StubPool = field(default_factory=StubPool)

    def __post_init__(self) -> None:
        self.service = SiteService(self.site, self.pool)

    def base(self, value: float = 0.0, *, prefixes: tuple[str, ...] = ("fusion.", "heads.")) -> dict[str, Any]:
        return {n: np.full(s, value, d) for n, (s, d) in SCHEMA.items() if n.startswith(prefixes)}

    def ask(self, kind: str, *, arrays: Arrays | None = None, **changes: Any) -> tuple[Reply, dict[str, bytes]]:
        """A well-formed request, unless changed."""
        arrays = self.base() if arrays is None else arrays
        body = {"kind": kind, "study": self.study.identity, "round": 1, "base": digest(arrays), "initial": "1" * 64}
        request = Request.model_validate(body | changes)
        reply, out = self.service.handle(request.model_dump_json(), {n: to_npy(a) for n, a in arrays.items()})
        return Reply.model_validate_json(reply), out

    def ledger(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.site.state_dir / "ledger.jsonl").read_text().splitlines()]

    def restart(self) -> None:
        """The same state folder, a new process."""
        self.service = SiteService(self.site, self.pool)


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., Site]:
    def make(*, roles: str = '["train", "external"]', cap: float = 10.0, open: bool = False) -> Site:
        (tmp_path / "samples.csv").write_text("patient_id,sample_id,index_time\n")
        path = tmp_path / "site.toml"
        path.write_text(SITE.format(roles=roles, cap=cap, open=str(open).lower()))
        return load_site(path)

    return make


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    def write(*, mode: str = "patient", role: str = "train", encoders: str = "local", extra: str = "") -> Path:
        epsilon = "epsilon = 8.0" if mode == "patient" else ""
        path = tmp_path / "study.toml"
        path.write_text(STUDY.format(mode=mode, role=role, encoders=encoders, epsilon=epsilon) + extra)
        return path

    return write


@pytest.fixture
def make_house(make_site: Callable[..., Site], write_study: Callable[..., Path]) -> Callable[..., House]:
    def make(*, site: dict[str, Any] | None = None, accept: bool = True, **study: Any) -> House:
        path, here = write_study(**study), make_site(**(site or {}))
        if accept:
            approve(here, path)
        return House(site=here, study=load_study(path), study_path=path)

    return make
