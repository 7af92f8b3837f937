"""What a step of the CNN and of WaveNet sees, by gradients, and WaveNet's layers against loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders import ecg_cnn, wavenet
from fl_shared.models.encoders.waveforms import centred
from fl_shared.models.interface import StagedEncoder, State


def ecg(n: int, *, leads: int = 12, samples: int = 1000) -> dict[str, Tensor]:
    signal = 0.2 * torch.randn(n, leads, samples, dtype=torch.float64)
    return {"signal": signal, "lead_mask": torch.ones(n, leads, dtype=torch.bool)}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def without_norms(encoder: nn.Module) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]


def through(encoder: StagedEncoder, first: Tensor, stages: int = 3) -> Tensor:
    """The map after some stages."""
    state = State(map=first)
    for stage in range(stages):
        state = encoder.run_stage(stage, state)
    return state.map


def reach(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[int, int]:
    """First and last place of x (B, C, S) that has a gradient."""
    (slope,) = torch.autograd.grad(function(x.requires_grad_()).sum(), x)
    places = slope.abs().amax((0, 1)).nonzero()[:, 0].tolist()
    return places[0], places[-1]


def test_a_step_of_the_cnn_sees_55_samples_each_32_apart() -> None:
    encoder = ecg_cnn.EcgCnn(leads=1, channels=(8, 8, 8), dropout=0.0).double().eval()
    without_norms(encoder)
    first = 1 + torch.rand(1, 1, 512, dtype=torch.float64)
    for module in encoder.modules():
        if isinstance(module, nn.Conv1d):
            module.weight.data.abs_()  # so that no ReLU hides anything
    for step in (4, 9):
        assert reach(lambda x, at=step: through(encoder, x)[:, :, at], first) == (32 * step - 27, 32 * step + 27)


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_wavenet_sees_766_samples_and_none_ahead(preset: str) -> None:
    dilations = [
        [layer.dilation for layer in stack.layers]
        for stack in wavenet.WaveNet(leads=12, sizes=wavenet.SIZES[preset]).stages
    ]
    assert dilations == [[1, 2, 4, 8, 16, 32, 64, 128]] * 3
    encoder = wavenet.WaveNet(leads=1, sizes=wavenet.Sizes(channels=4, width=8, layers=8)).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    first = 0.1 * torch.randn(1, 8, 900, dtype=torch.float64)
    for stages, samples in ((1, 256), (2, 511), (3, 766)):
        assert reach(lambda x, n=stages: through(encoder, x, n)[:, :, 850], first) == (850 - samples + 1, 850)
    alone = {"signal": torch.randn(1, 1, 900).double(), "lead_mask": torch.ones(1, 1, dtype=torch.bool)}
    changed = alone["signal"].clone()
    changed[0, 0, [700, 701]] += torch.tensor([1.0, -1.0])  # the lead's mean stays
    before, after = (encoder.stem({**alone, "signal": x}).map for x in (alone["signal"], changed))
    differs = (through(encoder, before) - through(encoder, after)).abs().amax((0, 1)) > 1e-9
    assert differs.nonzero()[0].item() == 700


def test_the_gated_unit_equals_a_loop() -> None:
    layer = wavenet.GatedLayer(3, dilation=4, last=False).double()
    x = torch.randn(2, 3, 11, dtype=torch.float64)
    stream, skip = layer(x)
    weight, bias = layer.conv.weight, layer.conv.bias
    assert layer.residual is not None
    for b in range(2):
        for t in range(11):
            past = x[b, :, t - 4] if t >= 4 else torch.zeros(3, dtype=torch.float64)
            z = [bias[k] + weight[k, :, 0] @ past + weight[k, :, 1] @ x[b, :, t] for k in range(6)]
            unit = torch.stack([z[k].tanh() / (1 + (-z[k + 3]).exp()) for k in range(3)])
            kept = layer.residual.weight[:, :, 0] @ unit + layer.residual.bias
            torch.testing.assert_close(stream[b, :, t], x[b, :, t] + kept, rtol=1e-10, atol=1e-12)
            expected = layer.skip.weight[:, :, 0] @ unit + layer.skip.bias
            torch.testing.assert_close(skip[b, :, t], expected, rtol=1e-10, atol=1e-12)


def test_the_skip_sum_is_that_of_all_layers() -> None:
    encoder = wavenet.WaveNet(leads=2, sizes=wavenet.Sizes(channels=8, width=16, layers=3)).double().eval()
    inputs = ecg(2, leads=2, samples=64)
    stream, total = F.conv1d(centred(inputs), encoder.entry.weight, encoder.entry.bias), torch.zeros(())
    out = encoder(inputs)
    for level, stack in zip(out.levels, encoder.stages, strict=True):
        for layer in stack.layers:
            before = stream
            stream, skip = layer(stream)
            total = total + skip
        whole = torch.cat([stream, total], dim=1)
        torch.testing.assert_close(level.map, total if level is out.levels[-1] else whole)
    assert torch.equal(stream, before)  # the last layer leaves it
    h = F.conv1d(F.group_norm(total, 8).relu(), encoder.out.weight, encoder.out.bias).relu()
    torch.testing.assert_close(out.tokens, h.unflatten(2, (16, 4)).mean(3).transpose(1, 2))
    torch.testing.assert_close(out.pooled, h.mean(2))
