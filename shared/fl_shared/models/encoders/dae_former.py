"""DAE-Former's encoder for cine CMR: every frame of every slice is an image, and the frames are pooled by attention.

Azad et al. 2023 (DAE-Former), as M-PRTM uses it, which describes nothing over time. Ours: the frame position and the
pooling by one query. Trained with the decoder `fl_shared.models.decoders.dae_former`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.dae_blocks import DualBlock, PatchEmbedding
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import masked_mean
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

KERNELS, STRIDES = (7, 3, 3), (4, 2, 2)
GRAIN = 16  # pixels of a cell of the last map
COLOURS = 3  # the published stem reads colour images: grey is repeated


@dataclass(frozen=True, kw_only=True)
class Size:
    """Channels and dual blocks of the stages; the decoder has as many blocks a step."""

    channels: tuple[int, int, int]
    blocks: int


SIZES = {"small": Size(channels=(16, 32, 64), blocks=1), "paper": Size(channels=(128, 320, 512), blocks=2)}


class Stage(nn.Module):
    """x (B, F, H, W, C_in) -> (B, F, H / stride, W / stride, C_out)."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, blocks: int) -> None:
        super().__init__()
        self.patches = PatchEmbedding(inputs, outputs, kernel=kernel, stride=stride)
        self.blocks = nn.Sequential(*(DualBlock(outputs) for _ in range(blocks)))
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Patches, blocks, norm."""
        out: Tensor = self.norm(self.blocks(self.patches(x)))
        return out


class FramePool(nn.Module):
    """Frames (B, T, C) with their place in the beat, and their mean by the attention of one learned query.

    With one query and one head, query and key projection are one vector. Query and places start at 0: the pooled vector
    is the plain mean where nothing trains them (segmentation does not, and M-PRTM freezes the encoder after it).
    """

    def __init__(self, width: int, *, frames: int) -> None:
        super().__init__()
        self.position = nn.Embedding(frames, width)
        self.query = nn.Linear(width, 1, bias=False)
        for part in (self.position, self.query):
            vars(part)["initial"] = {"weight": 0.0}

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled (B, C) and tokens (B, T, C); mask (B, T). A row without frames gets finite numbers, of no meaning."""
        places = torch.arange(x.shape[1], device=x.device).expand(len(x), -1).contiguous()
        tokens = x + self.position(places)
        scores = self.query(tokens).masked_fill(~mask[:, :, None], torch.finfo(x.dtype).min)
        return (scores.softmax(1) * tokens).sum(1), tokens


class DaeFormer(StagedEncoder):
    """``video`` (B, T, slices, size, size), ``frame_mask``, ``slice_mask`` -> a token a frame, as wide as stage 3.

    Maps of the levels are (B, C, T * slices, h, w), h = size / 4, / 8, / 16. An image whose size 16 does not divide is
    padded by 0 (the mean of a z-scored image) below and to the right; the cells of the padding are masked.

    Args:
        size: channels and blocks.
        frames: T, at most.
        slices: of a frame.
    """

    decoder = "dae_former"

    def __init__(self, *, size: Size, frames: int, slices: int) -> None:
        super().__init__()
        self.stage_channels, self.width = size.channels, size.channels[-1]
        self.size, self._slices = size, slices
        inputs = (COLOURS, *size.channels[:-1])
        shapes = zip(inputs, size.channels, KERNELS, STRIDES, strict=True)
        self.stages = nn.ModuleList(Stage(i, o, kernel=k, stride=s, blocks=size.blocks) for i, o, k, s in shapes)
        self.pool = FramePool(self.width, frames=frames)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Images of all frames and slices, in three like colours; what is masked is 0, whatever it held."""
        video, there = inputs["video"], inputs["frame_mask"][:, :, None] & inputs["slice_mask"][:, None, :]
        images = torch.where(there[..., None, None], video, 0).to(self.pool.query.weight.dtype).flatten(1, 2)
        border = (0, -images.shape[-1] % GRAIN, 0, -images.shape[-2] % GRAIN)
        mask = there.flatten(1)[:, :, None, None].expand(images.shape)
        padded = F.pad(images, border)[:, None].expand(-1, COLOURS, -1, -1, -1)
        return State(map=padded, mask=F.pad(mask, border))

    def run_stage(self, index: int, state: State) -> State:
        """Patches and dual blocks. A cell is valid where its first pixel is: padding is below and to the right."""
        h: Tensor = self.stages[index](state.map.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
        step = STRIDES[index]
        return state.after(h, state.valid[:, :, ::step, ::step])

    def finish(self, state: State) -> EncoderOutput:
        """Mean over slices and space, then attention over the frames."""
        images = torch.unflatten(state.map, 2, (-1, self._slices))
        valid = torch.unflatten(state.valid, 1, (-1, self._slices))
        frames = masked_mean(images, valid[:, None], (3, 4, 5)).transpose(1, 2)
        token_mask = valid.any(-1).any(-1).any(-1)
        pooled, tokens = self.pool(frames, token_mask)
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=token_mask, levels=state.done)


@ENCODERS.register("dae_former", kind="cine", source="Azad et al. 2023 (DAE-Former); M-PRTM")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> DaeFormer:
    """The encoder of a cine modality."""
    return loaded(DaeFormer(size=SIZES[model.preset], frames=plan.frames, slices=plan.slices), weights)
