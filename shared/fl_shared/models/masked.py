"""Masked modelling of series: parts of a signal are hidden, and read off the encoder's tokens again.

As in masked autoencoders (He et al. 2022, section 3), with a linear decoder and an encoder that sees the gaps as 0, so
that any encoder serves. No label is needed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.interface import EncoderOutput
from fl_shared.models.tokens import masked_mean
from fl_shared.study import ModalityPlan

PARTS, HIDDEN = 20, 6  # equal parts of a series, at most, and how many of them are hidden in each row


class MaskedSeries(nn.Module):
    """Hides parts of a series and predicts them from tokens: leads of a waveform, fields of events.

    Args:
        plan: of a waveform or of events.
        width: d of the encoder's tokens.
    """

    def __init__(self, plan: ModalityPlan, *, width: int) -> None:
        super().__init__()
        self._wave = plan.kind == "waveform"
        self._steps = round((plan.rate or 0) * (plan.seconds or 0)) if self._wave else plan.bins
        self._longest = -(-self._steps // PARTS)
        self._parts = -(-self._steps // self._longest)  # all of them as long, but for the last
        self._channels = len(plan.leads) if self._wave else len(plan.fields)
        self.linear = nn.Linear(width, self._channels * self._longest)

    def hide(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs with some parts gone, and which (B, parts): others in every row, but evenly spread when judged."""
        first = next(iter(inputs.values()))
        count = max(1, HIDDEN * self._parts // PARTS)
        if self.training:
            order = torch.rand(len(first), self._parts, device="cpu").argsort(1)
        else:
            order = (torch.arange(self._parts) * count % self._parts).expand(len(first), -1)
        hidden = (order < count).to(first.device)
        gone = hidden.repeat_interleave(self._longest, dim=1)[:, : self._steps]
        if self._wave:
            return {**inputs, "signal": inputs["signal"].masked_fill(gone[:, None], 0.0)}, hidden
        blank = {name: inputs[name].masked_fill(gone[:, :, None], 0) for name in ("values", "observed")}
        return {**inputs, **blank}, hidden

    def loss(self, output: EncoderOutput, inputs: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """Mean squared error over what was hidden and known (B,); 0 where nothing was."""
        tokens = F.adaptive_avg_pool1d(output.tokens.transpose(1, 2), self._parts).transpose(1, 2)
        found = self.linear(tokens).unflatten(2, (self._longest, self._channels))
        true, known = (self._in_parts(x) for x in self._target(inputs))
        wrong = (found - torch.where(known, true, 0.0)).square()
        return masked_mean(wrong, known & hidden[:, :, None, None], (1, 2, 3))

    def _target(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Values and whether they are known, (B, steps, channels)."""
        if self._wave:
            signal = inputs["signal"].transpose(1, 2)
            return signal, inputs["lead_mask"][:, None, :].expand_as(signal)
        return inputs["values"], inputs["observed"]

    def _in_parts(self, x: Tensor) -> Tensor:
        """(B, steps, channels) -> (B, parts, longest, channels), what is missing at the end as 0 or False."""
        x = F.pad(x, (0, 0, 0, self._parts * self._longest - x.shape[1]))
        return x.reshape(len(x), self._parts, self._longest, -1)
