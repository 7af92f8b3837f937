"""Parameter counts of the published sizes, within 1 %. A new entry has to be put into one of the two tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

from fl_shared import concepts
from fl_shared.models.catalogue import EXAMPLES, example_study
from fl_shared.models.interface import FusionSpec, StagedEncoder
from fl_shared.models.registry import DECODERS, ENCODERS, FUSIONS, HEADS
from fl_shared.models.systems import SYSTEMS
from fl_shared.study import ModalityPlan, ModelPlan, TaskPlan

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


def inside(name: str, *, image: tuple[int, int], ehr: int = 256, guide: str | None = None) -> nn.Module:
    """A fusion inside MedFuse's encoders: channels of the last two stages of the image's, width of the EHR's."""
    spec = FusionSpec(
        modalities=("ehr", "image"),
        widths={"ehr": 256, "image": 256},
        levels={"ehr": (76, ehr, ehr), "image": (128, *image)},
        tasks={"task": 1},
        model=plan_of("medfuse").model_copy(update={"guide": guide}),
        own={"ehr": ehr, "image": image[-1]},
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


def classified(name: str, *classifier: nn.Module) -> nn.Module:
    """An encoder with the classifier of the five superclasses of PTB-XL, which its paper counts."""
    return nn.ModuleList([encoder(name), *classifier])


def benchmark_head() -> tuple[nn.Module, ...]:
    """What the PTB-XL benchmark puts behind concat pooling."""
    return nn.LayerNorm(512), nn.Linear(512, 128), nn.LayerNorm(128), nn.Linear(128, 5)


def drfuse() -> nn.Module:
    """What stands behind the branches of DrFuse, before the final head."""
    own = fusion("drfuse", system="baselines")
    return nn.ModuleList([own.attention, own.projector])


def tabular(name: str, *, numbers: int, words: int = 0) -> StagedEncoder:
    """A table's encoder over concepts with and without words."""
    known: dict[bool, list[str]] = {False: [], True: []}
    for field in concepts.names():
        known[bool(concepts.concept(field).codes)].append(field)
    plan = ModalityPlan(kind="table", fields=(*known[False][:numbers], *known[True][:words]))
    return ENCODERS.get(name, key="").build(plan, plan_of("attention"), None)


def tabnet() -> nn.Module:
    """With what the published count holds beside: two norms of the inputs and the logit."""
    norms = (nn.LayerNorm(50) for _ in range(2))
    return nn.ModuleList([tabular("tabnet", numbers=25), *norms, nn.Linear(8, 1, bias=False)])


def tab_transformer() -> nn.Module:
    """Without the maps of flags and tokens, which are ours."""
    own = tabular("tab_transformer", numbers=40, words=10)
    return nn.ModuleList([own.tokens, own.stages, own.inner, own.outer])


def tpc(fields: int, *, static: int = 64) -> nn.Module:
    """With static inputs and the hour of the day in every layer, and a last map and unit for each of two tasks."""
    plan = EXAMPLES["events"].model_copy(update={"fields": tuple(f"f{k}" for k in range(fields))})
    own = ENCODERS.get("tpc", key="").build(plan, plan_of("attention"), None)
    more = [nn.Linear(static + 1, 5, bias=False) for _ in range(8)]
    second = [nn.Linear(own.out.in_features + static, 36), nn.LayerNorm(36), nn.Linear(static, 36, bias=False)]
    return nn.ModuleList([own, *more, *second, nn.Linear(36, 2)])


PUBLISHED: Mapping[str, tuple[int, Callable[[], nn.Module]]] = {
    "encoder dae_former": (20_441_328, lambda: encoder("dae_former", system="m_prtm")),
    "encoder ecg_cnn": (146_000, lambda: encoder("ecg_cnn")),
    "encoder ecg_lstm": (443_000, lambda: encoder("ecg_lstm")),
    "encoder ecg_resnet34": (7_230_000, lambda: classified("ecg_resnet34", nn.Linear(512, 5))),
    "encoder events_lstm": (868_352, lambda: encoder("events_lstm", system="medfuse")),
    "encoder ft_transformer": (919_000, lambda: tabular("ft_transformer", numbers=40, words=10)),
    "encoder hierarchical_series": (1_735_680 + 590_592, macro_network),
    "encoder medm2t_ecg": (2_154_720 + 4_097_920, lambda: encoder("medm2t_ecg", system="medm2t")),
    "encoder resnet34": (21_284_672, lambda: encoder("resnet34", system="medfuse")),
    "encoder resnet50": (23_508_032, lambda: encoder("resnet50", system="medfuse")),
    "encoder sparse_series": (3_153_920, lambda: encoder("sparse_series", system="medm2t").stages[:2]),  # its BiLSTM
    "encoder tab_transformer": (1_730_000, tab_transformer),
    "encoder table_mlp": (152_320, lambda: encoder("table_mlp", system="m_prtm")),
    "encoder tabnet": (8_940, tabnet),
    "encoder tpc": (253_000, lambda: tpc(17)),
    "encoder wavenet": (613_000, lambda: encoder("wavenet")),
    "encoder xresnet1d101": (1_870_000, lambda: classified("xresnet1d101", *benchmark_head())),
    "fusion bimodal_attention": (6_304_768, lambda: fusion("bimodal_attention", system="medm2t").pairs),
    "fusion co_attention": (656_000, lambda: aligned("co_attention")),
    "fusion contrastive": (459_000, lambda: aligned("contrastive")),
    "fusion cross_attention": (852_000, lambda: aligned("cross_attention")),
    "fusion daft": (96_000, lambda: inside("daft", image=(256, 512), guide="ehr")),
    "fusion fixed_weights": (264_192, lambda: fusion("fixed_weights", system="m_prtm", modalities=3)),
    "fusion hyperfusion": (297_297, lambda: inside("hyperfusion", image=(128, 256), ehr=8, guide="image")),
    "fusion drfuse": (3 * (256 + 1) * 256 + 328_704, drfuse),  # q, v and one label's key; the projector
    "fusion lstm": (1_576_960, lambda: fusion("lstm", system="medfuse")),
    "fusion lstm_ensemble": (2 * 1_576_960, lambda: fusion("lstm_ensemble", system="baselines")),
    "fusion mmtm": (262_912 + 590_976, lambda: inside("mmtm", image=(256, 512))),
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
    "fusion early": "has no parameters, as concat",
    "fusion joint": "has no parameters, as concat",
    "fusion late_average": "a linear map a modality",
    "fusion level_guided": "LeMoF states no dimensions",
    "fusion level_guided_first": "LeMoF states no dimensions",
    "fusion level_guided_second": "LeMoF states no dimensions",
    "fusion self_attention": "ours",
    "fusion unified": "a linear map a set of modalities",
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
