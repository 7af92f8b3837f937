"""Residual and recurrent networks of ECGs against MONAI's ResNet and torch's LSTM."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import resnet as monai
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders import ecg_resnet34, xresnet1d101
from fl_shared.models.encoders.ecg_lstm import EcgLstm
from fl_shared.models.encoders.waveforms import centred


def ecg(n: int, *, leads: int = 12, samples: int = 1000) -> dict[str, Tensor]:
    signal = 0.2 * torch.randn(n, leads, samples, dtype=torch.float64)
    return {"signal": signal, "lead_mask": torch.ones(n, leads, dtype=torch.bool)}


def copied(target: nn.Module, source: nn.Module) -> None:
    """Parameters of the second into the first, in the order of both; norms' scales are made to differ from 1."""
    for a, b in zip(target.parameters(), source.parameters(), strict=True):
        nn.init.normal_(b, std=b[0].numel() ** -0.5) if b.dim() > 1 else nn.init.uniform_(b, 0.5, 1.5)
        assert a.shape == b.shape
        a.data.copy_(b.data)


def with_group_norms(network: nn.Module) -> nn.Module:
    """Every BatchNorm replaced by a GroupNorm of eight groups."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d):
                setattr(parent, name, nn.GroupNorm(8, child.num_features))
    return network.double().eval()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("preset", ["small", "paper"])
def test_every_map_of_the_resnet_is_monais(preset: str) -> None:
    shape = ecg_resnet34.SHAPES[preset]
    theirs = with_group_norms(
        monai.ResNet(
            monai.ResNetBlock,
            list(shape.blocks),
            list(shape.channels),
            spatial_dims=1,
            n_input_channels=12,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
    )
    ours = ecg_resnet34.EcgResNet34(leads=12, shape=shape).double()
    copied(ours, theirs)
    inputs = ecg(2, samples=515)
    h = theirs.maxpool(theirs.act(theirs.bn1(theirs.conv1(centred(inputs)))))
    maps = []
    for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        maps.append(h := layer(h))
    out = ours(inputs)
    for level, expected in zip(out.levels, maps[1:], strict=True):
        torch.testing.assert_close(level.map, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(out.pooled, theirs(centred(inputs)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("inputs", "stride"), [(16, 1), (64, 2), (64, 1)])
def test_a_block_of_the_xresnet_is_monais_bottleneck_with_a_mean_before_the_shortcut(inputs: int, stride: int) -> None:
    ours = xresnet1d101.Bottleneck(inputs, 16, stride=stride).double()
    theirs = monai.ResNetBottleneck(inputs, 16, spatial_dims=1, stride=stride)
    theirs.conv2 = nn.Conv1d(16, 16, 5, stride=stride, padding=2, bias=False)
    parts: list[nn.Module] = [nn.AvgPool1d(2, ceil_mode=True)] if stride == 2 else []
    parts += [nn.Conv1d(inputs, 64, 1, bias=False), nn.BatchNorm1d(64)] if inputs != 64 else []
    theirs.downsample = nn.Sequential(*parts)
    with_group_norms(theirs)
    copied(ours, theirs)
    x = torch.randn(2, inputs, 21, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x.clone()), rtol=1e-9, atol=1e-11)


def test_blocks_and_strides_of_the_xresnet() -> None:
    encoder = xresnet1d101.XResNet1d(leads=12, shape=xresnet1d101.SHAPES["paper"])
    assert [len(stage) for stage in encoder.stages] == [3, 4, 23, 3]
    strides = [[block.middle.conv.stride[0] for block in stage] for stage in encoder.stages]
    assert strides == [[1] * 3, [2, *[1] * 3], [2, *[1] * 22], [2, 1, 1]]
    assert [part.conv.stride[0] for part in encoder.entry] == [2, 1, 1]


def test_layers_of_the_lstm_are_torchs() -> None:
    encoder, inputs = EcgLstm(leads=12, channels=(8, 12), dropout=0.3).double().eval(), ecg(3, samples=160)
    steps = F.conv1d(centred(inputs), encoder.conv1.weight, encoder.conv1.bias, stride=4, padding=3).relu()
    steps = F.conv1d(steps, encoder.conv2.weight, encoder.conv2.bias, stride=2, padding=2).relu()
    h = steps.transpose(1, 2)
    assert h.shape == (3, 20, 12)
    for level, layer in zip(encoder(inputs).levels, encoder.stages, strict=True):
        oracle = nn.LSTM(12, 12, batch_first=True).double()
        for part, ending in ((layer.lstm.input, "ih"), (layer.lstm.recurrent, "hh")):
            getattr(oracle, f"weight_{ending}_l0").data.copy_(part.weight)
            getattr(oracle, f"bias_{ending}_l0").data.copy_(part.bias.data)
        h = oracle(h)[0]
        h = (h - h.mean(2, keepdim=True)) / (h.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(level.map.transpose(1, 2), h, rtol=1e-9, atol=1e-11)
