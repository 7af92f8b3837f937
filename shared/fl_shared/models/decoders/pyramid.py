"""A small U-Net-like decoder for any cine encoder, for CPUs and small cohorts.

Skip connections as in the U-Net (Ronneberger et al. 2015), the last step to full size by sub-pixel convolution (Shi et
al. 2016). Every frame is drawn by itself, and every cell normalised by itself, so that masked frames do not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.decoders.segmentation import Segmentation
from fl_shared.models.frames import FrameConv
from fl_shared.models.interface import Level, StagedEncoder
from fl_shared.models.registry import DECODERS
from fl_shared.study import ModalityPlan, TaskPlan


class Refine(nn.Module):
    """x (B, T, h, w, C_in) -> (B, T, h, w, C_out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = FrameConv(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, rectify."""
        return F.relu(self.norm(self.conv(x)))


class PyramidDecoder(Segmentation):
    """Levels whose maps are (B, C, T, h, w), slices being channels -> logits.

    Args:
        task: the structures.
        channels: of the three levels, low to high.
        plan: its slices and size.
    """

    def __init__(self, task: TaskPlan, channels: tuple[int, ...], plan: ModalityPlan) -> None:
        super().__init__(task, plan)
        low, mid, high = channels
        self.mid = Refine(high + mid, mid)
        self.low = Refine(mid + low, low)
        self.last = Refine(low, low)
        self.classes = nn.Linear(low, 2 * 2 * plan.slices * task.outputs)

    def forward(self, levels: tuple[Level, ...]) -> Tensor:
        """Logits (B, frames, slices, classes, size, size)."""
        low, mid, high = (level.map.permute(0, 2, 3, 4, 1) for level in levels)
        x = self.mid(torch.cat([_resized(high, mid.shape[2:4]), mid], dim=-1))
        x = self.low(torch.cat([_resized(x, low.shape[2:4]), low], dim=-1))
        half = -(-self._size // 2)
        cells = self.classes(self.last(_resized(x, (half, half))))
        parts = torch.unflatten(cells, -1, (2, 2, self._slices, self._classes))  # (B, T, h, w, down, right, S, K)
        return self._cut(parts.permute(0, 1, 6, 7, 2, 4, 3, 5).flatten(6, 7).flatten(4, 5))


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """x (B, T, h, w, C), bilinear to another size."""
    frames = F.interpolate(x.flatten(0, 1).permute(0, 3, 1, 2), size=size, mode="bilinear")
    return torch.unflatten(frames.permute(0, 2, 3, 1), 0, x.shape[:2])


@DECODERS.register("pyramid", source="Ronneberger et al. 2015, frame by frame")
def build(task: TaskPlan, encoder: StagedEncoder, plan: ModalityPlan) -> PyramidDecoder:
    """The decoder of a cine encoder."""
    return PyramidDecoder(task, encoder.stage_channels[-3:], plan)
