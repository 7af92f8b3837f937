"""Fusions of modalities; importing this package registers them."""

from fl_shared.models.fusion import self_attention

__all__ = ["self_attention"]
