"""Encoders of single modalities; importing this package registers them."""

from fl_shared.models.encoders import cine_cnn, ecg_resnet, ehr_mlp, events_cnn, text_bert

__all__ = ["cine_cnn", "ecg_resnet", "ehr_mlp", "events_cnn", "text_bert"]
