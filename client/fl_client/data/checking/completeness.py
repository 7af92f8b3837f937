"""What there is of every modality, how the cohort came about, and what was set aside."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_client.data.checking.disclosure import Group, Teller, Told, in_tens, missing, told_reasons
from fl_client.data.cohort import CheckReport, Cohort
from fl_client.data.load import Wanted

Item = dict[str, Any]


def flow(report: CheckReport, *, teller: Teller) -> dict[str, Group]:
    """Samples left after each step of reading, each within the one before."""
    found: dict[str, Group] = {}
    for step, n in ({"rows": report.rows} | dict(report.flow)).items():
        found[step] = teller.rows(n, *list(found.values())[-1:])
    return found


def split(cohort: Cohort, *, samples: Group, present: dict[str, Group], teller: Teller) -> dict[str, dict[str, Told]]:
    """Samples of training and of held-out patients: of the cohort, and with each modality."""
    held = cohort.held_out[cohort.patient]
    sides = {"training": ~held, "held_out": held}
    whole = teller.parts(samples, sides)
    found = {"samples": {side: group.told for side, group in whole.items()}}
    for name, there in present.items():
        rows = {side: np.asarray(there.rows) & sides[side] for side in sides}
        parts = teller.parts(there, rows, within={side: (group,) for side, group in whole.items()})
        found[name] = {side: group.told for side, group in parts.items()}
    return found


def patients(cohort: Cohort, *, samples: Group, teller: Teller) -> dict[str, Told]:
    """Patients in all, in training and held out."""
    each = Teller(patient=np.arange(len(cohort.patient_ids)), local=teller.local)
    n = len(cohort.patient_ids)
    whole = Group(n=n, told=teller.rows(n, samples).told, rows=np.ones(n, dtype=bool))
    parts = each.parts(whole, {"training": ~cohort.held_out, "held_out": cohort.held_out})
    told = {f"{side}_patients": group.told for side, group in parts.items()}
    return {"patients": whole.told} | told


def missingness(
    cohort: Cohort, *, wanted: Wanted, samples: Group, present: dict[str, Group], teller: Teller
) -> dict[str, Item]:
    """Modality -> samples that lack it, and of its fields (concepts, leads) samples that lack them."""
    found: dict[str, Item] = {}
    for name, plan in wanted.modalities.items():
        there = present[name]
        fields = {}
        for field, rows in zip(*_fields(cohort, name, plan.fields or plan.leads), strict=True):
            observed = teller.group(rows & np.asarray(there.rows), there)
            fields[field] = {"observed": observed.told, "missing": missing(observed, there)}
        found[name] = {"present": there.told, "missing": missing(there, samples), "fields": fields}
    return found


def _fields(cohort: Cohort, name: str, names: tuple[str, ...]) -> tuple[tuple[str, ...], list[NDArray[np.bool_]]]:
    """Names of a modality's fields and which samples have each (N,)."""
    arrays = cohort.inputs[name]
    mask = arrays.get("observed", arrays.get("lead_mask"))
    if mask is None:
        return (), []
    each = np.asarray(np.asarray(mask).reshape(len(cohort), -1, len(names)).any(axis=1))  # events: in any bin
    return names, [each[:, f] for f in range(len(names))]


def quarantine(report: CheckReport, present: dict[str, Group], *, teller: Teller) -> list[Item]:
    """Why samples, or a modality of them, were set aside, and how many."""
    counts: dict[str, Counter[str]] = {}
    for found in report.quarantined:
        counts.setdefault(found.modality or "", Counter())[found.check] += 1
    read = report.flow.get("after_outcome_check", report.rows)
    items = []
    for modality, reasons in sorted(counts.items()):
        if not modality:
            told = told_reasons(reasons, unlisted=None, local=teller.local)
        elif modality in present:
            # rows with no such file make up the rest: no count tells them
            unlisted = max(0, read - present[modality].n - reasons.total())
            told = told_reasons(reasons, unlisted=unlisted, local=teller.local)
        else:  # masks, of which no count is told, and rejected data, whose faults will be mended
            told = {reason: in_tens(n, local=teller.local) for reason, n in reasons.items()}
        items += [{"modality": modality or "(sample)", "check": c, "count": told[c]} for c in sorted(reasons)]
    return items
