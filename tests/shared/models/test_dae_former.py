"""DAE-Former's encoder: published size and cost, its attentions against loops, frames and slices by themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fl_shared.models.encoders.dae_blocks import HEADS, ChannelAttention, DualBlock, MixFfn, efficient_attention
from fl_shared.models.encoders.dae_former import SIZES, DaeFormer
from fl_shared.models.frames import FrameConv

FRAMES, SLICES, PIXELS = 4, 2, 32


def make(*, size: str = "small", slices: int = SLICES, seed: int = 0) -> DaeFormer:
    torch.manual_seed(seed)
    return DaeFormer(size=SIZES[size], frames=16, slices=slices).eval()


def cine(rows: int = 2, *, frames: int = FRAMES, slices: int = SLICES, pixels: int = PIXELS) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        "video": torch.randn(rows, frames, slices, pixels, pixels, generator=g).half(),
        "frame_mask": torch.ones(rows, frames, dtype=torch.bool),
        "slice_mask": torch.ones(rows, slices, dtype=torch.bool),
    }


def test_parameters_are_the_published_ones_without_the_unused_norms() -> None:
    stages = make(size="paper").stages
    count = sum(p.numel() for p in stages.parameters())
    networks = [m for m in stages.modules() if isinstance(m, MixFfn)]
    unused = sum(2 * sum(p.numel() for p in m.norm.parameters()) for m in networks)
    assert count + unused == 20_441_328
    assert unused / count < 0.01


def test_cost_is_the_published_one_when_fc1_is_computed_twice() -> None:
    encoder = make(size="paper", slices=1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(cine(1, frames=1, slices=1, pixels=224))
    cells = zip(encoder.stages, (56, 28, 14), strict=True)
    again = sum(2 * n * n * m.fc1.weight.numel() for s, n in cells for m in s.modules() if isinstance(m, MixFfn))
    assert (counter.get_total_flops() + again) / 1e9 == pytest.approx(26.6, abs=0.05)


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(7, 4, 1), (3, 2, 1), (3, 1, 8)])
def test_frame_convolution_is_a_3d_one(kernel: int, stride: int, groups: int) -> None:
    torch.manual_seed(0)
    conv = FrameConv(8, 16, kernel, stride=stride, padding=kernel // 2, groups=groups).double()
    shape = {
        "kernel_size": (1, kernel, kernel),
        "stride": (1, stride, stride),
        "padding": (0, kernel // 2, kernel // 2),
    }
    other = nn.Conv3d(8, 16, groups=groups, **shape).double()
    other.load_state_dict({"weight": conv.weight[:, :, None], "bias": conv.bias})
    x = torch.randn(2, 3, 12, 10, 8, dtype=torch.float64)
    torch.testing.assert_close(conv(x), other(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1))


def test_efficient_attention_equals_a_loop_over_positions() -> None:
    q, k, v = torch.randn(3, 2, 3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = efficient_attention(q, k, v).view(2, 3, 8, 5)
    q, k, v = (x.view(2, 3, 8, 5) for x in (q, k, v))
    for row in range(2):
        for frame in range(3):
            shares = [torch.softmax(k[row, frame, :, c], 0) for c in range(5)]
            context = torch.stack([sum(s * x for s, x in zip(share, v[row, frame], strict=True)) for share in shares])
            for position in range(8):
                weights = torch.softmax(q[row, frame, position], 0)
                torch.testing.assert_close(found[row, frame, position], weights @ context)


def test_channel_attention_equals_a_loop_over_channels() -> None:
    torch.manual_seed(0)
    attention = ChannelAttention(16).double()
    nn.init.uniform_(attention.temperature.temperature, 0.5, 3.0)
    x = torch.randn(1, 2, 3, 2, 16, dtype=torch.float64)
    found = attention(x).view(2, 6, 16)
    for frame in range(2):
        q, k, v = (x[0, frame].view(6, 16) @ attention.qkv.weight.T).split(16, dim=1)
        mixed = torch.zeros(6, 16, dtype=torch.float64)
        for c in range(16):
            head = c // (16 // HEADS)
            others = [j for j in range(16) if j // (16 // HEADS) == head]
            cosines = torch.stack([torch.cosine_similarity(q[:, c], k[:, j], dim=0) for j in others])
            shares = torch.softmax(cosines * attention.temperature.temperature[head], 0)
            mixed[:, c] = sum(s * v[:, j] for s, j in zip(shares, others, strict=True))
        torch.testing.assert_close(found[frame], attention.out(mixed))


def test_a_block_is_residual() -> None:
    block = DualBlock(16)
    for layer in (block.space.out, block.channels.out, block.ffn1.fc2, block.ffn2.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = torch.randn(1, 2, 4, 4, 16)
    assert torch.equal(block(x), x)


def test_every_image_is_seen_by_itself() -> None:
    encoder, inputs = make(), cine()
    alone = make(slices=1)
    alone.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        levels = encoder(inputs).levels
        for t in range(FRAMES):
            for s in range(SLICES):
                one = {**cine(slices=1, frames=1), "video": inputs["video"][:, t : t + 1, s : s + 1]}
                for together, single in zip(levels, alone(one).levels, strict=True):
                    torch.testing.assert_close(together.map[:, :, t * SLICES + s], single.map[:, :, 0])


def test_masked_frames_are_as_no_frames() -> None:
    encoder, inputs = make(), cine()
    inputs["frame_mask"][:, 2:] = False
    inputs["video"][:, 2:] = float("nan")
    fewer = {**inputs, "video": inputs["video"][:, :2], "frame_mask": inputs["frame_mask"][:, :2]}
    with torch.no_grad():
        out, expected = encoder(inputs), encoder(fewer)
    torch.testing.assert_close(out.pooled, expected.pooled)
    torch.testing.assert_close(out.tokens[:, :2], expected.tokens)
    assert out.token_mask.tolist() == [[True, True, False, False]] * 2
    for level, short in zip(out.levels, expected.levels, strict=True):
        torch.testing.assert_close(level.vec, short.vec)
        assert level.map.isfinite().all()


def test_a_masked_slice_is_as_no_slice() -> None:
    encoder, inputs = make(), cine()
    alone = make(slices=1)
    alone.load_state_dict(encoder.state_dict())
    inputs["slice_mask"][:, 1] = False
    inputs["video"][:, :, 1] = float("nan")
    fewer = {**inputs, "video": inputs["video"][:, :, :1], "slice_mask": inputs["slice_mask"][:, :1]}
    with torch.no_grad():
        out, expected = encoder(inputs), alone(fewer)
    torch.testing.assert_close(out.pooled, expected.pooled)
    torch.testing.assert_close(out.tokens, expected.tokens)
    for level, short in zip(out.levels, expected.levels, strict=True):
        torch.testing.assert_close(level.vec, short.vec)


def test_tokens_are_means_over_slices_and_space_at_their_place() -> None:
    encoder, inputs = make(), cine()
    inputs["slice_mask"][0, 1] = False
    with torch.no_grad():
        out = encoder(inputs)
        images = out.levels[2].map.unflatten(2, (FRAMES, SLICES))
        means = torch.stack([images[0, :, :, 0].mean((2, 3)), images[1].mean((2, 3, 4))]).transpose(1, 2)
        torch.testing.assert_close(out.tokens, means + encoder.pool.position.weight[:FRAMES])
        scores = (out.tokens @ encoder.pool.query.weight[0]).softmax(1)
        torch.testing.assert_close(out.pooled, (scores[:, :, None] * out.tokens).sum(1))


def test_other_sizes_are_padded_and_the_padding_is_masked() -> None:
    with torch.no_grad():
        out = make()(cine(pixels=20))
    for level, cells, valid in zip(out.levels, (8, 4, 2), (5, 3, 2), strict=True):
        assert level.map.shape == (2, level.map.shape[1], FRAMES * SLICES, cells, cells)
        expected = (torch.arange(cells) < valid)[:, None] & (torch.arange(cells) < valid)
        assert level.mask is not None
        assert torch.equal(level.mask, expected.expand(level.mask.shape))
        torch.testing.assert_close(level.vec, level.map[..., :valid, :valid].mean((2, 3, 4)))


def test_an_absent_row_is_finite_and_masked() -> None:
    encoder, inputs = make(), cine()
    for value in inputs.values():
        value[1] = 0
    out = encoder(inputs)
    assert out.token_mask.any(1).tolist() == [True, False]
    out.pooled[0].sum().backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)
    assert out.pooled.isfinite().all()
