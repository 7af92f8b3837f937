"""Label columns -> targets; an empty cell is unlabelled, never negative."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data.findings import Findings
from fl_client.data.table import coded, lines
from fl_shared.errors import Fault, nearest
from fl_shared.site import Site
from fl_shared.study import TaskPlan

BINARY = "value"  # how site.toml names the single label of a binary task


def task_columns(site: Site, tasks: Mapping[str, TaskPlan], *, findings: Findings) -> dict[str, str]:
    """Column -> the task that needs it; tasks and labels that the site does not map are rejects."""
    needed: dict[str, str] = {}
    for task, plan in tasks.items():
        mapped = site.tasks.get(task)
        if mapped is None:
            mend = f"Add [tasks.{task}]. " + (nearest(task, site.tasks) if site.tasks else "No task is mapped yet.")
            key, problem = f"tasks.{task}", "the study's task is not mapped"
            findings.rejects.append(Fault(file="site.toml", key=key, problem=problem, mend=mend))
            continue
        for label in plan.names:
            name = label or BINARY
            if name in mapped.columns:
                needed[mapped.columns[name]] = f"task {task}"
            else:
                key, problem = f"tasks.{task}.columns.{name}", "the study's label is not mapped"
                fault = Fault(file="site.toml", key=key, problem=problem, mend=nearest(name, mapped.columns))
                findings.rejects.append(fault)
    return needed


def read_labels(
    frame: pd.DataFrame, *, site: Site, tasks: Mapping[str, TaskPlan], file: str, findings: Findings
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.bool_]]]:
    """Task -> targets (N, C) float32, 0 where unlabelled, and mask (N, C); unknown codes are rejects."""
    targets: dict[str, NDArray[np.float32]] = {}
    masks: dict[str, NDArray[np.bool_]] = {}
    for task, plan in tasks.items():
        values = np.full((len(frame), len(plan.names)), np.nan)
        mapped = site.tasks.get(task)
        for c, label in enumerate(plan.names):
            column = mapped.columns.get(label or BINARY) if mapped else None
            if mapped is None or column not in frame:
                continue  # told by `task_columns` or `table.require`
            values[:, c], unknown = coded(frame[column], mapped.codes)
            bad = pd.Series(unknown, index=frame.index)
            findings.reject_values(
                file=file,
                key=str(column),
                rows=lines(bad),
                values=frame.loc[bad, column],
                problem="unknown label code",
                mend=f"Known: {', '.join(mapped.codes)} (tasks.{task}.codes).",
            )
        masks[task] = np.isfinite(values)
        targets[task] = np.nan_to_num(values).astype(np.float32)
    return targets, masks
