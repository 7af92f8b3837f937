"""The systems that a study can name, each one file; no torch is imported here."""

from fl_shared.models.systems.resolve import MOST_ROUNDS, SYSTEMS, USUAL_ENCODERS, opened, outline, resolved
from fl_shared.models.systems.system import Outline, Phase, System

__all__ = ["MOST_ROUNDS", "SYSTEMS", "USUAL_ENCODERS", "Outline", "Phase", "System", "opened", "outline", "resolved"]
