"""Comparisons that hold all that a page can show, wholly invented (labelled synthetic), with numbers by a rule."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

from fl_server.comparison.plan import PublishedNumber, TablePlan
from fl_server.comparison.result import CellTold, ComparisonResult, Contrast, Number, Part, VariantTold
from fl_shared.metrics.table import METRICS
from fl_shared.subgroups import hidden_name

SITES = {"harbour": "external", "west_bank": "external", "drum_tower": "train", "east_lake": "train"}
TASKS = {"death": ("",), "stay": ("",)}
TYPES = {"death": "binary", "stay": "regression"}
HIDDEN = tuple(map(hidden_name, (0.1, 0.25, 0.5, 0.75, 0.9)))
LEVEL = {"auroc": 0.78, "auprc": 0.41, "mae": 3.4, "r2": 0.3}


def draw(*words: str) -> float:
    """A number of these words, 0 to 1, that looks like chance."""
    return int(hashlib.sha256("|".join(words).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def number(variant: str, value: float | None, *, width: float = 0.04, **changes) -> Number:
    """AUROC of death at the external sites of a federated variant, or what is changed in it."""
    row = {
        "variant": variant, "mode": "federated", "role": "external", "site": "", "task": "death", "label": "",
        "modalities": "all", "subgroup": "", "metric": "auroc", "seeds": 1,
    }  # fmt: skip
    ends = (None, None) if value is None else (round(value - width, 4), round(value + width, 4))
    return Number(**{**row, "value": value, "low": ends[0], "high": ends[1], **changes})


def contrast(variant: str, value: float | None, p: float | None, *, width: float = 0.03, **changes) -> Contrast:
    """As `number`, less the reference 'plain'."""
    base = number(variant, value, width=width).model_dump(exclude={"lowest", "highest"})
    return Contrast(**{**base, "against": "plain", "p": p, "p_holm": p, **changes})


def variant(name: str, title: str = "", **choices: str) -> VariantTold:
    return VariantTold(
        name=name, title=title or name, choices=choices, system="attention", fusion=choices.get("fusion", "attention"),
        encoders={"ecg": "ecg_resnet", "ehr": "ehr_mlp"}, native=name != "plain", parameters=123_456,
    )  # fmt: skip


def comparison(
    variants: Sequence[VariantTold],
    numbers: Iterable[Number],
    contrasts: Iterable[Contrast] = (),
    *,
    cells: Sequence[CellTold] | None = None,
    **changes,
) -> ComparisonResult:
    """A comparison of one task, in which all has finished unless ``cells`` says otherwise."""
    modes, seeds = changes.get("modes", ("federated",)), changes.get("seeds", (1,))
    every = [
        CellTold(variant=v.name, mode=m, seed=s, state="finished", runs=(f"runs/toy/{v.name}_{m}_{s}",), seconds=12.3)
        for v in variants
        for m in modes
        for s in seeds
    ]
    given = {(cell.variant, cell.mode, cell.seed): cell for cell in cells or ()}
    base = {
        "schema": 1, "name": "toy", "title": "", "study": "toy_study", "hash": "ab" * 32, "synthetic": True,
        "package": "0.1.0", "reference": variants[0].name, "axes": {}, "modes": modes, "seeds": seeds,
        "tasks": {"death": ("",)}, "types": {"death": "binary"}, "headline": {"death": "all"}, "sites": SITES,
        "variants": tuple(variants), "numbers": tuple(numbers), "contrasts": tuple(contrasts),
        "cells": tuple(given.get((c.variant, c.mode, c.seed), c) for c in every),
    }  # fmt: skip
    return ComparisonResult(**{**base, **changes})


FUSIONS = {
    "plain": "Self-attention over the modality tokens", "early": "Early", "joint": "Joint", "late": "Late average",
    "mmtm": "MMTM", "daft": "DAFT", "drfuse": "DrFuse", "medfuse": "MedFuse", "hyper": "HyperFusion",
}  # fmt: skip
ECG = {"cnn": "CNN", "lstm": "LSTM", "resnet": "ResNet-34 1-D", "xresnet": "xresnet1d101", "wavenet": "WaveNet"}
EHR = {"ft": "FT-Transformer", "tpc": "Temporal pointwise convolution", "tabnet": "TabNet", "tab": "TabTransformer"}
MODES = ("local", "federated", "epsilon_3", "epsilon_8", "pooled")
REFUSED = "per-patient gradients: batch normalisation <b>mixes</b> patients"


def everything() -> ComparisonResult:
    """Nine fusions and a grid of encoders, on two tasks, in five modes with three seeds; some refused or waiting."""
    variants = [variant(name, title) for name, title in FUSIONS.items()]
    variants += [
        variant(f"{ecg}.{ehr}", f"{ECG[ecg]}, {EHR[ehr]}", ecg=ecg, ehr=ehr)  # no mode but federated is told of these
        for ecg in ECG
        for ehr in EHR
    ]
    cells = [
        CellTold(variant="mmtm", mode=mode, seed=seed, state="refused", reason=REFUSED)
        for mode in MODES
        for seed in (1, 2, 3)
        if mode.startswith("epsilon")
    ]
    cells += [
        CellTold(variant="hyper", mode="local", seed=s, state="failed", reason="out of memory") for s in (1, 2, 3)
    ]
    cells += [CellTold(variant="daft", mode="pooled", seed=3, state="waiting")]
    cells += [CellTold(variant="joint", mode="pooled", seed=s, state="waiting") for s in (1, 2, 3)]
    cells += [
        CellTold(variant="wavenet.tabnet", mode="federated", seed=s, state="refused", reason="three levels are needed")
        for s in (1, 2, 3)
    ]
    gone = {(cell.variant, cell.mode) for cell in cells} - {("daft", "pooled")}
    numbers = [
        one
        for v in variants
        for mode in (MODES if v.name in FUSIONS else ("federated",))
        if (v.name, mode) not in gone
        for one in _numbers(v.name, mode)
    ]
    return comparison(
        variants, numbers, list(_contrasts(numbers)), cells=cells, modes=MODES, seeds=(1, 2, 3), tasks=TASKS,
        types=TYPES,
        title="Fusions and encoders on the toy cohort", headline={"death": "all", "stay": "all"},
        axes={"ecg": ECG, "ehr": EHR}, tables=TABLES, workers=2, wall_seconds=1834.6,
        notes=("settings are the study's",), parts=tuple(_parts()),
    )  # fmt: skip


TABLES = (
    TablePlan(
        title="Nine fusions", source="an invented paper, Table 1", only={"task": ("death",), "variant": tuple(FUSIONS)},
        columns=("mode",),
        published=(
            PublishedNumber(row="early", column="federated", value=0.77),
            PublishedNumber(row="other", column="federated", value=0.71),
        ),
    ),
    TablePlan(
        title="Nine fusions, federated", columns=("metric",),
        only={"variant": tuple(FUSIONS), "mode": ("federated",), "task": ("death", "stay"), "metric": ("auroc", "mae")},
    ),
    TablePlan(
        title="ECG by EHR encoder", rows=("ecg",), columns=("ehr",), only={"task": ("death",), "mode": ("federated",)},
        picture="heat",
    ),
    TablePlan(
        title="Missing inputs", columns=("subgroup",), picture="lines",
        only={"task": ("death",), "mode": ("federated",), "variant": ("plain", "early", "late", "medfuse"),
              "subgroup": ("", *HIDDEN)},
    ),
    TablePlan(
        title="What privacy costs", columns=("mode",), picture="lines",
        only={"task": ("stay",), "variant": ("plain", "early", "late", "mmtm")},
    ),
    TablePlan(
        title="Fusions by site, internal and external", columns=("role", "site"),
        only={"task": ("stay",), "variant": ("plain", "early", "late", "mmtm"), "mode": ("federated",)},
    ),
)  # fmt: skip


def _parts() -> Iterable[Part]:
    """Attention of two fusions, at sites of both roles, and what two groups of fields are worth to them."""
    for name in ("plain", "medfuse"):
        for site, role in SITES.items():
            at = {"variant": name, "mode": "federated", "role": role, "site": site, "n": 61, "seeds": 3}
            ecg = round(0.3 + 0.4 * draw(name, site), 2)
            for modality, share in (("ecg", ecg), ("ehr", round(1 - ecg, 2))):
                ends = {"low": round(share - 0.03, 2), "high": round(share + 0.03, 2)}
                yield Part(kind="attention", name=modality, value=share, **ends, **at)
            for group in ("laboratory", "person"):
                lost = round(0.1 * draw(name, site, group), 4)
                ends = {"low": round(lost - 0.02, 4), "high": round(lost + 0.02, 4)}
                yield Part(kind="importance", task="death", metric="auroc", name=group, value=lost, **ends, **at)


def _numbers(name: str, mode: str) -> Iterable[Number]:
    for task, metric in (("death", "auroc"), ("death", "auprc"), ("stay", "mae")):
        for role in ("external", "train"):
            places = [("", ""), *((site, "") for site, its in SITES.items() if its == role)]
            if metric == "auroc" and mode == "federated":
                places += [("", group) for group in HIDDEN]
            for site, group in places:
                yield _one(name, mode, task=task, metric=metric, role=role, site=site, subgroup=group)


def _one(name: str, mode: str, **at: str) -> Number:
    metric = METRICS[at["metric"]]
    size = LEVEL[at["metric"]]
    worse = {"local": 0.08, "federated": 0.02, "epsilon_3": 0.1, "epsilon_8": 0.06, "pooled": 0.0}[mode]
    worse += 0.16 * float(at["subgroup"].partition("=")[2] or 0) * (1 + draw(name)) + 0.03 * (at["role"] == "external")
    worse += 0.12 * draw(name, at["metric"]) + 0.02 * draw(name, mode, *at.values())
    value = round(size * (1 + (-worse if metric.higher_is_better else worse)), 4)
    spread = round(0.012 * size, 4)
    seeds = 2 if (name, mode) == ("daft", "pooled") else 3
    return number(
        name, value, width=0.05 * size, mode=mode, seeds=seeds, lowest=round(value - spread, 4),
        highest=round(value + spread, 4), **at,
    )  # fmt: skip


def _contrasts(numbers: Sequence[Number]) -> Iterable[Contrast]:
    def key(n: Number) -> tuple[str, ...]:
        return (n.mode, n.role, n.site, n.task, n.label, n.modalities, n.subgroup, n.metric)

    plain = {key(n): n for n in numbers if n.variant == "plain"}
    for n in numbers:
        against = plain.get(key(n))
        if n.variant == "plain" or against is None or n.value is None or against.value is None:
            continue
        value, half = round(n.value - against.value, 4), 0.035 * LEVEL[n.metric]
        p = 0.01 if abs(value) > half else 0.41
        yield contrast(
            n.variant, value, p, width=half,
            **{name: getattr(n, name) for name in ("mode", "role", "site", "task", "subgroup", "metric", "seeds")},
        )  # fmt: skip


def marked(result: ComparisonResult) -> ComparisonResult:
    """With 3 as the third and last decimal of every number: one that a page made up itself can be told."""

    def mark(row: Number | Contrast) -> Number | Contrast:
        kept = {name: getattr(row, name, None) for name in ("value", "low", "high", "lowest", "highest")}
        told = {
            name: math.copysign(round(math.floor(abs(v) * 100) / 100 + 0.003, 3), v)
            for name, v in kept.items()
            if v is not None
        }
        return row.model_copy(
            update=told | ({"p_holm": row.p_holm and round(row.p_holm + 0.003, 3)} if isinstance(row, Contrast) else {})
        )

    return result.model_copy(
        update={"numbers": tuple(map(mark, result.numbers)), "contrasts": tuple(map(mark, result.contrasts))}
    )
