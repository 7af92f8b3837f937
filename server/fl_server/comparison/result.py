"""What a comparison found: ``runs/<name>/comparison.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from fl_server.comparison.plan import TablePlan
from fl_shared.metrics.table import MetricName
from fl_shared.study import TaskType
from fl_shared.toml import Section

FILE = "comparison.json"
SCHEMA_PATH = Path(__file__).with_name("comparison.schema.json")
Role = Literal["train", "external"]
PartKind = Literal["attention", "importance"]


class VariantTold(Section):
    """A row of the comparison. ``native``: its fusion handles an absent modality itself."""

    name: str
    title: str
    choices: dict[str, str] = Field(default={}, description="axis -> choice; empty of one that stands alone")
    system: str
    fusion: str
    encoders: dict[str, str] = Field(description="modality -> encoder")
    native: bool
    parameters: int = Field(description="of the whole model")


class CellTold(Section):
    """One variant in one mode with one seed. ``reason``: why it was refused or failed, in words."""

    variant: str
    mode: str
    seed: int
    state: Literal["finished", "waiting", "refused", "failed"]
    reason: str = ""
    runs: tuple[str, ...] = Field(default=(), description="folders of its studies (mode local: one a training site)")
    seconds: float | None = Field(default=None, description="of its own work, wherever that ran")
    epsilon_spent: dict[str, float] = Field(default={})


class Coordinates(Section):
    """Where a number belongs. ``site`` '': the random-effects summary over the sites of the role."""

    variant: str
    mode: str
    role: Role
    site: str
    task: str
    label: str
    modalities: str
    subgroup: str = ""
    metric: MetricName


class Number(Coordinates):
    """A metric, over seeds: the mean of the seeds' values and of the ends of their 95 % intervals.

    The interval is of patients (and sites, of a summary); ``lowest`` and ``highest`` are of the seeds' values. Mode
    local: the mean over the training sites' own models.
    """

    value: float | None
    low: float | None
    high: float | None
    lowest: float | None = None
    highest: float | None = None
    seeds: int
    note: str = ""


class Contrast(Coordinates):
    """A variant less the reference, on the same patients.

    Over seeds: the mean difference; its variance is the mean of the seeds' variances (the patients are the same) plus
    that of the mean over seeds. ``p``: two-sided, of a normal statistic; ``p_holm``: adjusted over all variants with
    the other coordinates alike (Holm 1979).
    """

    against: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    seeds: int
    note: str = ""

    @property
    def noise(self) -> bool:
        """Whether the difference may well be none: p_holm is .05 or more."""
        return self.p_holm is None or self.p_holm >= 0.05


class Part(Section):
    """What a model makes of a part of its inputs at a site; means over seeds, as of a `Number`.

    kind: ``attention``, the share that modality ``name`` gets; ``importance``, what the headline metric of a task loses
    without the group of fields ``name`` (`evaluation.feature_groups`).
    """

    kind: PartKind
    variant: str
    mode: str
    role: Role
    site: str
    task: str = Field(default="", description="of importance")
    label: str = ""
    metric: MetricName | None = Field(default=None, description="of importance")
    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    seeds: int
    note: str = ""


class ComparisonResult(Section):
    """``comparison.json``."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    title: str
    study: str
    hash: str = Field(description="of the study from which all were derived")
    synthetic: bool
    package: str
    reference: str
    axes: dict[str, dict[str, str]] = Field(description="axis -> choice -> title")
    modes: tuple[str, ...]
    seeds: tuple[int, ...]
    tasks: dict[str, tuple[str, ...]]
    types: dict[str, TaskType]
    headline: dict[str, str] = Field(description="task -> inputs of its headline")
    sites: dict[str, Role]
    variants: tuple[VariantTold, ...]
    cells: tuple[CellTold, ...]
    numbers: tuple[Number, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    parts: tuple[Part, ...] = ()
    tables: tuple[TablePlan, ...] = ()
    workers: int = Field(default=1, description="cells at a time in the last run")
    wall_seconds: float | None = Field(default=None, description="of the last run that trained every cell; else null")
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing waits."""
        return all(cell.state != "waiting" for cell in self.cells)


def schema_text() -> str:
    """The schema as it should stand in the repository."""
    return json.dumps(ComparisonResult.model_json_schema(by_alias=True), indent=2, ensure_ascii=False) + "\n"


def write_schema(path: Path = SCHEMA_PATH) -> None:
    """Write the schema; run after a change of a model here (``python -m fl_server.comparison.result``)."""
    path.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    write_schema()
