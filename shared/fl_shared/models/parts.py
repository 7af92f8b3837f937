"""Importing this registers every encoder, decoder, fusion and head."""

from fl_shared.models import decoders, encoders, fusion, heads

__all__ = ["decoders", "encoders", "fusion", "heads"]
