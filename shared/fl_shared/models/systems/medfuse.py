"""MedFuse: an LSTM reads the present modalities one after the other, so that an absent one is a shorter sequence."""

from __future__ import annotations

from fl_shared.models.systems.system import Outline, Phase, System


def phases(outline: Outline) -> tuple[Phase, ...]:
    """Encoders with heads of their own, then all together."""
    return (
        Phase(
            name="unimodal",
            share=0.4,
            does="Each encoder with heads of its own on the patients who have the modality (MedFuse, section 3).",
            objective="unimodal",
            trains=("encoders", "adapters", *outline.lone_heads()),
        ),
        Phase(
            name="fusion",
            share=0.6,
            does="Everything together, from the pretrained encoders (MedFuse, section 3).",
            trains=("encoders", "adapters", "fusion", *outline.heads()),
        ),
    )


MEDFUSE = System(
    name="medfuse",
    title="MedFuse",
    source="Hayat et al. 2022, MedFuse: facts section 5",
    kinds=("events", "image"),
    tasks=("in-hospital death", "25 phenotypes"),
    fusions=("lstm",),
    encoders={"events": "events_lstm", "image": "resnet34", "table": "table_mlp"},
    small={"width": 32},
    paper={"width": 256, "dropout": 0.3},
    phases=phases,
)
