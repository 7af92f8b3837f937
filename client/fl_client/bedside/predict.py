"""Pages of patients, one after another, and the tables of all: private files of this site."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fl_client.approval import audit_log, user
from fl_client.bedside.case import Case, predictions, records
from fl_client.bedside.opened import Opened, read_patients
from fl_client.bedside.page import render, render_index, shown_of
from fl_client.bedside.register import Record, Register
from fl_client.bedside.targets import Target, main_target
from fl_client.bedside.told import about_model, synthetic, told_of
from fl_client.data.cohort import Cohort, Quarantined
from fl_client.data.modalities import Progress
from fl_client.files import private_dir, write_private
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.site import Site

FOLDER = "bedside"
INDEX, TABLE, SHEET = "index.html", "predictions.json", "predictions.csv"
Done = Callable[[int, int], None]
"""Called with pages written and pages in all."""


@dataclass(frozen=True, kw_only=True)
class Ward:
    """What is known of the asked patients: records, what was set aside, and the model's scores (N,) of each record."""

    site: Site
    opened: Opened
    register: Register
    cohort: Cohort | None
    aside: Mapping[str, Sequence[Quarantined]]

    @cached_property
    def usable(self) -> dict[str, list[tuple[int, Record]]]:
        """Patient -> (row of the cohort, record), the latest first; without those that no record can be read of."""
        if self.cohort is None:
            return {}
        row = {sample: at for at, sample in enumerate(self.cohort.sample_ids)}
        found = {
            patient: [
                (row[record.sample], record) for record in self.register.of_patient[patient] if record.sample in row
            ]
            for patient in self.cohort.patient_ids
        }
        return {patient: each for patient, each in found.items() if each}

    @cached_property
    def scores(self) -> dict[Target, Any]:
        """Of every record of the cohort."""
        if self.cohort is None:
            return {}
        return predictions(self.opened.model, self.opened.bundle.study, self.cohort)

    def told(self, patient: str) -> tuple[dict[str, Any], Case]:
        """Of the latest record of a usable patient."""
        if self.cohort is None:
            raise ValueError("no record can be read")
        (row, record), *others = self.usable[patient]
        study = self.opened.bundle.study
        case = Case.of(self.opened.model, study, records(self.cohort, [row]))
        earlier = [(other, {t: float(each[at]) for t, each in self.scores.items()}) for at, other in others]
        number = self.cohort.patient_ids.index(patient)
        plan = study.sites.get(self.site.name)
        trained_on = plan is not None and plan.role == "train" and not bool(self.cohort.held_out[number])
        told = told_of(
            case,
            self.opened,
            self.site,
            record=record,
            others=earlier,
            aside=self.aside.get(patient, ()),
            trained_on=trained_on,
        )
        return told, case

    def ranked(self) -> list[str]:
        """Usable patients, the highest first number first."""
        main = self.scores.get(main_target(self.opened.bundle.study), np.zeros(0))
        return sorted(self.usable, key=lambda patient: -float(main[self.usable[patient][0][0]]))


def ward_of(
    site: Site, opened: Opened, register: Register, patients: frozenset[str] | None, *, progress: Progress | None = None
) -> Ward:
    """Read the records of some patients (all, with None).

    Raises:
        ConsiliumError: the site's data are rejected (exit code 12).
    """
    cohort, report = read_patients(site, opened, patients, progress=progress)
    aside = register.aside(report.quarantined)
    return Ward(site=site, opened=opened, register=register, cohort=cohort, aside=aside)


def write_one(ward: Ward, patient: str, folder: Path) -> dict[str, Any]:
    """The page of one patient.

    Raises:
        ConsiliumError: none of the patient's records has an input that can be read (exit code 12).
    """
    if patient not in ward.usable:
        faults = [
            Fault(file="samples", row=item.row, key=item.modality or "(record)", problem=item.check, mend=item.detail)
            for item in ward.aside.get(patient, ())
        ]
        message = f"patient '{patient}' has no input that can be read: no number is told"
        raise ConsiliumError(message, code=ExitCode.DATA, faults=faults)
    told = _write_page(ward, patient, folder, index=False)
    _log(ward, pages=1)
    return _body(ward, folder, [told])


def write_all(ward: Ward, folder: Path, *, done: Done) -> dict[str, Any]:
    """A page of every patient who has an input, then the tables of all."""
    ranked = ward.ranked()
    told = []
    for count, patient in enumerate(ranked, 1):
        told.append(_write_page(ward, patient, folder, index=True))
        done(count, len(ranked))
    body = _body(ward, folder, told)
    write_private(folder / TABLE, json.dumps(body, indent=1, ensure_ascii=False).encode())
    write_private(folder / SHEET, _sheet(body["patients"]).encode("utf-8-sig"))  # so that a spreadsheet reads names
    write_private(folder / INDEX, render_index(_listing(body), ward.site).encode())
    _log(ward, pages=len(told))
    return body


def folder_of(site: Site, opened: Opened, out: Path | None) -> Path:
    """Where pages are written: ``out``, or a folder of the model (0700) below the site's state.

    Raises:
        ConsiliumError: it cannot be made (exit code 2).
    """
    card = opened.bundle.card
    if out is None:
        return private_dir(private_dir(private_dir(site.state_dir) / FOLDER) / f"{card.name}-{card.arrays[:12]}")
    try:
        return out if out.is_dir() else private_dir(out)
    except OSError as error:
        raise ConsiliumError(f"{out}: no folder can be made there: {error}", code=ExitCode.USAGE) from error


def page_name(patient: str) -> str:
    """A file name that tells patients apart, whatever their ids hold."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", patient)[:48]
    return f"{plain}-{hashlib.sha256(patient.encode()).hexdigest()[:8]}.html"


def _write_page(ward: Ward, patient: str, folder: Path, *, index: bool) -> dict[str, Any]:
    told, case = ward.told(patient)
    page = render(told, shown_of(case, ward.site), ward.site, index=index)
    write_private(folder / page_name(patient), page.encode())
    return told | {"page": page_name(patient)}


def _body(ward: Ward, folder: Path, told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    without = [patient for patient in ward.aside if patient not in ward.usable]
    return {
        "site": ward.site.name,
        "synthetic": synthetic(ward.opened, ward.site),
        "folder": str(folder),
        "model": about_model(ward.opened),
        "patients": list(told),
        "without": [
            {"patient": p, "why": sorted({f"{q.modality or 'record'}: {q.check} ({q.detail})" for q in ward.aside[p]})}
            for p in sorted(without)
        ],
        "aside": [
            {"row": q.row, "patient": p, "modality": q.modality or "", "check": q.check, "detail": q.detail}
            for p, each in ward.aside.items()
            for q in each
        ],
    }


def _listing(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the index shows."""
    rows = []
    for told in body["patients"]:
        main = _main(told)
        missing = [each["modality"] for each in told["missing"]]
        suggested = told["follow_up"]["suggested"] if told["follow_up"] else ""
        shown = {key: main[key] for key in ("value", "kind", "similar")}
        rows.append({**told, **shown, "missing": missing, "follow_up": suggested})
    title = body["patients"][0]["main"] if body["patients"] else "the first number"
    return {**body, "main": title, "told": rows}


def _sheet(patients: Sequence[Mapping[str, Any]]) -> str:
    """A row a patient: every number, and of the first one what similar patients tell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    columns = [each["title"] for each in patients[0]["numbers"]] if patients else []
    like = ("share", "low", "high", "patients")
    writer.writerow(
        ["patient", "sample", "index_time", "present", "missing", *columns, *(f"similar {key}" for key in like)]
    )
    for told in patients:
        group = (_main(told)["similar"] or {}).get("together", {})
        writer.writerow(
            [
                *(told[key] or "" for key in ("patient", "sample", "index_time")),
                "+".join(told["present"]),
                "+".join(each["modality"] for each in told["missing"]),
                *(f"{each['value']:.6g}" for each in told["numbers"]),
                *(group.get(key, "") for key in like),
            ]
        )
    return buffer.getvalue()


def _main(told: Mapping[str, Any]) -> dict[str, Any]:
    return next(each for each in told["numbers"] if each["title"] == told["main"])


def _log(ward: Ward, *, pages: int) -> None:
    """Who asked which model, how often; no patient is named."""
    card = ward.opened.bundle.card
    signed = ward.opened.bundle.signer is not None
    private_dir(ward.site.state_dir)
    audit_log(ward.site).append(user(), "predict", study=card.study, model=card.arrays, signed=signed, pages=pages)
