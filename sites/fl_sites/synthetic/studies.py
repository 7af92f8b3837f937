"""The ``study.toml`` of a synthetic cohort: for each system the tasks and modalities of its paper."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fl_shared.errors import Fault
from fl_shared.models.systems import SYSTEMS
from fl_shared.study import EvaluationPlan, Study
from fl_sites.study_file import LEADS, plan_sites
from fl_sites.synthetic.ecg import RATE, SECONDS
from fl_sites.synthetic.measures import LABORATORY, VITAL_SIGNS
from fl_sites.synthetic.outcomes import CAUSES, EVENTS, FOLLOW_UP, MACCE
from fl_sites.synthetic.patients import MEASURED
from fl_sites.synthetic.phenotypes import PHENOTYPES
from fl_sites.synthetic.plans import DRAWN, MODALITIES

STUDY_HEADER = """SYNTHETIC: no patient stands behind these sites (fl-sites synthesize). A start: copy it, change it.
'patients' counts the training patients (not held out under [evaluation] salt); recount when you change the salt."""
_NOT_PRIVATE = "Privacy mode 'none', since phases of several systems have no route to differential privacy."
_TIMELINE = (30.0, 90.0, 180.0, 365.0)  # days


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A study of a system: what it reads and predicts, how it trains, what the reader should know.

    modalities: what it needs; grids: ``[modalities]``, where they are not the usual ones; training: ``[training]``.
    """

    tasks: Mapping[str, Mapping[str, Any]]
    modalities: tuple[str, ...]
    about: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    grids: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(
        default_factory=lambda: {"rounds": 10, "steps": 10, "batch": 32, "learning_rate": 1e-3, "encoders": "shared"}
    )
    privacy: Mapping[str, Any] = field(default_factory=lambda: {"mode": "none"})


_GRIDS: Mapping[str, Mapping[str, Any]] = {
    "cine": {"kind": "cine", "frames": 8, "slices": 1, "size": 32, "field_of_view": 160.0},
    "ecg": {"kind": "waveform", "leads": LEADS, "rate": float(RATE), "seconds": SECONDS},
    "ehr": {"kind": "table", "fields": ["age", "sex", *MEASURED]},
    "series": {"kind": "events", "fields": [*VITAL_SIGNS, *LABORATORY], "hours": 28 * 24.0, "bins": 28},
    "text": {"kind": "text", "max_tokens": 384},
}
_BINARY = {"type": "binary"}
_SURVIVAL = {"type": "survival", "windows": _TIMELINE}

DEMOS: Mapping[str, Demo] = {
    "attention": Demo(
        tasks={"death": _BINARY, "events": {"type": "multilabel", "labels": EVENTS}},
        modalities=(),
        model={"width": 32},
        training={"rounds": 5, "steps": 10, "batch": 32, "learning_rate": 1e-3, "encoders": "local"},
        privacy={"mode": "patient", "epsilon": 8.0},
    ),
    "m_prtm": Demo(
        tasks={
            "death": _BINARY,
            "cause_of_death": {"type": "multiclass", "labels": CAUSES},
            "macce": {"type": "multilabel", "labels": MACCE},
            "readmission": _SURVIVAL,
            "follow_up": {"type": "multiclass", "labels": FOLLOW_UP},
            "survival": _SURVIVAL,
            "recovery": _SURVIVAL,
            "ef_decline": _SURVIVAL,
            "fibrosis": {"type": "segmentation", "modality": "cine", "labels": DRAWN},
        },
        modalities=("cine", "ehr", "text"),
        grids={"cine": {"size": 64}},
        about="The paper's outcomes of heart failure; survival, recovery and ef_decline make up its risk timeline. "
        "Fibrosis\nis the scar that is drawn on the cine.",
    ),
    "medm2t": Demo(
        tasks={
            "cvd_90d": _BINARY,
            "in_hospital_death": _BINARY,
            "length_of_stay": {"type": "regression", "offset": 5.0, "scale": 4.0},
        },
        modalities=("ecg", "ehr", "series", "text"),
        about="The paper's three tasks; 'offset' and 'scale' of the stay are set days, not taken from patients.",
    ),
    "tte_alignment": Demo(
        tasks={"survival": _SURVIVAL},
        modalities=("cine", "ehr"),
        about="Time to death from an image and the EHR; the cine stands for the paper's CT.",
    ),
    "medfuse": Demo(
        tasks={"in_hospital_death": _BINARY, "phenotypes": {"type": "multilabel", "labels": PHENOTYPES}},
        modalities=("series", "ecg"),
        about="The paper's two tasks, from the series of measurements and, for its chest X-ray, the ECG: these sites "
        "have\nno X-ray.",
    ),
    "lemof": Demo(
        tasks={"long_stay": _BINARY},
        modalities=("ecg", "ehr"),
        about="A stay of more than 7 days (a set number: the median would be taken from patients), from ECG and EHR.",
    ),
    "baselines": Demo(
        tasks={
            "in_hospital_death": _BINARY,
            "phenotypes": {"type": "multilabel", "labels": PHENOTYPES},
            "long_stay": _BINARY,
        },
        modalities=("ecg", "ehr"),
        about="The tasks of MedFuse and LeMoF from ECG and EHR; 'fusion' under [model] names the baseline.",
    ),
}
"""System -> its study."""


def header(system: str) -> str:
    """Comment at the top of the file."""
    demo = DEMOS[system]
    told = [f"{SYSTEMS[system].title}. {demo.about}"] if demo.about else []
    return "\n".join([STUDY_HEADER, *told, *([_NOT_PRIVATE] if demo.privacy["mode"] == "none" else [])])


def faults(system: str, modalities: Collection[str]) -> list[Fault]:
    """What the study of a system lacks among the modalities that are written."""
    return [
        Fault(file="", key="modalities", value=repr(name), problem=f"system {system} needs it", mend="Add it.")
        for name in DEMOS[system].modalities
        if name not in modalities
    ]


def study_file(
    patients: Mapping[str, Iterable[str]],
    *,
    seed: int,
    evaluation: EvaluationPlan,
    modalities: Collection[str],
    system: str,
) -> Study:
    """A study over the sites; of several, the last is external."""
    demo = DEMOS[system]
    external = list(patients)[-1] if len(patients) > 1 else None
    sites = plan_sites(patients, external=external, plan=evaluation)
    training = sum(plan.role == "train" for plan in sites.values())
    chosen = demo.modalities or tuple(name for name in MODALITIES if name in modalities)
    body = {
        "schema": 1,
        "name": "synthetic" if system == "attention" else f"synthetic_{system}",
        "seed": seed,
        "synthetic": True,
        "sites": {name: plan.model_dump(exclude_unset=True) for name, plan in sites.items()},
        "tasks": {name: dict(task) for name, task in demo.tasks.items()},
        "modalities": {name: {**_GRIDS[name], **demo.grids.get(name, {})} for name in chosen},
        "model": {"system": system, **demo.model},
        "training": dict(demo.training),
        "privacy": dict(demo.privacy),
        "rounds": {"quorum": training // 2 + 1},
        "evaluation": evaluation.model_dump(),
    }
    return Study.model_validate(body)
