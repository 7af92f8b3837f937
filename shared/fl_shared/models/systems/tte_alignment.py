"""Cross-modal alignment for time-to-event: concatenation, contrastive two-step, cross-attention, co-attention.

The paper's encoders are frozen; only projections (``adapters``), fusion and survival head learn. The contrastive
form first aligns the projections, then trains the head on them.
"""

from __future__ import annotations

from typing import Any

from fl_shared.models.systems.system import Outline, Phase, System


def phases(outline: Outline) -> tuple[Phase, ...]:
    """One phase, but alignment first in the contrastive form."""
    if outline.model.get("fusion") != "contrastive":
        return (Phase(name="survival", share=1.0, does="Encoders, projections, fusion and head on time to event."),)
    return (
        Phase(
            name="alignment",
            share=0.5,
            does="Encoders and projections by symmetric InfoNCE over patients who have both modalities.",
            objective="contrastive",
            trains=("encoders", "adapters", "fusion"),
        ),
        Phase(
            name="survival",
            share=0.5,
            does="The head alone, on aligned and frozen projections.",
            trains=("heads",),
        ),
    )


def refuses(study: Any) -> str:
    """InfoNCE compares each patient with all others of the batch."""
    if study.model.fusion != "contrastive":
        return ""
    return "the contrastive loss couples patients, so that no patient's gradient can be bounded"


TTE_ALIGNMENT = System(
    name="tte_alignment",
    title="Cross-modal alignment for time-to-event",
    source="Cross-modal alignment for time-to-event (CT + EHR)",
    kinds=("embedding", "table"),
    tasks=("time to pulmonary embolism or MACE",),
    fusions=("cross_attention", "co_attention", "contrastive", "concat"),
    small={"width": 32, "heads": 4, "head": "mlp"},
    paper={"width": 256, "heads": 4, "head": "mlp", "dropout": 0.2},
    phases=phases,
    objectives={"contrastive": ("contrastive",)},
    refuses=refuses,
)
