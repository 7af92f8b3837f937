"""Heads of task types; importing this package registers them."""

from fl_shared.models.heads import competing, cox, hazard, logistic, multiclass, regression, weibull

__all__ = ["competing", "cox", "hazard", "logistic", "multiclass", "regression", "weibull"]
