"""Fusions of modalities; importing this package registers them."""

from fl_shared.models.fusion import (
    bimodal_attention,
    co_attention,
    concat,
    contrastive,
    cross_attention,
    fixed_weights,
    joint,
    level_guided,
    lstm,
    modality_attention,
    self_attention,
)

__all__ = [
    "bimodal_attention",
    "co_attention",
    "concat",
    "contrastive",
    "cross_attention",
    "fixed_weights",
    "joint",
    "level_guided",
    "lstm",
    "modality_attention",
    "self_attention",
]
