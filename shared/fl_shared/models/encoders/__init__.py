"""Encoders of single modalities; importing this package registers them."""

from fl_shared.models.encoders import (
    cine_cnn,
    dae_former,
    ecg_resnet,
    ehr_mlp,
    embedding,
    events_cnn,
    events_lstm,
    events_summary,
    hierarchical_series,
    medm2t_ecg,
    resnet,
    sparse_series,
    table_mlp,
    text_bert,
)

__all__ = [
    "cine_cnn",
    "dae_former",
    "ecg_resnet",
    "ehr_mlp",
    "embedding",
    "events_cnn",
    "events_lstm",
    "events_summary",
    "hierarchical_series",
    "medm2t_ecg",
    "resnet",
    "sparse_series",
    "table_mlp",
    "text_bert",
]
