"""The tables of a comparison whose file names none."""

from __future__ import annotations

from collections.abc import Iterator

from fl_server.comparison.plan import FEDERATED, TablePlan
from fl_server.comparison.result import ComparisonResult
from fl_server.comparison.words import hidden_share


def tables_of(result: ComparisonResult) -> tuple[TablePlan, ...]:
    """Those of its file, or for every task what a reader looks for first."""
    return result.tables or tuple(plan for task in result.tasks for plan in _tables(result, task))


def winners(task: str) -> TablePlan:
    """Every variant in every mode, external before internal, by the headline of a task."""
    only = {"task": (task,), "role": ("external", "train")}
    return TablePlan(title=task, rows=("variant",), columns=("mode", "role"), only=only, picture="none")


def _tables(result: ComparisonResult, task: str) -> Iterator[TablePlan]:
    only: dict[str, tuple[str, ...]] = {"task": (task,)}
    mode = FEDERATED if FEDERATED in result.modes else result.modes[0]
    both = len(set(result.sites.values())) > 1
    if len(result.modes) > 1 or not both:
        yield TablePlan(title=f"Variants on {task}", rows=("variant",), columns=("mode",), only=only)
    if both:
        yield TablePlan(
            title=f"Internal beside external on {task}",
            rows=("variant",),
            columns=("role",),
            only={**only, "mode": (mode,)},
        )
    if len(result.axes) == 2:
        rows, columns = result.axes
        yield TablePlan(
            title=f"{rows} by {columns} on {task}", rows=(rows,), columns=(columns,), only={**only, "mode": (mode,)},
            picture="heat",
        )  # fmt: skip
    hidden = sorted({n.subgroup for n in result.numbers if n.subgroup and hidden_share(n.subgroup)}, key=_share)
    if hidden:
        yield TablePlan(
            title=f"Missing inputs on {task}", rows=("variant",), columns=("subgroup",),
            only={**only, "mode": (mode,), "subgroup": ("", *hidden)}, picture="lines",
        )  # fmt: skip


def _share(subgroup: str) -> float:
    return hidden_share(subgroup) or 0.0
