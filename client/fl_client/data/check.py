"""`fl-client check`: what would a study find here? For the hospital in full, for outsiders without small counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fl_client.data.cohort import CheckReport, Cohort
from fl_client.data.load import WORKERS, Wanted, read_cohort
from fl_client.data.modalities import Progress
from fl_shared.concepts import names
from fl_shared.errors import Fault
from fl_shared.site import Site
from fl_shared.study import EvaluationPlan, ModalityPlan, Study, TaskPlan

SMALL = 10  # counts below are not told to outsiders
CONFIGURATION = frozenset({"site.toml", "study"})  # files whose values say nothing of a patient
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def check_site(site: Site, study: Study | None) -> CheckReport:
    """What `load_cohort` would find; without a study, everything that the site maps, on common grids."""
    return examine(site, study)[1]


def examine(
    site: Site, study: Study | None, *, workers: int = WORKERS, progress: Progress | None = None
) -> tuple[Cohort | None, CheckReport]:
    """As `check_site`, with the cohort (None when the data are rejected)."""
    wanted = Wanted.by(study) if study is not None else _all_of(site)
    return read_cohort(site, wanted, workers=workers, progress=progress)


def _all_of(site: Site) -> Wanted:
    fields = tuple(dict.fromkeys(m.concept for m in site.columns.values() if m.concept in names()))
    modalities = {}
    for name, mapped in site.modalities.items():
        if mapped.kind == "waveform":
            modalities[name] = ModalityPlan(kind="waveform", leads=LEADS, rate=100.0, seconds=10.0)
        elif mapped.kind == "text":
            modalities[name] = ModalityPlan(kind="text")
        elif fields:
            modalities[name] = ModalityPlan(kind="table", fields=fields)
    tasks = {}
    for name, task in site.tasks.items():
        labels = tuple(task.columns) if len(task.columns) > 1 else ()
        tasks[name] = TaskPlan(type="multilabel" if labels else "binary", labels=labels)
    return Wanted(modalities=modalities, tasks=tasks, evaluation=EvaluationPlan(salt="no study yet"))


def summary(report: CheckReport, cohort: Cohort | None, *, local: bool) -> dict[str, Any]:
    """The findings as JSON. For outsiders no count below 10 (nor its complement), no row, identifier or value.

    Args:
        report: of `check_site` or `load_cohort`.
        cohort: None when the data are rejected.
        local: exact counts, rejects with row and value, and the quarantined rows. It must not leave the site.
    """

    def safe(n: int, *of: int | str) -> int | str:
        """``n``, unless it, or its difference to a count told exactly, is small."""
        if local:
            return n
        if n < SMALL:
            return f"<{SMALL}"
        near = [whole for whole in of if isinstance(whole, int) and 0 < whole - n < SMALL]
        return f">{near[0] - SMALL}" if near else n

    rows = safe(report.rows)
    quarantined = Counter((q.modality or "(sample)", q.check) for q in report.quarantined)
    body: dict[str, Any] = {
        "accepted": cohort is not None,
        "rows": rows,
        "rejects": len(report.rejects),
        "quarantined": [
            {"modality": modality, "check": check, "count": safe(n, rows)}
            for (modality, check), n in sorted(quarantined.items())
        ],
        "repairs": {what: safe(n) for what, n in sorted(report.repairs.items())},
    }
    if cohort is not None:
        samples = safe(len(cohort), rows)
        patients = safe(len(cohort.patient_ids), rows, samples)
        body |= {
            "samples": samples,
            "patients": patients,
            "held_out_patients": safe(int(cohort.held_out.sum()), rows, samples, patients),
            "present": {name: safe(int(there.sum()), rows, samples) for name, there in cohort.present.items()},
            "labels": {
                task: [
                    {
                        "labelled": (labelled := safe(int(mask.sum()), rows, samples)),
                        "positive": safe(int(target[mask].sum()), rows, samples, labelled),
                    }
                    for target, mask in zip(cohort.targets[task].T, cohort.target_mask[task].T, strict=True)
                ]
                for task in cohort.targets
            },
        }
    faults = report.rejects if local else dict.fromkeys(map(_for_outsiders, report.rejects))
    body["faults"] = [asdict(fault) for fault in faults]
    if local:
        body["quarantined_rows"] = [asdict(q) for q in report.quarantined]
    return body


def _for_outsiders(fault: Fault) -> Fault:
    """Without row and value, unless it is the configuration that is wrong."""
    return fault if fault.file in CONFIGURATION else replace(fault, row=None, value="")


def render(summary: dict[str, Any], console: Console) -> None:
    """Print a `summary` as tables."""
    head = Table(title="Data check", show_header=False)
    for key in ("accepted", "rows", "samples", "patients", "held_out_patients", "rejects"):
        if key in summary:
            head.add_row(key.replace("_", " "), str(summary[key]))
    for name, n in summary.get("present", {}).items():
        head.add_row(f"with {name}", str(n))
    for task, labels in summary.get("labels", {}).items():
        for c, label in enumerate(labels):
            head.add_row(f"{task}[{c}]", f"{label['positive']} positive of {label['labelled']} labelled")
    console.print(head)
    if summary["repairs"]:
        _print(console, "Repaired or set missing", ("what", "count"), summary["repairs"].items())
    if summary["quarantined"]:
        rows = [(q["modality"], q["check"], q["count"]) for q in summary["quarantined"]]
        _print(console, "Quarantined", ("modality", "check", "count"), rows)
    if summary.get("quarantined_rows"):
        rows = [(q["row"], q["modality"] or "(sample)", q["detail"]) for q in summary["quarantined_rows"]]
        _print(console, "Quarantined rows (local)", ("row", "modality", "detail"), rows)
    if summary["faults"]:
        console.print("[bold red]Rejected[/]: nothing trains before this is mended.")
    for fault in summary["faults"]:  # lines, as of any error: a table would cut them on a narrow screen
        console.print(escape(f"  - {Fault(**fault)}"), highlight=False, soft_wrap=True)
    if "quarantined_rows" not in summary and (summary["quarantined"] or summary["faults"]):
        console.print("Rows, values and file names: add --local (for this hospital's eyes only).", soft_wrap=True)


def _print(console: Console, title: str, columns: tuple[str, ...], rows: Any) -> None:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console.print(table)
