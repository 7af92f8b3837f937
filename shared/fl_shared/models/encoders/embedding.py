"""Vectors that another model computed (slices of a CT, visits of a record), as they are.

Cross-modal alignment for time-to-event reads such. The encoder has no parameters: concatenation then fuses the raw
vectors, as there, and where a fusion wants its own width the adapters project. For the same reason there is no norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import token_mean
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

STAGES = 3


class Embedding(StagedEncoder):
    """``vectors`` (B, V, features) and ``mask`` (B, V) -> V tokens, the vectors; pooled is the mean of the valid ones.

    All three levels are the vectors: the depth is that of the model that computed them, which is not here. A choice
    between levels (LeMoF) is idle for such a modality.
    """

    def __init__(self, *, features: int) -> None:
        super().__init__()
        self.width = features
        self.stage_channels = (features,) * STAGES

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """What is masked is 0, whatever it held."""
        mask = inputs["mask"]
        return State(map=torch.where(mask[:, :, None], inputs["vectors"], 0).transpose(1, 2), mask=mask)

    def run_stage(self, index: int, state: State) -> State:
        """The map as it is."""
        return state.after(state.map, state.mask)

    def finish(self, state: State) -> EncoderOutput:
        """The vectors and their mean; 0 for a row without any."""
        tokens = state.map.transpose(1, 2)
        pooled = token_mean(tokens, state.valid)
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=state.valid, levels=state.done)


@ENCODERS.register("embedding", kind="embedding", source="Cross-modal alignment for time-to-event")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> Embedding:
    """The encoder of an embedding modality."""
    if plan.features is None:  # the study's own check; said here for the type
        raise ValueError("an embedding needs its features")
    return loaded(Embedding(features=plan.features), weights)
