"""Writes the synthetic cohort: site folders in real file formats, the study, and the truth beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fl_shared.commands import track
from fl_shared.concepts import concept
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.study import EvaluationPlan
from fl_sites import output
from fl_sites.study_file import write_model
from fl_sites.synthetic.ecg import draw_ecg, write_ecg
from fl_sites.synthetic.hospitals import HOSPITALS, Hospital
from fl_sites.synthetic.notes import draw_note
from fl_sites.synthetic.oracle import write_truth
from fl_sites.synthetic.patients import MEASURED, OUTCOMES, draw_patients, draw_records
from fl_sites.synthetic.plans import SITE_HEADER, STUDY_HEADER, site_file, study_file

EVALUATION = EvaluationPlan(holdout=0.2, salt="synthetic-held-out", bootstrap=1000, min_patients=10)
TRUTH = "truth"
_DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class Synthesized:
    """What was written: records and patients by site."""

    records: Mapping[str, int]
    patients: Mapping[str, int]
    study: Path
    truth: Path


def synthesize(out: Path, *, sites: Sequence[str], patients: int, seed: int) -> Synthesized:
    """Write ``out/<site>`` folders, ``out/study.toml`` and ``out/truth``; the same arguments give the same bytes.

    Args:
        out: folder to write.
        sites: names; the last one is external when there are at least two.
        patients: number at each site, at least 10.
        seed: fixes every draw; sites are drawn independently of one another.

    Raises:
        ConsiliumError: (exit code 2) a site name or a number cannot be used; (exit code 11) ``out`` holds something
            that this tool did not write.
    """
    _check(sites, patients)
    output.claim(out, folders=[*sites, TRUTH])
    records = {}
    for index, name in enumerate(sites):
        hospital, rng = HOSPITALS[index % len(HOSPITALS)], np.random.default_rng([seed, index])
        records[name] = draw_records(rng, hospital, draw_patients(rng, hospital, count=patients))
        _write_site(out / name, rng, hospital, records=records[name])
    write_truth(out / TRUTH, records, plan=EVALUATION)
    ids = {name: table["patient_id"] for name, table in records.items()}
    write_model(out / "study.toml", study_file(ids, seed=seed, evaluation=EVALUATION), header=STUDY_HEADER)
    output.seal(out)
    return Synthesized(
        records={name: len(table) for name, table in records.items()},
        patients=dict.fromkeys(sites, patients),
        study=out / "study.toml",
        truth=out / TRUTH,
    )


def _check(sites: Sequence[str], patients: int) -> None:
    mend = "Use e.g. --sites nanjing,berlin,london: small letters, digits and '_', each name once."
    bad = [name for name in sites if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", name) or name == TRUTH]
    twice = sorted({name for name in sites if list(sites).count(name) > 1})
    faults = [Fault(file="", key="--sites", value=repr(n), problem="not a site name", mend=mend) for n in bad]
    faults += [Fault(file="", key="--sites", value=repr(n), problem="named twice", mend=mend) for n in twice]
    if patients < EVALUATION.min_patients:
        problem = f"fewer than {EVALUATION.min_patients} patients a site release no metric"
        faults.append(Fault(file="", key="--patients", value=str(patients), problem=problem, mend="Ask for more."))
    if faults or not sites:
        raise ConsiliumError("no cohort can be drawn", code=ExitCode.USAGE, faults=faults)


def _write_site(folder: Path, rng: np.random.Generator, hospital: Hospital, *, records: pd.DataFrame) -> None:
    """Signals, notes, samples table and ``site.toml`` of one site."""
    for kind in ("ecg", "text"):
        (folder / kind).mkdir()
    paths = []
    for row in track(records.to_dict("records"), folder.name):
        state = {"severity": row["severity"], "rhythm": row["rhythm"]}
        signal = draw_ecg(rng, hospital, heart_rate=row["heart_rate"], **state)
        note = draw_note(rng, language=hospital.language, **state)
        ecg, text = (rng.random() >= hospital.missing[kind] for kind in ("ecg", "text"))
        if ecg:
            write_ecg(folder / "ecg", row["sample_id"], signal, unit=hospital.ecg_unit)
        if text:
            (folder / "text" / f"{row['sample_id']}.txt").write_text(note + "\n", encoding=hospital.encoding)
        paths.append((f"ecg/{row['sample_id']}.hea" if ecg else "", f"text/{row['sample_id']}.txt" if text else ""))
    samples = _samples(hospital, records).assign(ecg_path=[p[0] for p in paths], text_path=[p[1] for p in paths])
    samples.to_csv(folder / "samples.csv", index=False, encoding=hospital.encoding)
    write_model(folder / "site.toml", site_file(folder.name, hospital), header=SITE_HEADER)


def _samples(hospital: Hospital, records: pd.DataFrame) -> pd.DataFrame:
    """The samples table as the hospital writes it: its units and codes, no latent state."""
    table = records[["patient_id", "sample_id", "index_time", "age", "sex", *MEASURED, *OUTCOMES]].copy()
    table["index_time"] = table["index_time"].dt.strftime("%Y-%m-%dT%H:%M:%S")
    table["sex"] = table["sex"].map({0: hospital.male, 1: hospital.female})
    for name in MEASURED:
        factor = concept(name).units[hospital.units[name]] if name in hospital.units else 1.0
        if isinstance(factor, tuple):
            raise TypeError(f"{name}: a unit with an offset")
        table[name] = (table[name] / factor).round(_DECIMALS)
    return table
