"""MedM2T: sparse and dense time series, ECG and static data, bi-modal attention over every pair of modalities.

Unimodal encoders are pretrained on the tasks, each on the patients who have the modality, then everything is trained
together (the paper's code does this supervised; a published summary that says self-supervised contradicts it).
"""

from __future__ import annotations

from fl_shared.models.systems.system import System, alone_then_together

MEDM2T = System(
    name="medm2t",
    title="MedM2T",
    source="MedM2T, arXiv v2",
    kinds=("waveform", "events", "table", "text"),
    tasks=("cardiovascular disease in 90 days", "in-hospital death", "length of stay"),
    fusions=("bimodal_attention",),
    encoders={"waveform": "medm2t_ecg", "events": "sparse_series", "table": "table_mlp"},
    small={"width": 32, "heads": 4},
    paper={"width": 512, "heads": 64, "dropout": 0.1},
    phases=alone_then_together,
)
