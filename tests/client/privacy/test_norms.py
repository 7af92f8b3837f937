"""Norm rules against single-row autograd in float64, in both branches; their memory; DAE-Former under clipping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.grad_sample.linear import compute_linear_norm_sample
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fl_client.privacy import clipping, norms
from fl_client.privacy.clipping import GhostClipper
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model
from fl_shared.models.frames import FrameConv
from fl_shared.models.interface import Batch, take
from fl_shared.models.model import MultimodalModel
from fl_shared.study import Study


def autograd_norms(layer: nn.Module, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Every row alone: gradient of (layer(x) * g).sum()."""
    found: dict[str, list[Tensor]] = {name: [] for name, p in layer.named_parameters() if p.requires_grad}
    for row in range(len(x)):
        parameters = [p for p in layer.parameters() if p.requires_grad]
        gradients = torch.autograd.grad((layer(x[row : row + 1]) * g[row : row + 1]).sum(), parameters)
        for each, gradient in zip(found.values(), gradients, strict=True):
            each.append(gradient.norm())
    return {name: torch.stack(each) for name, each in found.items()}


def check(layer: nn.Module, x: Tensor, rule: Callable[..., dict[nn.Parameter, Tensor]]) -> None:
    g = torch.randn_like(layer(x))
    expected, found = autograd_norms(layer, x, g), rule(layer, [x], g)
    assert len(found) == len(expected)
    for name, parameter in layer.named_parameters():
        if name in expected:
            torch.testing.assert_close(found[parameter], expected[name], rtol=1e-10, atol=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (90,), (3, 5, 6), (2, 2, 2)])
def test_linear_norms_are_exact_in_both_branches(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)  # 12 x 9 weights: Gram matrices below 7.3 tokens
    layer = nn.Linear(12, 9, bias=bias).double()
    check(layer, torch.randn(4, *shape, 12, dtype=torch.float64), norms.linear_norms)


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(12, 9).double()
    layer.bias.requires_grad_(False)
    check(layer, torch.randn(4, 5, 12, dtype=torch.float64), norms.linear_norms)
    layer.requires_grad_(False)
    assert norms.linear_norms(layer, [torch.randn(4, 5, 12)], torch.randn(4, 5, 9)) == {}


@pytest.mark.parametrize(
    "layer",
    [
        FrameConv(6, 10, 7, stride=4, padding=3),
        FrameConv(6, 10, 3, stride=2, padding=1, bias=False),
        FrameConv(6, 6, 3, padding=1, groups=6),
        FrameConv(6, 4, 3, padding=2, dilation=2, groups=2),
    ],
)
@pytest.mark.parametrize("pixels", [(8, 8), (9, 7)])
def test_frame_convolution_norms_are_exact(layer: FrameConv, pixels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    check(layer.double(), torch.randn(3, 4, *pixels, 6, dtype=torch.float64), norms.frame_conv_norms)


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


def memory(rule: Callable[..., Any], layer: nn.Module, x: Tensor) -> int:
    g = torch.randn_like(layer(x))
    with torch.no_grad(), Largest() as largest:
        rule(layer, [x], g)
    return largest.numbers


def test_no_rule_needs_more_than_the_smaller_of_gram_matrix_and_gradient() -> None:
    many, few = torch.randn(2, 1000, 16), torch.randn(2, 4, 512)
    layer, wide = nn.Linear(16, 8), nn.Linear(512, 512)
    assert memory(compute_linear_norm_sample, layer, many) == 2 * 1000 * 1000  # what this avoids
    assert memory(norms.linear_norms, layer, many) == many.numel()
    assert memory(norms.linear_norms, wide, few) == few.numel()
    conv, x = FrameConv(16, 16, 3, padding=1, groups=16), torch.randn(2, 4, 16, 16, 16)
    assert memory(norms.frame_conv_norms, conv, x) <= x.numel()


def test_opacus_uses_them() -> None:
    rules = GradSampleModuleFastGradientClipping.NORM_SAMPLERS
    assert rules[nn.Linear] is norms.linear_norms
    assert rules[FrameConv] is norms.frame_conv_norms


class Bypassed(nn.Module):
    """Uses a layer's weight without calling the layer: no rule ever sees that gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3, bias=False)

    def forward(self, batch: Batch) -> Tensor:
        return nn.functional.linear(batch.inputs["ehr"]["values"], self.inner.weight)

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        return logits.square().sum(1)


class Called(Bypassed):
    """The same by a call, in four dimensions, which opacus' own rule passes over without a word."""

    def forward(self, batch: Batch) -> Tensor:
        return self.inner(batch.inputs["ehr"]["values"][:, None, None])[:, 0, 0]


def test_a_gradient_that_no_rule_sees_is_refused() -> None:
    batch = cine_rows(4)
    GhostClipper(Called().double()).self_test(batch)
    with pytest.raises(ConsiliumError, match="privacy") as caught:
        GhostClipper(Bypassed().double()).self_test(batch)
    assert caught.value.code == ExitCode.PRIVACY


FRAMES, SLICES, SIZE = 3, 2, 32


def cine_model(*, encoder: str) -> MultimodalModel:
    cine = {"kind": "cine", "encoder": encoder, "frames": FRAMES, "slices": SLICES, "size": SIZE}
    study = Study.model_validate(
        {
            "schema": 1,
            "name": "small",
            "seed": 3,
            "sites": {"a": {"role": "train", "patients": 20}},
            "tasks": {
                "death": {"type": "binary"},
                "scar": {"type": "segmentation", "labels": ["wall", "scar"], "modality": "cine"},
            },
            "modalities": {"cine": cine, "ehr": {"kind": "table", "fields": ["age", "sex", "bmi"]}},
            "model": {"width": 16, "depth": 2, "heads": 2, "dropout": 0.0, "modality_dropout": 0.0},
            "training": {"rounds": 1, "steps": 1, "batch": 4},
            "privacy": {"mode": "patient", "epsilon": 8},
            "rounds": {"quorum": 1},
            "evaluation": {"salt": "saltsalt"},
        }
    )
    return build_model(study).double()


def cine_rows(rows: int) -> Batch:
    """Random rows; the first has no cine, the second a masked frame and slice, the third nothing drawn."""
    g = torch.Generator().manual_seed(0)
    present = torch.ones(rows, dtype=torch.bool)
    frames, slices = present[:, None].repeat(1, FRAMES), present[:, None].repeat(1, SLICES)
    present[0] = frames[1, 2] = slices[1, 1] = False
    drawn = frames[:, :, None] & slices[:, None, :] & present[:, None, None]
    drawn[2] = False
    images = (rows, FRAMES, SLICES, SIZE, SIZE)
    return Batch(
        inputs={
            "cine": {
                "video": torch.randn(images, generator=g).half(),
                "frame_mask": frames,
                "slice_mask": slices,
                "spacing": torch.ones(rows, 3),
            },
            "ehr": {
                "values": torch.rand(rows, 3, generator=g, dtype=torch.float64),
                "observed": torch.rand(rows, 3, generator=g) < 0.8,
            },
        },
        present={"cine": present, "ehr": torch.ones(rows, dtype=torch.bool)},
        targets={
            "death": (torch.rand(rows, 1, generator=g) < 0.5).double(),
            "scar": torch.randint(0, 3, images, generator=g).to(torch.uint8),
        },
        target_mask={"death": torch.ones(rows, 1, dtype=torch.bool), "scar": drawn},
        index=torch.arange(rows),
    )


@pytest.mark.parametrize("encoder", ["dae_former", "cine_cnn"])
def test_clipped_sums_of_a_segmenting_model_equal_the_loop(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "MARGIN", 0.0)  # float64 needs none
    model, batch = cine_model(encoder=encoder).train(), cine_rows(5)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    single = []
    for row in torch.arange(5).split(1):
        loss = model.losses(model(take(batch, row)), take(batch, row)).sum()
        single.append(torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True))
    lengths = [float(torch.stack([g.norm() for g in gradients]).norm()) for gradients in single]
    clip = sorted(lengths)[2]
    found = GhostClipper(model).clipped_sum(batch, clip=clip, micro_batch=8)
    assert found.keys() == named.keys()
    for k, name in enumerate(named):
        expected = sum(g[k] * min(1.0, clip / length) for g, length in zip(single, lengths, strict=True))
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-12 * clip, msg=name)
    assert all(found[name].abs().sum() > 0 for name in found if name.startswith(("encoders.cine", "heads.scar")))


def test_the_self_test_accepts_dae_former_in_single_precision() -> None:
    model, batch = cine_model(encoder="dae_former").float(), cine_rows(4)
    batch.inputs["ehr"] = {**batch.inputs["ehr"], "values": batch.inputs["ehr"]["values"].float()}  # type: ignore[index]
    batch.targets["death"] = batch.targets["death"].float()  # type: ignore[index]
    GhostClipper(model).self_test(batch)
