"""Encoders of single modalities; importing this package registers them."""

from fl_shared.models.encoders import ecg_resnet, ehr_mlp, text_bert

__all__ = ["ecg_resnet", "ehr_mlp", "text_bert"]
