"""Systems: named wholes of encoders, fusion and heads; importing this package registers them."""

from fl_shared.models.systems import attention

__all__ = ["attention"]
