"""The headline numbers of one task under one model, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from fl_server.designs.result import ArmSummary, DesignResult, Measure, Spread, Worst
from fl_server.report.view import NO_VALUE, ROLE_NAMES, estimate
from fl_shared.metrics.table import METRICS, MetricName, metrics_of

Told = TypeVar("Told", Measure, Spread, ArmSummary, Worst)


class Part:
    """What of a design's result belongs to a task's headline under a model."""

    def __init__(self, result: DesignResult, task: str, model: str) -> None:
        self.result, self.task, self.model = result, task, model
        labels = result.tasks[task]
        self.label = "macro" if len(labels) > 1 and labels[0] else labels[0]
        self.name = metrics_of(result.types[task])[0]
        self.metric = METRICS[self.name]
        self.rows = self._of(result.measures)
        self.spreads = self._of(result.spreads)
        self.summaries = self._of(result.summaries)
        self.worst = self._of(result.worst)
        self.arms = [study.arm for study in result.studies]

    def _of(self, items: Iterable[Told]) -> list[Told]:
        wanted = (self.task, self.model, self.label, self.name)
        return [item for item in items if (item.task, item.model, item.label, item.metric) == wanted]

    @property
    def sites(self) -> list[str]:
        """External ones first, as in the study from which all were derived."""
        roles = self.result.sites
        return sorted(roles, key=lambda name: (roles[name] != "external", name))

    def titled(self, site: str) -> str:
        """``va (external)``."""
        return f"{site} ({ROLE_NAMES[self.result.sites[site]]})"

    def row(self, site: str, arm: str) -> Measure | None:
        """What a site told in an arm."""
        return next((row for row in self.rows if (row.site, row.arm) == (site, arm)), None)

    def summary(self, role: str) -> dict[str, ArmSummary]:
        """Arm -> summary over the sites of a role."""
        return {one.arm: one for one in self.summaries if one.role == role}

    def cell(self, row: Measure | ArmSummary | None) -> str:
        """``0.812 (0.741–0.883)``, or why there is no value."""
        if row is None:
            return NO_VALUE
        return estimate(row) if row.value is not None else row.note or NO_VALUE

    def spread(self, site: str, role: str) -> str:
        """``0.81 (range 0.79–0.83, 3 models)``; of the summary over sites where ``site`` is ''."""
        found = next((one for one in self.spreads if (one.site, one.role) == (site, role)), None)
        if found is None:
            return NO_VALUE
        ends = f"{number(self.name, found.lowest)}–{number(self.name, found.highest)}"
        return f"{number(self.name, found.mean)} (range {ends}, {found.models} models)"

    def is_worst(self, site: str) -> bool:
        """Whether some role's worst site is this one."""
        return any(one.site == site for one in self.worst)


def number(name: MetricName, value: float) -> str:
    """Three decimals of a share, four digits of what has a unit."""
    return f"{value:.4g}" if METRICS[name].in_unit else f"{value:.3f}"


def arm_name(arm: str) -> str:
    """``seed 2``, ``va alone``."""
    if arm.startswith("alone_"):
        return f"{arm.removeprefix('alone_')} alone"
    return arm.replace("seed_", "seed ")
