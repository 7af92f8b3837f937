"""Fusions that the five papers were compared with, over any encoders."""

from __future__ import annotations

from dataclasses import replace

from fl_shared.models.systems.system import Outline, Phase, System, alone_then_together


def phases(outline: Outline) -> tuple[Phase, ...]:
    """Early fusion freezes encoders that were trained alone; an ensemble of MedFuse learns as MedFuse does; all others
    learn end to end.
    """
    fusion = outline.model.get("fusion")
    if fusion not in ("early", "lstm_ensemble"):
        does = "Encoders, fusion and heads together, end to end, as these baselines are defined (MedFuse, section 4.3)."
        return (Phase(name="training", share=1.0, does=does),)
    alone, together = alone_then_together(outline)
    if fusion == "lstm_ensemble":  # whose heads are the fusion's
        return alone, replace(together, trains=("encoders", "adapters", "fusion"))
    does = "Adapters, fusion and heads on the features of the encoders, now frozen (MedFuse, early fusion)."
    return alone, replace(together, does=does, trains=("adapters", "fusion", *outline.heads()))


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
