"""Joint fusion: pooled vectors of one width side by side, everything trained end to end (MedFuse, section 4.3)."""

from __future__ import annotations

from fl_shared.models.fusion.concat import ConcatFusion
from fl_shared.models.interface import FusionSpec
from fl_shared.models.registry import FUSIONS


@FUSIONS.register("joint", source="Hayat et al. 2022 (MedFuse), joint fusion")
def build(spec: FusionSpec) -> ConcatFusion:
    """The fusion of the study's modalities."""
    return ConcatFusion(spec)
