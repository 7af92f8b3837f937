"""A site's files -> its cohort for one study, with every fault told at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data.arrays import keep
from fl_client.data.cohort import CheckReport, Cohort, Quarantined
from fl_client.data.ehr import columns_of
from fl_client.data.findings import Findings
from fl_client.data.labels import outcome_before_index, read_labels, task_columns
from fl_client.data.modalities import Progress, Reader
from fl_client.data.table import REQUIRED, check_ids, check_splits, lines, read_samples, require, times
from fl_client.data.traits import paired_groups, read_traits, trait_columns
from fl_shared import concepts
from fl_shared.errors import ConsiliumError, ExitCode, Fault, nearest
from fl_shared.site import FileModality, Site, TableModality
from fl_shared.study import EvaluationPlan, ModalityPlan, Study, TaskPlan, is_held_out
from fl_shared.subgroups import PAIRED

T = TypeVar("T", bound=np.generic)
WORKERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be read: the data side of a study; ``patients``: of these only (all, with None)."""

    modalities: Mapping[str, ModalityPlan]
    tasks: Mapping[str, TaskPlan]
    evaluation: EvaluationPlan
    patients: frozenset[str] | None = None

    @classmethod
    def by(cls, study: Study) -> Wanted:
        """What a study wants."""
        return cls(modalities=study.modalities, tasks=study.tasks, evaluation=study.evaluation)


def load_cohort(
    site: Site, study: Study, *, workers: int = WORKERS, progress: Progress | None = None
) -> tuple[Cohort, CheckReport]:
    """Read everything that the study needs.

    Unusable samples and modalities are quarantined: absent from the cohort, listed in the report.

    Raises:
        ConsiliumError: the site's data are rejected (exit code 12); all faults are listed at once.
    """
    cohort, report = read_cohort(site, Wanted.by(study), workers=workers, progress=progress)
    if cohort is None:
        message = f"{site.name}: the data are rejected, {len(report.rejects)} fault(s)"
        raise ConsiliumError(message, code=ExitCode.DATA, faults=report.rejects)
    return cohort, report


def read_cohort(
    site: Site, wanted: Wanted, *, workers: int = WORKERS, progress: Progress | None = None
) -> tuple[Cohort | None, CheckReport]:
    """As `load_cohort`, but rejects are only reported; then there is no cohort."""
    findings, file = Findings(part=wanted.patients is not None), site.samples_path.name
    frame = read_samples(site.samples_path, encoding=site.encoding, findings=findings)
    rows = len(frame)
    needed = _needed_columns(site, wanted, findings=findings)
    if rows:
        require(frame, needed, file=file, findings=findings)
    elif not any(fault.file == file for fault in findings.rejects):
        findings.rejects.append(Fault(file=file, key="(rows)", problem="the table is empty", mend="Add samples."))
    if any(name not in frame for name in REQUIRED):
        return None, findings.report(rows=rows)

    check_ids(frame, file=file, findings=findings)
    check_splits(frame, file=file, findings=findings)
    if wanted.patients is not None:
        frame = frame[frame["patient_id"].isin(wanted.patients)]
    # sorted first, so that nothing downstream depends on the order of the file; the index still tells the line
    frame = _in_time(frame.sort_values(["patient_id", "sample_id"], kind="stable"), site, findings)
    flow = {"rows": rows, "index_time_ok": len(frame)}
    early = outcome_before_index(frame, site=site, tasks=wanted.tasks)
    _quarantine(frame, early, "outcome-before-index", findings)
    frame = frame[~early]
    flow["after_outcome_check"] = len(frame)
    targets, labelled = read_labels(frame, site=site, tasks=wanted.tasks, file=file, findings=findings)
    reader = Reader(frame=frame, site=site, findings=findings, workers=workers, progress=progress)
    inputs = reader.read_all(wanted.modalities, wanted.tasks)
    targets |= {task: drawn for task, (drawn, _) in inputs.drawn.items()}
    labelled |= {task: known for task, (_, known) in inputs.drawn.items()}
    some = np.logical_or.reduce([*inputs.present.values()])
    flow["usable"] = int(some.sum())
    _quarantine(frame, pd.Series(~some, index=frame.index), "no-modality", findings)
    if rows and not some.any():
        mend = "See the quarantined rows."
        findings.rejects.append(Fault(file=file, key="(rows)", problem="no usable sample", mend=mend))
    if findings.rejects:
        return None, findings.report(rows=rows, flow=flow)
    patient_ids, patient = np.unique(frame.loc[some, "patient_id"].to_numpy(dtype=str), return_inverse=True)
    traits, groups = read_traits(
        frame, site=site, plan=wanted.evaluation, modalities=wanted.modalities, findings=findings
    )
    if findings.rejects:
        return None, findings.report(rows=rows, flow=flow)
    if PAIRED in wanted.evaluation.subgroups:
        groups[PAIRED] = paired_groups(inputs.present, wanted.modalities)
    report = findings.report(rows=rows, flow=flow)
    cohort = Cohort(
        site=site.name,
        sample_ids=tuple(frame.loc[some, "sample_id"]),
        patient_ids=tuple(map(str, patient_ids)),
        patient=patient.astype(np.int64),
        held_out=_held_out(frame, patient_ids, site=site, plan=wanted.evaluation),
        inputs={name: _kept(named, some) for name, named in inputs.arrays.items()},
        present=_kept(inputs.present, some),
        targets=_kept(targets, some),
        target_mask=_kept(labelled, some),
        traits=_kept(traits, some),
        groups=_kept(groups, some),
        report=report if wanted.evaluation.described else None,
    )
    return cohort, report


def _held_out(
    frame: pd.DataFrame, patient_ids: NDArray[np.str_], *, site: Site, plan: EvaluationPlan
) -> NDArray[np.bool_]:
    """(P,) patients that are never trained on; by time, one sample on the later side is enough."""
    latest: dict[str, date] = {}
    if plan.held_out_from is not None:
        days = times(frame["index_time"], site.zone, findings=Findings()).dt.tz_convert(site.zone)
        latest = {str(patient): day.date() for patient, day in days.groupby(frame["patient_id"]).max().items()}
    each = [is_held_out(str(p), site=site.name, plan=plan, latest=latest.get(str(p))) for p in patient_ids]
    return np.array(each, dtype=bool)


def _kept(arrays: Mapping[str, NDArray[T]], rows: NDArray[np.bool_]) -> dict[str, NDArray[T]]:
    return {name: keep(array, rows) for name, array in arrays.items()}


def _needed_columns(site: Site, wanted: Wanted, *, findings: Findings) -> dict[str, str]:
    """Column -> who needs it; what site or study name wrongly is found here."""
    needed = dict.fromkeys(REQUIRED, "required")
    for name, plan in wanted.modalities.items():
        mapped = site.modalities.get(name)
        if mapped is not None and mapped.kind != plan.kind:
            key, problem, mend = f"modalities.{name}.kind", f"the study has '{plan.kind}'", "Map what the study means."
            findings.rejects.append(Fault(file="site.toml", key=key, value=mapped.kind, problem=problem, mend=mend))
        elif isinstance(mapped, FileModality):
            needed |= {column: f"modality {name}" for column in _file_columns(mapped)}
        elif isinstance(mapped, TableModality):
            chosen = columns_of(site, findings=findings)
            needed |= {chosen[field]: f"concept {field}" for field in plan.fields if field in chosen}
        for field in set(plan.fields) - set(concepts.names()):
            key, mend = f"modalities.{name}.fields", nearest(field, concepts.names())
            findings.rejects.append(Fault(file="study", key=key, value=field, problem="unknown concept", mend=mend))
    needed |= trait_columns(wanted.evaluation, wanted.modalities, site)
    return needed | task_columns(site, wanted.tasks, findings=findings)


def _file_columns(mapped: FileModality) -> list[str]:
    """The file's own, and those of what belongs to it (when a note was written, its masks)."""
    others = [getattr(mapped, key, None) for key in ("time_column", "mask_column")]
    return [mapped.column, *(column for column in others if column)]


def _in_time(frame: pd.DataFrame, site: Site, findings: Findings) -> pd.DataFrame:
    """Rows whose index time is known and past; the others are quarantined."""
    when = times(frame["index_time"], site.zone, findings=findings)
    unknown, future = when.isna(), when > pd.Timestamp(datetime.now(UTC))
    _quarantine(frame, unknown, "index-time-unreadable", findings)
    _quarantine(frame, future, "index-time-in-future", findings)
    return frame[~unknown & ~future]


def _quarantine(frame: pd.DataFrame, mask: pd.Series, check: str, findings: Findings) -> None:
    for row, sample in zip(lines(mask), frame.loc[mask, "sample_id"], strict=True):
        findings.quarantined.append(Quarantined(row=row, modality=None, check=check, detail=f"sample {sample}"))
