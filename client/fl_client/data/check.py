"""`fl-client check`: what would a study find here? For the hospital in full, for outsiders without small counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fl_client.data.cohort import CheckReport, Cohort
from fl_client.data.load import WORKERS, Wanted, read_cohort
from fl_client.data.modalities import Progress
from fl_shared.concepts import names
from fl_shared.site import Site
from fl_shared.study import EvaluationPlan, ModalityPlan, Study, TaskPlan

SMALL = 10  # counts below are not told to outsiders
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
    """The findings as JSON. For outsiders no count below 10 (nor its complement), no identifier, no value.

    Args:
        report: of `check_site` or `load_cohort`.
        cohort: None when the data are rejected.
        local: exact counts, with a list of rejects and of quarantined rows. It must not leave the site.
    """

    def safe(n: int, *, of: int | None = None) -> int | str:
        if local:
            return n
        if n < SMALL:
            return f"<{SMALL}"
        return f">{of - SMALL}" if of is not None and 0 < of - n < SMALL else n

    quarantined = Counter((q.modality or "(sample)", q.check) for q in report.quarantined)
    body: dict[str, Any] = {
        "accepted": cohort is not None,
        "rows": safe(report.rows),
        "rejects": len(report.rejects),
        "quarantined": [
            {"modality": modality, "check": check, "count": safe(n, of=report.rows)}
            for (modality, check), n in sorted(quarantined.items())
        ],
        "repairs": {what: safe(n) for what, n in sorted(report.repairs.items())},
    }
    if cohort is not None:
        samples, patients, held_out = len(cohort), len(cohort.patient_ids), int(cohort.held_out.sum())
        body |= {
            "samples": safe(samples, of=report.rows),
            "patients": safe(patients, of=samples),
            "held_out_patients": safe(held_out, of=patients),
            "present": {name: safe(int(rows.sum()), of=samples) for name, rows in cohort.present.items()},
            "labels": {
                task: [
                    {
                        "labelled": safe(int(mask.sum()), of=samples),
                        "positive": safe(int(target[mask].sum()), of=int(mask.sum())),
                    }
                    for target, mask in zip(cohort.targets[task].T, cohort.target_mask[task].T, strict=True)
                ]
                for task in cohort.targets
            },
        }
    if local:
        body |= {
            "faults": [asdict(fault) for fault in report.rejects],
            "quarantined_rows": [asdict(q) for q in report.quarantined],
        }
    return body


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
    if summary.get("faults"):
        faults = [
            (f"{f['file']}:{f['row'] or ''}", f"{f['key']} {f['value']}", f["problem"], f["mend"])
            for f in summary["faults"]
        ]
        _print(console, "Rejects", ("where", "what", "problem", "mend"), faults)


def _print(console: Console, title: str, columns: tuple[str, ...], rows: Any) -> None:
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console.print(table)
