"""What a design found, collected from the results of its studies: ``runs/<study>_<design>/design.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from fl_server.designs import Design
from fl_shared.metrics.table import MetricName
from fl_shared.results import EvaluationRow, Summary
from fl_shared.study import TaskType
from fl_shared.toml import Section

FILE = "design.json"
SCHEMA_PATH = Path(__file__).with_name("design.schema.json")


class DesignStudy(Section):
    """One study of a design. ``hash`` is what the sites approve; its own results lie in ``runs/<name>``."""

    arm: str = Field(description="loso: the site left out; else 'seed_2', 'federated', 'alone_va', 'pooled'")
    name: str
    hash: str
    state: Literal["finished", "waiting"]
    train: tuple[str, ...]
    external: tuple[str, ...]
    pools: dict[str, tuple[str, ...]] = Field(default={}, description="site -> the sites whose patients it holds")
    seed: int
    seconds: float | None = Field(default=None, description="of all rounds")
    epsilon_spent: dict[str, float] = Field(default={})
    notes: tuple[str, ...] = ()


class Measure(EvaluationRow):
    """A metric at a site, as the study of an arm told it (headline inputs, all patients)."""

    arm: str


class Spread(Section):
    """A metric of a site over several models: over seeds, or over the models that a left-out site helped to train.

    ``lowest`` and ``highest`` are of the models' values: no confidence interval.
    """

    site: str = Field(description="'': the summary over all sites of the role")
    role: Literal["train", "external"]
    task: str
    label: str
    modalities: str
    model: str
    metric: MetricName
    mean: float
    lowest: float
    highest: float
    sd: float | None = Field(description="sample standard deviation over models; null: of one")
    models: int


class ArmSummary(Summary):
    """A random-effects summary over sites; in a design 'loso' of every site where it was left out (arm '')."""

    arm: str


class Worst(Section):
    """The site that a model serves worst: the lowest value, of an error the highest. Seeds: by the mean over them."""

    arm: str = Field(description="'': over all arms")
    role: Literal["train", "external"]
    task: str
    label: str
    modalities: str
    model: str
    metric: MetricName
    site: str


class DesignResult(Section):
    """``design.json``."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    design: Design
    study: str
    hash: str = Field(description="of the study from which all others were derived")
    system: str
    synthetic: bool
    simulated: bool
    privacy: Literal["patient", "site", "none"]
    package: str
    tasks: dict[str, tuple[str, ...]]
    types: dict[str, TaskType]
    sites: dict[str, Literal["train", "external"]] = Field(description="as in the study from which all were derived")
    studies: tuple[DesignStudy, ...]
    measures: tuple[Measure, ...] = ()
    spreads: tuple[Spread, ...] = ()
    summaries: tuple[ArmSummary, ...] = ()
    worst: tuple[Worst, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every study has finished."""
        return all(study.state == "finished" for study in self.studies)


def schema_text() -> str:
    """The schema as it should stand in the repository."""
    return json.dumps(DesignResult.model_json_schema(by_alias=True), indent=2, ensure_ascii=False) + "\n"


def write_schema(path: Path = SCHEMA_PATH) -> None:
    """Write the schema; run after a change of a model here (``python -m fl_server.designs.result``)."""
    path.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    write_schema()
