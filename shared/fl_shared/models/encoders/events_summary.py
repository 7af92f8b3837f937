"""What a few numbers say of each series: fixed summaries, read by a linear map and a small network side by side.

The summaries of a field over its window need no parameters, so that small cohorts spend none on finding them: on 3,000
ICU stays such features carry trees and logistic regression past recurrent networks. The linear map beside the network
is Wide & Deep learning (Cheng et al. 2016, section 3); it is as sparing as a logistic regression.

Tokens are made as those of the table's MLP: each is what one block of hidden units adds to the linear part, and their
mean is the pooled vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.table_mlp import spread
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

STATISTICS = ("measured", "share", "first", "last", "mean", "least", "greatest", "slope", "deviation")
LIMIT = 3.0  # a value further out, on the scale where the concept's range is -1 to 1, counts as this
SHRINK = 0.05  # added to the slope's sum of squared times: two neighbouring bins tell no trend over a window
TINY = 1e-6  # of a variance, for its root's gradient
WIDE = 0.3  # the linear part's share at the start
HIDDEN = 2  # hidden units, in model widths


class EventsSummary(StagedEncoder):
    """``values`` and ``observed`` (B, bins, fields) -> at most 8 tokens of width d, whose mean is the pooled vector.

    Levels: the summaries (fields x 9) in blocks of neighbours, hidden units beside the linear part, the result.

    Args:
        fields: items.
        width: d.
        dropout: of hidden units; of the summaries, half of it.
    """

    def __init__(self, *, fields: int, width: int, dropout: float) -> None:
        super().__init__()
        inputs = len(STATISTICS) * fields
        self.width, self._units = width, HIDDEN * width
        self.stage_channels = (inputs, self._units + width, width)
        self.dropout1 = nn.Dropout(dropout / 2)
        self.hidden = nn.Linear(inputs, self._units)
        self.norm = nn.LayerNorm(self._units)
        self.dropout2 = nn.Dropout(dropout)
        self.wide = nn.Linear(inputs, width, bias=False)
        self.out = nn.Linear(self._units, width)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """The summaries, those of a field together (B, fields 9, blocks)."""
        found = self.dropout1(summaries(inputs["values"], inputs["observed"]))
        return State(map=spread(found))

    def run_stage(self, index: int, state: State) -> State:
        """The summaries as they are (stage 0), hidden units and linear part, their sum."""
        h = state.map
        if index == 1:
            x = h.mean(-1)
            units = spread(self.dropout2(F.gelu(self.norm(self.hidden(x))))[:, :, None])
            plain = WIDE * self.wide(x)
            h = torch.cat([units, plain[:, :, None].expand(-1, -1, units.shape[2])], dim=1)
        elif index == 2:
            units, plain = h[:, : self._units], h[:, self._units :]
            h = self.out(units.transpose(1, 2)).transpose(1, 2) + plain
        return state.after(h)

    def finish(self, state: State) -> EncoderOutput:
        """A token a block of hidden units."""
        tokens = state.map.transpose(1, 2)
        return EncoderOutput(pooled=tokens.mean(1), tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


def summaries(values: Tensor, observed: Tensor) -> Tensor:
    """`STATISTICS` of every field over the window (B, fields, 9), of values clamped to `LIMIT`; a field that was never
    observed has 0 everywhere.

    ``share``: of the bins that hold a value; ``slope``: of the least squares line, change over the whole window, drawn
    towards 0 where few bins tell it; ``deviation``: root of the mean squared distance from the mean (and `TINY`).

    Args:
        values: (B, bins, fields).
        observed: of the same shape; what stands in an unobserved place is not read.
    """
    bins = values.shape[1]
    x = torch.where(observed, values, 0.0).clamp(-LIMIT, LIMIT)
    seen = observed.to(x.dtype)  # products with it cost a tenth of further choices by a mask
    gone, count = 1 - seen, seen.sum(1)
    ever, known = count > 0, count.clamp(min=1)
    place = torch.arange(bins, device=x.device, dtype=x.dtype)[None, :, None]
    first = (bins - (seen * (bins - place)).amax(1, keepdim=True)).clamp(max=bins - 1)
    last = ((seen * (place + 1)).amax(1, keepdim=True) - 1).clamp(min=0)
    mean = x.sum(1) / known
    off = x - seen * mean[:, None]
    late = seen * (place - ((seen * place).sum(1) / known)[:, None]) / bins
    found = [
        ever.to(x.dtype),
        count / bins,
        x.gather(1, first.long())[:, 0],
        x.gather(1, last.long())[:, 0],
        mean,
        (x + LIMIT * gone).amin(1),
        (x - LIMIT * gone).amax(1),
        (late * off).sum(1) / (late.square().sum(1) + SHRINK),
        (off.square().sum(1) / known + TINY).sqrt(),
    ]
    return torch.stack([torch.where(ever, one, 0.0) for one in found], dim=2)


@ENCODERS.register("events_summary", kind="events", source="Wide & Deep (Cheng et al. 2016) over fixed summaries")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> EventsSummary:
    """The encoder of an events modality, as wide as the model."""
    return loaded(EventsSummary(fields=len(plan.fields), width=model.width, dropout=model.dropout), weights)
