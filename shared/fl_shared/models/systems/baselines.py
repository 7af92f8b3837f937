"""Fusions that the five papers were compared with, over any encoders."""

from __future__ import annotations

from fl_shared.models.systems.system import Outline, Phase, System, alone_then_together


def phases(outline: Outline) -> tuple[Phase, ...]:
    """Early fusion freezes encoders that were trained alone; all others learn end to end."""
    if outline.model.get("fusion") != "early":
        does = "Encoders, fusion and heads together, end to end, as these baselines are defined (MedFuse, section 4.3)."
        return (Phase(name="training", share=1.0, does=does),)
    alone, _ = alone_then_together(outline)
    fusion = Phase(
        name="fusion",
        share=0.6,
        does="Adapters, fusion and heads on the features of the encoders, now frozen (MedFuse, early fusion).",
        trains=("adapters", "fusion", *outline.heads()),
    )
    return alone, fusion


BASELINES = System(
    name="baselines",
    title="Baseline fusions",
    source="Baselines of MedFuse (Hayat et al. 2022, section 4.3) and of LeMoF",
    kinds=("waveform", "table"),
    tasks=("mortality", "phenotypes", "length of stay above a threshold"),
    fusions=("joint", "early", "late_average", "unified", "lstm_ensemble", "drfuse", "mmtm", "daft", "hyperfusion"),
    small={"width": 32, "heads": 4},
    paper={"width": 256, "heads": 4},
    phases=phases,
)
