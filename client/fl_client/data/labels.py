"""Label columns -> targets; an empty cell is unlabelled, never negative."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data.findings import Findings
from fl_client.data.table import coded, lines, numbers
from fl_shared.errors import Fault, nearest
from fl_shared.site import Site, TaskMap
from fl_shared.study import TIMED, TaskPlan

VALUE = "value"  # how site.toml names the single column of a task
DAYS = {"d": 1.0, "wk": 7.0, "mo": 30.4375, "a": 365.25, "h": 1 / 24}
"""UCUM units of a survival time."""
NONE = "none"  # among the classes of competing causes: nothing had happened by the time
LARGEST = 1e9  # of a number or of days


def task_columns(site: Site, tasks: Mapping[str, TaskPlan], *, findings: Findings) -> dict[str, str]:
    """Column -> the task that needs it; tasks and labels that the site does not map are rejects.

    But for a segmentation that it does not map: its rows are nowhere labelled there (`fl_client.data.drawn`).
    """
    needed: dict[str, str] = {}
    for task, plan in tasks.items():
        mapped = site.tasks.get(task)
        if mapped is None and plan.type == "segmentation":
            continue
        if mapped is None:
            mend = f"Add [tasks.{task}]. " + (nearest(task, site.tasks) if site.tasks else "No task is mapped yet.")
            key, problem = f"tasks.{task}", "the study's task is not mapped"
            findings.rejects.append(Fault(file="site.toml", key=key, problem=problem, mend=mend))
            continue
        _check_map(task, plan, mapped, findings=findings)
        for label in plan.names:
            name = label or VALUE
            if name in mapped.columns:
                needed[mapped.columns[name]] = f"task {task}"
            else:
                key, problem = f"tasks.{task}.columns.{name}", "the study's label is not mapped"
                fault = Fault(file="site.toml", key=key, problem=problem, mend=nearest(name, mapped.columns))
                findings.rejects.append(fault)
    return needed


def _check_map(task: str, plan: TaskPlan, mapped: TaskMap, *, findings: Findings) -> None:
    if mapped.type != plan.type and (mapped.type is not None or plan.type == "segmentation"):
        key, problem = f"tasks.{task}.type", f"the study has '{plan.type}'"
        mend = "Map the task that the study means."
        findings.rejects.append(Fault(file="site.toml", key=key, value=mapped.type or "", problem=problem, mend=mend))
    if plan.type in TIMED and (mapped.unit or "d") not in DAYS:
        key, mend = f"tasks.{task}.unit", f"Known: {', '.join(DAYS)} (UCUM)."
        value = str(mapped.unit)
        findings.rejects.append(Fault(file="site.toml", key=key, value=value, problem="no unit of time", mend=mend))
    if plan.type in ("multiclass", "competing", "segmentation") and mapped.type in (None, plan.type):
        _check_classes(task, plan, mapped, findings=findings)


def _check_classes(task: str, plan: TaskPlan, mapped: TaskMap, *, findings: Findings) -> None:
    known, key = {*plan.labels} | ({NONE} if plan.type == "competing" else set()), f"tasks.{task}.classes"
    if strange := sorted(set(mapped.classes.values()) - known):
        value, mend = ", ".join(strange), f"The study's labels: {', '.join(plan.labels)}."
        findings.rejects.append(Fault(file="site.toml", key=key, value=value, problem="unknown label", mend=mend))
    absent = [label for label in plan.labels if label not in mapped.classes.values()]
    if plan.type == "segmentation" and mapped.classes and absent:
        # as background it would be taught to be absent where it is
        value, mend = ", ".join(absent), "Give its number in the masks, or remove the task: then nothing is labelled."
        problem = "the study's label is not mapped"
        findings.rejects.append(Fault(file="site.toml", key=key, value=value, problem=problem, mend=mend))


def read_labels(
    frame: pd.DataFrame, *, site: Site, tasks: Mapping[str, TaskPlan], file: str, findings: Findings
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.bool_]]]:
    """Task -> targets (N, C) float32, 0 where unlabelled, and mask (N, C); unknown codes are rejects.

    C are `TaskPlan.names`: 0 or 1 a label; the number of the class; a number; days and event; days and the number of
    the cause, where an empty cell beside a time is 0, censored. A time is known with its event or cause, or neither is.
    Segmentations are left out: they are files.
    """
    targets: dict[str, NDArray[np.float32]] = {}
    masks: dict[str, NDArray[np.bool_]] = {}
    for task, plan in tasks.items():
        if plan.type == "segmentation":
            continue
        values = np.full((len(frame), len(plan.names)), np.nan)
        mapped = site.tasks.get(task)
        for c, label in enumerate(plan.names):
            column = mapped.columns.get(label or VALUE) if mapped else None
            if mapped is None or column not in frame:
                continue  # told by `task_columns` or `table.require`
            values[:, c] = _column(frame[column], task, plan, label, mapped, file=file, findings=findings)
        if plan.type == "competing":
            values[np.isfinite(values[:, 0]) & np.isnan(values[:, 1]), 1] = 0
        if plan.type in TIMED:
            values = _both(values, f"{task}: time or {plan.names[1]}", findings=findings)
        masks[task] = np.isfinite(values)
        targets[task] = np.nan_to_num(values).astype(np.float32)
    return targets, masks


def _column(
    column: pd.Series, task: str, plan: TaskPlan, label: str, mapped: TaskMap, *, file: str, findings: Findings
) -> NDArray[np.float64]:
    """Values (N,), NaN where unlabelled."""
    if plan.type == "regression" or label == "time":
        values, _, wrong = numbers(column)
        values = values * (DAYS.get(mapped.unit or "d", 1.0) if label == "time" else 1.0)
        wrong = wrong | (np.abs(values) > LARGEST)
        problem, mend = "not a number, or too large", "Write a number with a decimal point, or leave the cell empty."
    elif plan.type in ("multiclass", "competing"):
        names = mapped.classes or {name: name for name in plan.labels}
        labels = plan.labels if plan.type == "multiclass" else (NONE, *plan.labels)
        codes = {code: float(labels.index(name)) for code, name in names.items() if name in labels}
        values, wrong = coded(column, codes)
        problem, mend = "unknown class", f"Known: {', '.join(codes)} (tasks.{task}.classes)."
    else:
        values, wrong = coded(column, mapped.codes)
        problem, mend = "unknown label code", f"Known: {', '.join(mapped.codes)} (tasks.{task}.codes)."
    bad = pd.Series(wrong, index=column.index)
    findings.reject_values(
        file=file, key=str(column.name), rows=lines(bad), values=column[bad], problem=problem, mend=mend
    )
    return values


def outcome_before_index(frame: pd.DataFrame, *, site: Site, tasks: Mapping[str, TaskPlan]) -> pd.Series:
    """Rows (N,) bool whose outcome was known at the index time: a time to it of 0 or less."""
    early = pd.Series(False, index=frame.index)
    for task, plan in tasks.items():
        mapped = site.tasks.get(task)
        if plan.type in TIMED and mapped is not None and mapped.columns.get("time") in frame:
            early |= numbers(frame[mapped.columns["time"]])[0] <= 0
    return early


def _both(values: NDArray[np.float64], what: str, *, findings: Findings) -> NDArray[np.float64]:
    """Time and event (or cause) are known together or not at all."""
    half = np.isfinite(values).sum(axis=1) == 1
    if half.any():
        findings.repairs[f"{what} missing, both set missing"] += int(half.sum())
    return np.where(half[:, None], np.nan, values)
