"""Heads of task types; importing this package registers them."""

from fl_shared.models.heads import logistic

__all__ = ["logistic"]
