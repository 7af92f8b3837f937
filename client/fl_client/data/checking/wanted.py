"""What `check` reads: what a study wants or, without one, everything that the site maps, on common grids."""

from __future__ import annotations

from collections.abc import Mapping

from fl_client.data.labels import NONE
from fl_client.data.load import Wanted
from fl_shared.concepts import names
from fl_shared.site import CineFiles, ColumnMap, EventTable, Modality, Site, TaskMap
from fl_shared.study import EvaluationPlan, ModalityPlan, Study, TaskPlan, TaskType

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
HOURS = 48.0  # of events, in hourly bins


def wanted_by(study: Study | None, site: Site) -> tuple[Wanted, tuple[str, ...]]:
    """What the study wants, or all that the site maps, and words on what cannot be read without a study."""
    return (Wanted.by(study), ()) if study is not None else _everything(site)


def _everything(site: Site) -> tuple[Wanted, tuple[str, ...]]:
    modalities: dict[str, ModalityPlan] = {}
    tasks: dict[str, TaskPlan] = {}
    left_out = []
    for name, mapped in site.modalities.items():
        plan = _modality(mapped, site)
        if isinstance(plan, str):
            left_out.append(f"modality {name}: {plan}")
        else:
            modalities[name] = plan
    for name, task in site.tasks.items():
        found = _task(task, site)
        if isinstance(found, str):
            left_out.append(f"task {name}: {found}")
        else:
            tasks[name] = found
    evaluation = EvaluationPlan(salt="no study yet")
    return Wanted(modalities=modalities, tasks=tasks, evaluation=evaluation), tuple(left_out)


def _modality(mapped: Modality, site: Site) -> ModalityPlan | str:
    """Its plan, or why there is none."""
    if mapped.kind == "waveform":
        return ModalityPlan(kind="waveform", leads=LEADS, rate=100.0, seconds=10.0)
    if mapped.kind == "embedding":
        return "only a study tells the length of its vectors: add --study"
    if isinstance(mapped, EventTable):
        fields = _concepts(mapped.codes)
        plan = ModalityPlan(kind="events", fields=fields, hours=HOURS) if fields else None
        return plan or "no code is mapped to a known concept"
    if mapped.kind == "table":
        fields = _concepts(site.columns)
        return ModalityPlan(kind="table", fields=fields) if fields else "no column is mapped to a known concept"
    return ModalityPlan(kind=mapped.kind)


def _concepts(columns: Mapping[str, ColumnMap]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(m.concept for m in columns.values() if m.concept in names()))


def _task(task: TaskMap, site: Site) -> TaskPlan | str:
    """Its plan, or why there is none."""
    kind = task.type or _type(task)
    if kind in ("competing", "segmentation"):
        return _with_classes(kind, task, site)
    labels: tuple[str, ...] = ()
    if kind == "multilabel":
        labels = tuple(task.columns)
    if kind == "multiclass":
        labels = tuple(dict.fromkeys(task.classes.values()))
    if kind in ("multilabel", "multiclass") and len(labels) < 2:
        where = "columns" if kind == "multilabel" else "classes"
        return f"a {kind} task needs two or more labels. Name them in its '{where}', or add --study"
    return TaskPlan(type=kind, labels=labels)


def _with_classes(kind: TaskType, task: TaskMap, site: Site) -> TaskPlan | str:
    """Causes, or structures on the site's only cine with masks."""
    labels = tuple(label for label in dict.fromkeys(task.classes.values()) if label != NONE)
    if not labels:
        return f"a {kind} task needs labels. Name them in its 'classes', or add --study"
    if kind == "competing":
        return TaskPlan(type=kind, labels=labels)
    drawn = [name for name, files in site.modalities.items() if isinstance(files, CineFiles) and files.mask_column]
    if len(drawn) != 1:
        return "not one cine has a 'mask_column': add --study"
    return TaskPlan(type=kind, labels=labels, modality=drawn[0])


def _type(task: TaskMap) -> TaskType:
    if {"time", "event"} <= set(task.columns):
        return "survival"
    if {"time", "cause"} <= set(task.columns):
        return "competing"
    if len(task.columns) > 1:
        return "multilabel"
    return "multiclass" if task.classes else "binary"
