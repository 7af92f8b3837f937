"""Writes the synthetic cohort: site folders in real file formats, the study, and the truth beside them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fl_shared.errors import ConsiliumError, ExitCode, Fault, nearest
from fl_shared.study import EvaluationPlan
from fl_sites import output
from fl_sites.study_file import write_model
from fl_sites.synthetic.folder import SiteFolder
from fl_sites.synthetic.follow_up import draw_outcomes
from fl_sites.synthetic.hospitals import HOSPITALS
from fl_sites.synthetic.oracle import write_truth
from fl_sites.synthetic.patients import draw_patients, draw_records
from fl_sites.synthetic.plans import MODALITIES
from fl_sites.synthetic.studies import DEMOS, faults, header, study_file

EVALUATION = EvaluationPlan(holdout=0.2, salt="synthetic-held-out", bootstrap=1000, min_patients=10)
TRUTH = "truth"


@dataclass(frozen=True, kw_only=True)
class Synthesized:
    """What was written: records and patients by site."""

    records: Mapping[str, int]
    patients: Mapping[str, int]
    study: Path
    truth: Path


def synthesize(
    out: Path,
    *,
    sites: Sequence[str],
    patients: int,
    seed: int,
    modalities: Collection[str] = MODALITIES,
    system: str = "attention",
) -> Synthesized:
    """Write ``out/<site>`` folders, ``out/study.toml`` and ``out/truth``; the same arguments give the same bytes.

    Args:
        out: folder to write.
        sites: names; the last one is external when there are at least two.
        patients: number at each site, at least 10.
        seed: fixes every draw; sites are drawn independently of one another.
        modalities: what is written, of `MODALITIES`. What is left out changes nothing in the rest; the cine takes most
            of the time.
        system: of the study, a name of `fl_shared.models.systems.SYSTEMS`; the sites are the same whatever it is.

    Raises:
        ConsiliumError: (exit code 2) a site name, a modality, a system or a number cannot be used; (exit code 11)
            ``out`` holds something that this tool did not write.
    """
    _check(sites, patients, modalities, system)
    output.claim(out, folders=[*sites, TRUTH])
    records = {}
    for index, name in enumerate(sites):
        hospital, rng = HOSPITALS[index % len(HOSPITALS)], np.random.default_rng([seed, index])
        people = draw_patients(rng, hospital, count=patients)
        records[name] = draw_outcomes(rng, people, draw_records(rng, hospital, people))
        folder = SiteFolder(path=out / name, hospital=hospital, records=records[name], entropy=(seed, index))
        folder.write(modalities)
    write_truth(out / TRUTH, records, plan=EVALUATION)
    ids = {name: table["patient_id"] for name, table in records.items()}
    study = study_file(ids, seed=seed, evaluation=EVALUATION, modalities=modalities, system=system)
    write_model(out / "study.toml", study, header=header(system))
    output.seal(out)
    return Synthesized(
        records={name: len(table) for name, table in records.items()},
        patients=dict.fromkeys(sites, patients),
        study=out / "study.toml",
        truth=out / TRUTH,
    )


def _check(sites: Sequence[str], patients: int, modalities: Collection[str], system: str) -> None:
    mend = "Use e.g. --sites nanjing,berlin,london: small letters, digits and '_', each name once."
    bad = [name for name in sites if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", name) or name == TRUTH]
    twice = sorted({name for name in sites if list(sites).count(name) > 1})
    found = [Fault(file="", key="--sites", value=repr(n), problem="not a site name", mend=mend) for n in bad]
    found += [Fault(file="", key="--sites", value=repr(n), problem="named twice", mend=mend) for n in twice]
    if patients < EVALUATION.min_patients:
        problem = f"fewer than {EVALUATION.min_patients} patients a site release no metric"
        found.append(Fault(file="", key="--patients", value=str(patients), problem=problem, mend="Ask for more."))
    for name in modalities:
        if name not in MODALITIES:
            mend = nearest(name, MODALITIES)
            found.append(Fault(file="", key="modalities", value=repr(name), problem="unknown", mend=mend))
    if system not in DEMOS:
        mend = nearest(system, DEMOS)
        found.append(Fault(file="", key="--system", value=repr(system), problem="no system of this name", mend=mend))
    else:
        found += faults(system, modalities)
    if found or not sites:
        raise ConsiliumError("no cohort can be drawn", code=ExitCode.USAGE, faults=found)
