"""Early fusion: the network of joint fusion, over encoders that were trained alone and then frozen (MedFuse).

What differs are the phases of the system (`fl_shared.models.systems.baselines`).
"""

from __future__ import annotations

from fl_shared.models.fusion.concat import ConcatFusion
from fl_shared.models.interface import FusionSpec
from fl_shared.models.registry import FUSIONS


@FUSIONS.register("early", source="Hayat et al. 2022 (MedFuse), early fusion")
def build(spec: FusionSpec) -> ConcatFusion:
    """The fusion of the study's modalities."""
    return ConcatFusion(spec)
