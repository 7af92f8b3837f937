"""A plain convolutional network over ECGs: the baseline encoder of LeMoF's comparison.

The paper states no sizes; ours: three convolutions of 7, 5 and 3 steps, of 64, 128 and 256 channels, each with
GroupNorm and ReLU; 145,536 parameters at 12 leads. A step of the last map is 32 samples and sees 55: half a second at
100 to 125 Hz, for which it is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.waveforms import ConvNorm, centred, stretches
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

CHANNELS = {"small": (32, 64, 96), "paper": (64, 128, 256)}
KERNELS = (7, 5, 3)
STRIDES = (4, 4, 2)


class EcgCnn(StagedEncoder):
    """``signal`` (B, leads, samples) mV and ``lead_mask`` (B, leads) -> 16 tokens as wide as the last map.

    The levels are the blocks; pooled is the mean over time.
    """

    def __init__(self, *, leads: int, channels: tuple[int, int, int], dropout: float) -> None:
        super().__init__()
        self.stage_channels, self.width = channels, channels[-1]
        shapes = zip((leads, *channels[:-1]), channels, KERNELS, STRIDES, strict=True)
        self.stages = nn.ModuleList(ConvNorm(i, o, kernel, stride=stride) for i, o, kernel, stride in shapes)
        self.dropout = nn.Dropout(dropout)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """The signal itself."""
        return State(map=centred(inputs))

    def run_stage(self, index: int, state: State) -> State:
        """One convolution; dropout between them."""
        given = state.map if index == 0 else self.dropout(state.map)
        return state.after(F.relu(self.stages[index](given)))

    def finish(self, state: State) -> EncoderOutput:
        """Means over time."""
        tokens = stretches(state.map)
        pooled = state.map.mean(-1)
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


@ENCODERS.register("ecg_cnn", kind="waveform", source="LeMoF, baseline CNN (sizes ours)")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> EcgCnn:
    """The encoder of a waveform modality; the small one has channels of 32 to 96."""
    return loaded(EcgCnn(leads=len(plan.leads), channels=CHANNELS[model.preset], dropout=model.dropout), weights)
