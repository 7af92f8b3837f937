"""LeMoF: level-guided fusion. Each level of each encoder predicts, stacking weighs the levels, the best ones attend.

The paper stacks on out-of-fold predictions. Here one fold in five of the training patients, chosen by a salted hash,
is kept from the networks and serves the stacking: K encoders would cost K federated trainings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fl_shared.models.systems.system import Outline, Phase, System

STACKING_RATE = 0.02  # a convex fit of a few weights, which steps of 0.001 would leave where they start
BOTH, FIRST, SECOND = "level_guided", "level_guided_first", "level_guided_second"


def phases(outline: Outline) -> tuple[Phase, ...]:
    """The paper's steps in order; the choice of levels falls away where the study fixes them."""
    levels = Phase(
        name="levels",
        share=0.4,
        does="Encoders and a predictor on each of their three levels (LeMoF, module 1).",
        objective="levels",
        trains=("encoders", "fusion.levels"),
        patients="fit",
    )
    meta = Phase(
        name="meta",
        share=0.1,
        does="Logistic meta-learners over the levels' predictions, on patients that no network saw.",
        objective="meta",
        trains=("fusion.meta",),
        patients="stack",
        learning_rate=STACKING_RATE,
    )
    choose = Phase(
        name="choose",
        share=0.0,
        does="Mean absolute Shapley value of each level, averaged over sites: the largest is a modality's best level.",
        objective="choose",
        trains=("fusion.importance",),
        patients="stack",
    )
    cross = Phase(
        name="cross",
        share=0.3,
        does="Cross-attention between the best levels, encoders frozen (LeMoF, module 2).",
        objective="cross",
        trains=("fusion.cross",),
        patients="fit",
    )
    final = Phase(
        name="final",
        share=0.2,
        does="Logistic stacking of both modules, on patients that no network saw.",
        trains=("fusion.final",),
        patients="stack",
        learning_rate=STACKING_RATE,
    )
    fixed = set(outline.model.get("levels", {})) >= set(outline.kinds)
    chosen = (levels, meta) if fixed else (levels, meta, choose)
    alone = {FIRST: final, SECOND: replace(cross, objective="tasks")}.get(str(outline.model["fusion"]))
    return (*chosen, cross, final) if alone is None else (*chosen, alone)


def refuses(study: Any) -> str:
    """The best level is a function of the training patients, released without noise."""
    if set(study.model.levels) >= set(study.modalities):
        return ""
    return "the choice of the best level is a release of its own: fix model.levels from a public or disjoint cohort"


LEMOF = System(
    name="lemof",
    title="LeMoF",
    source="LeMoF (ECG + EHR, length of stay)",
    kinds=("waveform", "table"),
    tasks=("length of stay above a threshold",),
    fusions=(BOTH, FIRST, SECOND),
    small={"width": 32, "heads": 4},
    paper={"width": 128, "heads": 4},
    phases=phases,
    objectives={
        BOTH: ("levels", "meta", "choose", "cross"),
        FIRST: ("levels", "meta", "choose"),
        SECOND: ("levels", "meta", "choose"),
    },
    refuses=refuses,
)
