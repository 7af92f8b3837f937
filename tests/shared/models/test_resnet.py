"""The image encoders against MONAI's ResNet with its norms replaced, published sizes, per-patient gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from monai.networks.nets import resnet as monai
from single_patients import clipped_like_a_loop, gradients_of_single_rows
from torch import nn

from fl_client.privacy import clipping
from fl_client.privacy.clipping import GhostClipper
from fl_shared.models.build import build_model
from fl_shared.models.encoders.resnet import SHAPES, ResNet, Shape
from fl_shared.models.interface import Batch
from fl_shared.models.registry import ENCODERS
from fl_shared.study import NORM, ModalityPlan, ModelPlan, Study

Plan = dict[str, object]
ALL = [(name, preset) for name in ("resnet34", "resnet50") for preset in ("small", "paper")]
TINY = Shape(planes=(4, 4, 8, 8), blocks=(2, 1, 1, 1), bottleneck=True, pool=True)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def monais(shape: Shape) -> monai.ResNet:
    """MONAI's network of this shape, every BatchNorm replaced by a GroupNorm of eight groups."""
    network = monai.ResNet(
        monai.ResNetBottleneck if shape.bottleneck else monai.ResNetBlock,
        list(shape.blocks),
        list(shape.planes),
        spatial_dims=2,
        conv1_t_stride=2,
        no_max_pool=not shape.pool,
        feed_forward=False,
        bias_downsample=False,
    )
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(8, child.num_features))
    return network


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_every_map_is_monais(name: str, preset: str) -> None:
    torch.manual_seed(0)
    shape = SHAPES[name][preset]
    ours, theirs = ResNet(shape).double().eval(), monais(shape).double().eval()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):  # both in the order of the forward pass
        assert a.shape == b.shape
        nn.init.normal_(a, std=a[0].numel() ** -0.5) if a.dim() > 1 else nn.init.uniform_(a, 0.5, 1.5)
        b.data.copy_(a.data)
    pixels = torch.randn(2, 1, 65, 65).double()
    h = theirs.act(theirs.bn1(theirs.conv1(pixels.expand(-1, 3, -1, -1))))
    h = theirs.maxpool(h) if shape.pool else h
    maps = []
    for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        maps.append(h := layer(h))
    out = ours({"pixels": pixels})
    for level, expected, channels in zip(out.levels, maps[1:], ours.stage_channels[1:], strict=True):
        torch.testing.assert_close(level.map, expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(level.vec, expected.mean((2, 3)))
        assert level.map.shape[1] == channels
    torch.testing.assert_close(out.pooled, theirs(pixels.expand(-1, 3, -1, -1)), rtol=1e-9, atol=1e-11)
    row, column = 1, out.levels[-1].map.shape[3] - 1
    assert torch.equal(out.tokens[:, row * (column + 1) + column], out.levels[-1].map[:, :, row, column])
    assert out.pooled.shape[1] == ours.width == out.tokens.shape[2]


@pytest.mark.parametrize(
    ("name", "parameters", "width"), [("resnet34", 21_284_672, 512), ("resnet50", 23_508_032, 2048)]
)
def test_published_sizes(name: str, parameters: int, width: int) -> None:
    with torch.device("meta"):
        encoder = ENCODERS.get(name, key="").build(
            ModalityPlan(kind="image", size=224), ModelPlan(preset="paper"), None
        )
        out = encoder({"pixels": torch.zeros(1, 1, 224, 224)})
    assert count(encoder) == parameters
    assert encoder.width == width
    assert out.tokens.shape == (1, 7 * 7, width)


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_small_ones_read_64_pixels(name: str) -> None:
    encoder = ENCODERS.get(name, key="").build(ModalityPlan(kind="image", size=64), ModelPlan(), None)
    assert count(encoder) < 500_000
    pixels = torch.randn(3, 1, 64, 64).half()  # as they are read
    out = encoder({"pixels": pixels})
    assert out.tokens.shape == (3, 16, encoder.width)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_exactly_the_norms_are_found_by_name(bottleneck: bool) -> None:
    encoder = ResNet(replace(TINY, bottleneck=bottleneck))
    norms = {id(p) for m in encoder.modules() if isinstance(m, nn.GroupNorm) for p in m.parameters()}
    found = {id(p) for name, p in encoder.named_parameters() if NORM.search(f"encoders.cxr.{name}")}
    assert found == norms


def test_clipped_sums_are_those_of_a_loop_over_patients(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "MARGIN", 0.0)  # float64 needs none
    monkeypatch.setitem(SHAPES["resnet34"], "small", TINY)
    plan |= {
        "modalities": {"cxr": {"kind": "image", "size": 64}, "lge": {"kind": "image", "size": 64}},
        "tasks": {"death": {"type": "binary"}},
        "model": {"width": 8, "heads": 2, "dropout": 0.0, "modality_dropout": 0.0},
    }
    model = build_model(Study.model_validate(plan)).double().train()
    torch.manual_seed(0)
    there = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1], [1, 0]]).bool()
    images = torch.randn(5, 2, 1, 64, 64).double()
    batch = Batch(
        inputs={"cxr": {"pixels": images[:, 0]}, "lge": {"pixels": images[:, 1]}},
        present={"cxr": there[:, 0], "lge": there[:, 1]},
        targets={"death": torch.tensor([[1.0], [0], [1], [0], [1]]).double()},
        target_mask={"death": torch.ones(5, 1, dtype=torch.bool)},
        index=torch.arange(5),
    )
    each = gradients_of_single_rows(model, batch)
    clipper = GhostClipper(model)
    clipper.self_test(batch)
    found = clipped_like_a_loop(clipper, each, batch, micro_batch=3)
    assert {"encoders.cxr.entry.conv.weight", "encoders.lge.stages.3.0.skip.norm.bias"} <= found.keys()
