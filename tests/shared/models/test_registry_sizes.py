"""Parameter counts of the published sizes, within 1 %. A new entry has to be put into one of the two tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

from fl_shared.models.catalogue import EXAMPLES, example_study
from fl_shared.models.interface import FusionSpec, StagedEncoder
from fl_shared.models.registry import DECODERS, ENCODERS, FUSIONS, HEADS
from fl_shared.models.systems import SYSTEMS
from fl_shared.study import ModelPlan, TaskPlan

VECTORS = {"image": 1024, "ehr": 768}  # of the foundation models of cross-modal alignment


def plan_of(system: str) -> ModelPlan:
    return example_study(SYSTEMS[system], "paper").model


def encoder(name: str, *, system: str = "attention") -> StagedEncoder:
    """For 12 leads x 640 samples, 48 bins of 38 fields, 20 fields, 224 x 224 pixels."""
    entry = ENCODERS.get(name, key="")
    return entry.build(EXAMPLES[entry.kind], plan_of(system), None)


def fusion(name: str, *, system: str, modalities: int = 2) -> nn.Module:
    model = plan_of(system)
    names = tuple(f"m{k}" for k in range(modalities))
    spec = FusionSpec(
        modalities=names, widths=dict.fromkeys(names, model.width), levels={}, tasks={"task": 1}, model=model
    )
    return FUSIONS.get(name, key="").build(spec)


def aligned(name: str) -> nn.Module:
    """A fusion of cross-modal alignment with its projections, as the paper counts."""
    width = plan_of("tte_alignment").width
    return nn.ModuleList([fusion(name, system="tte_alignment"), *(nn.Linear(n, width) for n in VECTORS.values())])


def dae_former() -> nn.Module:
    """Encoder and decoder for 9 classes."""
    own = encoder("dae_former", system="m_prtm")
    task = TaskPlan(type="segmentation", labels=tuple(f"l{k}" for k in range(8)), modality="cine")
    return nn.ModuleList([own, DECODERS.get("dae_former", key="").build(task, own, EXAMPLES["cine"])])


def head(labels: int, *, features: int) -> nn.Module:
    task = TaskPlan(type="multilabel", labels=tuple(f"l{k}" for k in range(labels)))
    return HEADS.get("multilabel", key="").build(task, features, plan_of("medfuse"))


def macro_network() -> nn.Module:
    """The residual network over segments, and its MLP."""
    own = encoder("hierarchical_series", system="medm2t")
    return nn.ModuleList([own.conv, own.macro, own.norm1, own.mlp, own.norm2])


PUBLISHED: Mapping[str, tuple[int, Callable[[], nn.Module]]] = {
    "encoder dae_former": (20_441_328, lambda: encoder("dae_former", system="m_prtm")),
    "encoder events_lstm": (868_352, lambda: encoder("events_lstm", system="medfuse")),
    "encoder hierarchical_series": (1_735_680 + 590_592, macro_network),
    "encoder medm2t_ecg": (2_154_720 + 4_097_920, lambda: encoder("medm2t_ecg", system="medm2t")),
    "encoder resnet34": (21_284_672, lambda: encoder("resnet34", system="medfuse")),
    "encoder resnet50": (23_508_032, lambda: encoder("resnet50", system="medfuse")),
    "encoder sparse_series": (3_153_920, lambda: encoder("sparse_series", system="medm2t").stages[:2]),  # its BiLSTM
    "encoder table_mlp": (152_320, lambda: encoder("table_mlp", system="m_prtm")),
    "fusion bimodal_attention": (6_304_768, lambda: fusion("bimodal_attention", system="medm2t").pairs),
    "fusion co_attention": (656_000, lambda: aligned("co_attention")),
    "fusion contrastive": (459_000, lambda: aligned("contrastive")),
    "fusion cross_attention": (852_000, lambda: aligned("cross_attention")),
    "fusion fixed_weights": (264_192, lambda: fusion("fixed_weights", system="m_prtm", modalities=3)),
    "fusion lstm": (1_576_960, lambda: fusion("lstm", system="medfuse")),
    "fusion modality_attention": (
        263_168 + 264_192,
        lambda: fusion("modality_attention", system="m_prtm", modalities=3),
    ),
    "decoder dae_former": (48_073_065 - 18_285_584, dae_former),  # with the encoder; without what is never called
    "head multilabel": (12_825, lambda: head(25, features=512)),
}
UNPUBLISHED: Mapping[str, str] = {
    "encoder cine_cnn": "ours, small",
    "encoder ecg_resnet": "ours, small",
    "encoder ehr_mlp": "ours, small",
    "encoder embedding": "has no parameters",
    "encoder events_cnn": "ours, small",
    "encoder events_summary": "ours, small",
    "encoder text_bert": "of its pretrained directory (test_lora.py); over bytes: ours, small",
    "fusion concat": "has no parameters",
    "fusion level_guided": "LeMoF states no dimensions",
    "fusion self_attention": "ours",
    "decoder pyramid": "ours, small",
    "head binary": "a linear map, as multilabel",
    "head competing": "a linear map, as multilabel",
    "head multiclass": "a linear map, as multilabel",
    "head regression": "a linear map, as multilabel",
    "head survival_cox": "a linear map, as multilabel",
    "head survival_hazard": "a linear map, as multilabel",
    "head survival_weibull": "a linear map, as multilabel",
}


def count(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes(name: str) -> None:
    published, build = PUBLISHED[name]
    assert count(build) == pytest.approx(published, rel=0.01)


def test_every_entry_has_a_published_size_or_a_reason() -> None:
    sorts = {"encoder": ENCODERS, "fusion": FUSIONS, "decoder": DECODERS, "head": HEADS}
    assert sorted([*PUBLISHED, *UNPUBLISHED]) == sorted(
        f"{sort} {e.name}" for sort, all_ in sorts.items() for e in all_
    )


def test_what_has_no_parameters_has_none() -> None:
    assert count(lambda: encoder("embedding", system="tte_alignment")) == 0
    assert count(lambda: fusion("concat", system="tte_alignment")) == 0
