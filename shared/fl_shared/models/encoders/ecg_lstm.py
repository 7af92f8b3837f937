"""The recurrent network that LeMoF sets its ECG encoders against: a convolutional stem and three LSTM layers.

The paper states no sizes; ours: convolutions of 7 and 5 steps to 64 and 128 channels, an eighth of the samples, then
three LSTMs of 128, a LayerNorm behind each; 443,584 parameters at 12 leads. As the layers read step after step, a
record should have 100 to 125 Hz: ten seconds are then 125 to 157 steps. The LSTM is `fl_shared.models.recurrent`'s, so
that per-patient gradients are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.waveforms import centred, stretches
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.recurrent import Lstm
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

SIZES = {"small": (32, 64), "paper": (64, 128)}  # channels of the stem; the second is the width of the layers
LAYERS = 3


class Layer(nn.Module):
    """Steps (B, T, d) -> states of an LSTM, normalised (B, T, d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = Lstm(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """One layer."""
        out: Tensor = self.norm(self.lstm(x))
        return out


class EcgLstm(StagedEncoder):
    """``signal`` (B, leads, samples) mV and ``lead_mask`` (B, leads) -> 16 tokens as wide as a layer.

    The levels are the layers' states; pooled is the mean of the last one's over time, as what an ECG shows is not at
    its end. Dropout acts between layers.
    """

    def __init__(self, *, leads: int, channels: tuple[int, int], dropout: float) -> None:
        super().__init__()
        first, width = channels
        self.stage_channels, self.width = (width,) * LAYERS, width
        self.conv1 = nn.Conv1d(leads, first, 7, stride=4, padding=3)
        self.conv2 = nn.Conv1d(first, width, 5, stride=2, padding=2)
        self.stages = nn.ModuleList(Layer(width) for _ in range(LAYERS))
        self.dropout = nn.Dropout(dropout)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Two convolutions."""
        return State(map=F.relu(self.conv2(F.relu(self.conv1(centred(inputs))))))

    def run_stage(self, index: int, state: State) -> State:
        """One layer."""
        given = state.map if index == 0 else self.dropout(state.map)
        return state.after(self.stages[index](given.transpose(1, 2)).transpose(1, 2))

    def finish(self, state: State) -> EncoderOutput:
        """Means over time."""
        tokens = stretches(state.map)
        pooled = state.map.mean(-1)
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


@ENCODERS.register("ecg_lstm", kind="waveform", source="LeMoF, LSTM (sizes ours); Hochreiter and Schmidhuber 1997")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> EcgLstm:
    """The encoder of a waveform modality; the small one is 64 wide."""
    return loaded(EcgLstm(leads=len(plan.leads), channels=SIZES[model.preset], dropout=model.dropout), weights)
