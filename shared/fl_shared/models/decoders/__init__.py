"""Decoders of segmentations; importing this package registers them."""

from fl_shared.models.decoders import dae_former, pyramid

__all__ = ["dae_former", "pyramid"]
