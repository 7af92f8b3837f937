"""The baseline: an encoder a modality, masked self-attention over all their tokens, everything trained together."""

from fl_shared.models.systems.system import System

ATTENTION = System(
    name="attention",
    title="Masked self-attention over tokens",
    source="Vaswani et al. 2017; M-PRTM's fusion over tokens",
    kinds=("cine", "waveform", "table", "text"),
    tasks=("any",),
    fusions=("self_attention",),
    small={},
    paper={"width": 256, "heads": 4},
)
