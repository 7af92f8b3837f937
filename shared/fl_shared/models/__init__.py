"""Encoders, fusions, heads and systems, by name."""
