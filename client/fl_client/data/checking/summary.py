"""The findings of a check as one JSON object: what is printed, and all that the report page may show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from fl_client.data.checking import completeness
from fl_client.data.checking.characteristics import table_1
from fl_client.data.checking.disclosure import Teller, in_tens
from fl_client.data.checking.outcomes import outcomes
from fl_client.data.checking.wanted import wanted_by
from fl_client.data.cohort import CheckReport, Cohort
from fl_shared.errors import Fault
from fl_shared.site import Site
from fl_shared.study import Study

CONFIGURATION = frozenset({"site.toml", "study"})  # files whose values say nothing of a patient


def summary(
    report: CheckReport, cohort: Cohort | None, *, site: Site, study: Study | None, local: bool
) -> dict[str, Any]:
    """The findings. For outsiders no small cell (`disclosure`), no row, identifier, file or value of a patient.

    Args:
        report: of `examine`.
        cohort: None when the data are rejected.
        site: whose data they are.
        study: None when all was read that the site maps.
        local: exact counts, least and greatest values, rejects with row and value, and the quarantined rows. It must
            not leave the site.
    """
    wanted, left_out = wanted_by(study, site)
    patient = np.zeros(0, dtype=np.int64) if cohort is None else cohort.patient
    teller = Teller(patient=patient, local=local)
    steps = completeness.flow(report, teller=teller)
    faults = report.rejects if local else tuple(dict.fromkeys(_for_outsiders(f, site) for f in report.rejects))
    body: dict[str, Any] = {
        "site": {"name": site.name, "title": site.title, "synthetic": site.synthetic},
        "study": None if study is None else study.name,
        "local": local,
        "accepted": cohort is not None,
        "rows": steps["rows"].told,
        "rejects": len(faults),
        "left_out": list(left_out),
    }
    present = {}
    if cohort is not None:
        before = [group for step, group in steps.items() if step != "usable"]
        samples = steps["usable"] = teller.group(np.ones(len(cohort), dtype=bool), before[-1])
        present = {name: teller.group(rows, samples) for name, rows in cohort.present.items()}
        body |= {
            "samples": samples.told,
            **completeness.patients(cohort, samples=samples, teller=teller),
            "present": {name: group.told for name, group in present.items()},
            "split": completeness.split(cohort, samples=samples, present=present, teller=teller),
            "missing": completeness.missingness(cohort, wanted=wanted, samples=samples, present=present, teller=teller),
            "labels": outcomes(cohort, wanted=wanted, samples=samples, present=present, teller=teller),
            "tasks": {name: {"type": plan.type, "unit": _unit(site, name)} for name, plan in wanted.tasks.items()},
            "table_1": table_1(cohort, site=site, wanted=wanted, samples=samples, present=present, teller=teller),
        }
    body |= {
        "flow": {step: group.told for step, group in steps.items()},
        "quarantined": completeness.quarantine(report, present, teller=teller),
        "repairs": {what: in_tens(n, local=local) for what, n in sorted(report.repairs.items())},
        "faults": [asdict(fault) for fault in faults],
    }
    if local:
        body["quarantined_rows"] = [asdict(q) for q in report.quarantined]
    return body


def as_faults(body: dict[str, Any]) -> Sequence[Fault]:
    """The faults of a `summary`."""
    return [Fault(**fault) for fault in body["faults"]]


def _unit(site: Site, task: str) -> str:
    return (site.tasks[task].unit or "") if task in site.tasks else ""


def _for_outsiders(fault: Fault, site: Site) -> Fault:
    """Without file, row and value, unless it is the configuration that is wrong."""
    if fault.file in CONFIGURATION:
        return fault
    return replace(fault, file="samples table" if fault.file == site.samples.name else "data", row=None, value="")
