"""The comparison files of `comparisons.py`: every fusion on three cohorts."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fl_shared.written import dumps
from fl_sites.synthetic.measures import LABORATORY, VITAL_SIGNS

Body = dict[str, Any]
FUSIONS = (
    ("attention", "attention", "self_attention", "self-attention (ours)"),
    ("m_prtm", "m_prtm", "modality_attention", "M-PRTM attention"),
    ("fixed", "m_prtm", "fixed_weights", "fixed weights"),
    ("medm2t", "medm2t", "bimodal_attention", "MedM2T bi-modal"),
    ("cross", "tte_alignment", "cross_attention", "cross-attention"),
    ("co", "tte_alignment", "co_attention", "co-attention"),
    ("contrastive", "tte_alignment", "contrastive", "contrastive"),
    ("concat", "tte_alignment", "concat", "concatenation"),
    ("medfuse", "medfuse", "lstm", "MedFuse"),
    ("lemof", "lemof", "level_guided", "LeMoF"),
    ("early", "baselines", "early", "early"),
    ("joint", "baselines", "joint", "joint"),
    ("late_average", "baselines", "late_average", "late average"),
    ("unified", "baselines", "unified", "Unified"),
    ("lstm_ensemble", "baselines", "lstm_ensemble", "MedFuse ensemble"),
    ("mmtm", "baselines", "mmtm", "MMTM"),
    ("daft", "baselines", "daft", "DAFT"),
    ("drfuse", "baselines", "drfuse", "DrFuse"),
    ("hyperfusion", "baselines", "hyperfusion", "HyperFusion"),
)
SITES = "alpha,beta,gamma,delta"
ROUNDS, LONGER = 6, 20
# Systems in several phases: so many times the rounds, that the one that trains their encoders (of those that train
# everything together at last, that one) has all others' rounds.
PHASED = {"lemof": 3.4, "contrastive": 2.0, "early": 2.5, "medfuse": 1.67, "medm2t": 1.67, "lstm_ensemble": 1.67}
DRAWN = ("attention", "m_prtm", "medm2t", "medfuse", "late_average", "unified", "drfuse")  # as inputs go missing
OWN_ENCODERS = ("m_prtm", "medm2t", "medfuse")  # systems that would bring some
ENCODERS = {"ecg": "ecg_resnet", "ehr": "ehr_mlp"}  # the usual ones, for all
HIDDEN = [0.25, 0.5, 0.75]
EVALUATION = ("holdout", "salt")  # kept of the importer's


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Where a grid's sites come from, and what of their study is changed.

    make: arguments of ``fl-sites``; change: the study's body -> that of the grid; task: of the tables; strong: the
    strongest modality, which is hidden; as_strong: others that may be it; alone: other sets of modalities, variant ->
    them; encoders: of systems that would bring their own; modes; seeds.
    """

    make: tuple[str, ...]
    title: str
    change: Callable[[Body], None]
    task: str
    strong: str
    alone: Mapping[str, tuple[str, ...]]
    modes: tuple[str, ...]
    seeds: tuple[int, ...]
    as_strong: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    leaky: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    encoders: Mapping[str, str] = field(default_factory=dict)


def _physionet(body: Body) -> None:
    del body["training"]["phases"]  # every system has its own
    body["training"] |= {"rounds": ROUNDS, "steps": 20, "learning_rate": 0.001}
    body["model"]["dropout"] = 0.3


def _synthetic(body: Body) -> None:
    tasks = body["tasks"]
    body["tasks"] = {"death": tasks["in_hospital_death"], "long_stay": tasks["long_stay"]}
    series = {"kind": "events", "encoder": "events_summary", "fields": [*VITAL_SIGNS, *LABORATORY]}
    body["modalities"]["series"] = series | {"hours": 672.0, "bins": 28}
    body["model"]["modality_dropout"] = 0.3
    body["training"]["rounds"] = ROUNDS


def _longer(body: Body) -> None:
    _synthetic(body)
    body["training"]["rounds"] = LONGER


def _ptb_xl(body: Body) -> None:
    """As the importer writes it."""


SYNTHETIC = Cohort(
    make=("synthesize", "--sites", SITES, "--patients", "300", "--system", "baselines"),
    title="SYNTHETIC cohort: fusions of ECG, table and series",
    change=_synthetic,
    task="death",
    strong="series",
    alone={
        "only_series": ("series",), "only_ehr": ("ehr",), "only_ecg": ("ecg",), "without_series": ("ecg", "ehr"),
    },
    modes=("pooled", "federated", "epsilon_8"),
    seeds=(1, 2),
    encoders=ENCODERS,
)  # fmt: skip
COHORTS: Mapping[str, Cohort] = {
    "physionet": Cohort(
        make=("import", "physionet-2012"),
        title="PhysioNet 2012: fusions of series and static fields",
        change=_physionet,
        task="in_hospital_death",
        strong="series",
        alone={"only_series": ("series",), "only_ehr": ("ehr",)},
        modes=("local", "pooled", "federated", "epsilon_8", "epsilon_3"),
        seeds=(1, 2),
    ),
    "synthetic": SYNTHETIC,
    "synthetic-large": replace(
        SYNTHETIC,
        make=("synthesize", "--sites", SITES, "--patients", "1000", "--seed", "12", "--system", "baselines"),
        title="SYNTHETIC cohort of 1,000 patients a site, trained longer: fusions of ECG, table and series",
        change=_longer,
        modes=("federated",),
        as_strong=("ecg",),
    ),
    "ptb-xl": Cohort(
        make=("import", "ptb-xl"),
        title="PTB-XL: fusions of ECG and demographics; the report text states the diagnosis",
        change=_ptb_xl,
        task="superclass",
        strong="ecg",
        only=("ecg", "ehr"),
        alone={"only_ecg": ("ecg",), "only_ehr": ("ehr",)},
        leaky={"with_text": (), "only_text": ("text",)},
        modes=("federated",),
        seeds=(1, 2),
        encoders=ENCODERS,
    ),
}  # fmt: skip


def study_of(cohort: Cohort, path: Path) -> Body:
    """The grid's study, from the one that stands beside the sites."""
    body = tomllib.loads(path.read_text(encoding="utf-8"))
    cohort.change(body)
    kept = {key: body["evaluation"][key] for key in EVALUATION}
    body["evaluation"] = kept | {"bootstrap": 300, "hidden": HIDDEN, "hidden_of": [cohort.strong]}
    return body


def fusions_of(name: str, cohort: Cohort, *, rounds: int) -> Body:
    """Every fusion, and single modalities, in every mode. ``rounds``: of the grid's study."""
    longer = {key: {"training": {"rounds": round(rounds * times)}} for key, times in PHASED.items()}
    only = {"only": list(cohort.only)} if cohort.only else {}
    usual = {"modalities": {name: {"encoder": encoder} for name, encoder in cohort.encoders.items()}}
    variants: Body = {}
    for key, system, fusion, title in FUSIONS:
        change = {"model": {"system": system, "fusion": fusion}} | longer.get(key, {})
        change |= usual if cohort.encoders and system in OWN_ENCODERS else {}
        variants[key] = {"title": title, **only, "study": change}
    for key, kept in (cohort.alone | cohort.leaky).items():
        words = "the report too (leaky)" if not kept else " + ".join(kept) + (" (leaky)" if key in cohort.leaky else "")
        variants[key] = {"title": words if len(kept) != 1 else f"{words} only"} | ({"only": list(kept)} if kept else {})
    of = {"task": [cohort.task]}
    hidden = ["", *(f"hidden={share:g}" for share in HIDDEN)]
    told = {"rows": ["variant"], "columns": ["mode"]}
    tables = [
        {"title": f"{cohort.task} at the site that took no part", "only": of, **told},
        {"title": f"{cohort.task}, held-out patients of the training sites", "only": of | {"role": ["train"]}, **told},
        {"title": "Every task", "rows": ["variant"], "columns": ["task"], "only": {"mode": ["federated"]}},
        {
            "title": f"{cohort.strong} hidden at test time",
            "rows": ["subgroup"],
            "columns": ["variant"],
            "only": of | {"mode": ["federated"], "subgroup": hidden, "variant": [*DRAWN, *cohort.alone]},
            "picture": "lines",
        },
    ]
    if cohort.leaky:
        some = {"mode": ["federated"], "modalities": ["all"], "variant": ["attention", *cohort.alone, *cohort.leaky]}
        tables.append({"title": "With the leaky report", "rows": ["variant"], "columns": ["task"], "only": of | some})
    return {
        "schema": 1, "name": f"{name.replace('-', '_')}_fusions", "title": cohort.title, "study": "grid_study.toml",
        "seeds": list(cohort.seeds), "modes": list(cohort.modes), "reference": "attention",
        "variants": variants, "tables": tables,
    }  # fmt: skip


def write(path: Path, body: Body) -> Path:
    """A TOML file."""
    path.write_text(dumps(body), encoding="utf-8")
    return path
