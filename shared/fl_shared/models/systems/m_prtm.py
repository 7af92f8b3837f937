"""M-PRTM: cine, text and numbers of heart-failure patients, self-attention over one vector a modality.

Its two networks are two phases: fibrosis segmentation trains the cine encoder, which then is frozen (136 patients
cannot support 48 million free parameters); the prognosis follows on its features. A BERT with pretrained weights is
frozen too. ``fixed_weights`` is the ablation with set shares.
"""

from __future__ import annotations

from fl_shared.models.systems.system import Outline, Phase, System


def phases(outline: Outline) -> tuple[Phase, ...]:
    """Segmentation, where the study has such a task, then prognosis."""
    cine = tuple(name for name, kind in outline.kinds.items() if kind == "cine")
    pretrained = tuple(name for name, kind in outline.kinds.items() if kind == "text" and name in outline.weights)
    drawn = tuple(name for name, kind in outline.tasks.items() if kind == "segmentation")
    frozen = (cine if drawn else ()) + pretrained
    heads = tuple(f"heads.{name}" for name in outline.tasks if name not in drawn)
    prognosis = Phase(
        name="prognosis",
        share=0.6,
        does="Adapters, fusion and heads, on the features of the frozen encoders (M-PRTM, two networks).",
        trains=(*outline.encoders(without=frozen), "adapters", "fusion", *heads),
    )
    if not drawn:
        return (prognosis,)
    segmentation = Phase(
        name="segmentation",
        share=0.4,
        does="The cine encoder and its decoder on drawn masks (M-PRTM, DAE-Former).",
        objective="segmentation",
        trains=(*(f"encoders.{name}" for name in cine), *(f"heads.{name}" for name in drawn)),
    )
    return (segmentation, prognosis)


M_PRTM = System(
    name="m_prtm",
    title="M-PRTM",
    source="M-PRTM (heart failure, CMR + text + numbers)",
    kinds=("cine", "table", "text"),
    tasks=("death", "cause of death", "MACCE", "days to rehospitalisation", "follow-up", "fibrosis", "risk timeline"),
    fusions=("modality_attention", "fixed_weights"),
    encoders={"cine": "dae_former", "table": "table_mlp"},
    small={"width": 32, "heads": 4},
    paper={"width": 256, "heads": 4, "dropout": 0.2},
    phases=phases,
)
