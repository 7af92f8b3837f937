"""MedFuse: an LSTM reads the present modalities one after the other, so that an absent one is a shorter sequence."""

from __future__ import annotations

from fl_shared.models.systems.system import System, alone_then_together

MEDFUSE = System(
    name="medfuse",
    title="MedFuse",
    source="Hayat et al. 2022 (MedFuse)",
    kinds=("events", "image"),
    tasks=("in-hospital death", "25 phenotypes"),
    fusions=("lstm",),
    encoders={"events": "events_lstm", "image": "resnet34", "table": "table_mlp"},
    small={"width": 32},
    paper={"width": 256, "dropout": 0.3},
    phases=alone_then_together,
)
