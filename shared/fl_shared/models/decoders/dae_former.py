"""DAE-Former's decoder: skip connections by cross attention, blocks and expanding patches.

Azad et al. 2023 (DAE-Former). The reference builds a whole decoder step below the last map too and
calls nothing of it but its patch expansion: 18,285,584 of its 48,073,065 parameters (9 classes) are never used. They
are left out, as are the unused LayerNorms (`fl_shared.models.encoders.dae_blocks`): 29,690,201 remain, which compute
the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fl_shared.models.decoders.segmentation import Segmentation
from fl_shared.models.encoders.dae_blocks import DualBlock, MixFfn, efficient_attention
from fl_shared.models.encoders.dae_former import DaeFormer
from fl_shared.models.interface import Level, StagedEncoder
from fl_shared.models.registry import DECODERS
from fl_shared.study import ModalityPlan, TaskPlan


class PatchExpand(nn.Module):
    """x (B, F, h, w, C_in) -> (B, F, scale h, scale w, C_out): a cell becomes scale x scale cells."""

    def __init__(self, inputs: int, outputs: int, *, scale: int) -> None:
        super().__init__()
        self.expand = nn.Linear(inputs, scale * scale * outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)
        self._scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Expand and normalise."""
        cells = torch.unflatten(self.expand(x), -1, (self._scale, self._scale, -1))  # (B, F, h, w, down, right, C)
        out: Tensor = self.norm(cells.transpose(3, 4).flatten(4, 5).flatten(2, 3))
        return out


class SkipCrossAttention(nn.Module):
    """Skip connection cross attention (SCCA): x and skip, (B, F, h, w, C) each -> (B, F, h, w, 2C).

    As in the authors' code: keys and queries are the skip's, values the decoder's. Their text says otherwise: queries
    of the skip, keys and values of the decoder.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.out = nn.Linear(width, 2 * width)
        self.norm2 = nn.LayerNorm(2 * width)
        self.norm3 = nn.LayerNorm(2 * width)
        self.ffn = MixFfn(2 * width, 4 * width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Attend, add both inputs, feed forward."""
        values, keys = self.norm1(torch.cat([x, skip], dim=1)).chunk(2, dim=1)  # a layer is called once
        h = torch.cat([x, skip], dim=-1) + self.norm2(self.out(efficient_attention(keys, keys, values)))
        out: Tensor = h + self.ffn(self.norm3(h))
        return out


class DecoderStep(nn.Module):
    """x (B, F, h, w, C_in) and skip (B, F, h, w, C) -> (B, F, scale h, scale w, C_out)."""

    def __init__(self, inputs: int, width: int, outputs: int, *, blocks: int, scale: int) -> None:
        super().__init__()
        self.into = nn.Linear(inputs, width)
        self.skip = SkipCrossAttention(width)
        self.join = nn.Linear(2 * width, width)
        self.blocks = nn.Sequential(*(DualBlock(width) for _ in range(blocks)))
        self.expand = PatchExpand(width, outputs, scale=scale)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Meet the skip connection, attend, expand."""
        out: Tensor = self.expand(self.blocks(self.join(self.skip(self.into(x), skip))))
        return out


class DaeDecoder(Segmentation):
    """Levels of a `DaeFormer` -> logits; what was padded is cut off.

    Args:
        task: the structures.
        encoder: gives the sizes.
        plan: its slices and size.
    """

    def __init__(self, task: TaskPlan, encoder: DaeFormer, plan: ModalityPlan) -> None:
        super().__init__(task, plan)
        (low, mid, high), blocks = encoder.size.channels, encoder.size.blocks
        self.high = PatchExpand(high, high // 2, scale=2)
        self.mid = DecoderStep(high // 2, mid, mid // 2, blocks=blocks, scale=2)
        self.low = DecoderStep(mid // 2, low, low, blocks=blocks, scale=4)
        self.classes = nn.Linear(low, task.outputs)

    def forward(self, levels: tuple[Level, ...]) -> Tensor:
        """Logits (B, frames, slices, classes, size, size)."""
        low, mid, high = (level.map.permute(0, 2, 3, 4, 1) for level in levels)
        cells = self.classes(self.low(self.mid(self.high(high), mid), low))
        logits = torch.unflatten(cells, 1, (-1, self._slices)).permute(0, 1, 2, 5, 3, 4)
        return self._cut(logits)


@DECODERS.register("dae_former", source="Azad et al. 2023 (DAE-Former); M-PRTM")
def build(task: TaskPlan, encoder: StagedEncoder, plan: ModalityPlan) -> DaeDecoder:
    """The decoder of a `DaeFormer`."""
    if not isinstance(encoder, DaeFormer):  # its own decoder: said here for the type
        raise TypeError(f"decoder 'dae_former' does not fit {type(encoder).__name__}")
    return DaeDecoder(task, encoder, plan)
