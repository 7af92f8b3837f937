"""Fusions that the five papers were compared with, over any encoders."""

from __future__ import annotations

from fl_shared.models.systems.system import System

BASELINES = System(
    name="baselines",
    title="Baseline fusions",
    source="Baselines of MedFuse (Hayat et al. 2022, section 4.3) and of LeMoF",
    kinds=("waveform", "table"),
    tasks=("mortality", "phenotypes", "length of stay above a threshold"),
    fusions=("joint",),
    small={"width": 32, "heads": 4},
    paper={"width": 256, "heads": 4},
)
