"""TabNet-LN: the projection on the simplex, the steps of the paper one row at a time, counts, and shared layers."""

from __future__ import annotations

from itertools import combinations
from math import sqrt

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import Tensor, nn

from fl_shared.models.encoders.tabnet import STEPS, RepeatedLinear, TabNet, build, sparsemax
from fl_shared.models.interface import State
from fl_shared.study import ModalityPlan, ModelPlan

FIELDS, WIDTH = 5, 6
Array = NDArray[np.float64]


@pytest.fixture
def encoder() -> TabNet:
    torch.manual_seed(0)
    encoder = TabNet(fields=FIELDS, width=WIDTH).double()
    for name, p in encoder.named_parameters():
        nn.init.normal_(p, mean=1.0 if name.endswith("norm.weight") else 0.0, std=0.5)
    return encoder


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    values = torch.randn(6, FIELDS, dtype=torch.float64, generator=g)
    return {"values": values, "observed": torch.rand(6, FIELDS, generator=g) < 0.7}


def nearest_on_the_simplex(z: Array) -> Array:
    """Of all sets that the positive numbers may be, the one whose point is nearest."""
    best, least = z, float("inf")
    for size in range(1, len(z) + 1):
        for support in combinations(range(len(z)), size):
            point = np.zeros_like(z)
            point[list(support)] = z[list(support)] - (z[list(support)].sum() - 1) / size
            distance = float(((point - z) ** 2).sum())
            if (point >= 0).all() and distance < least:
                best, least = point, distance
    return best


@pytest.mark.parametrize("spread", [0.05, 0.5, 3.0])
def test_sparsemax_is_the_nearest_point_of_the_simplex(spread: float) -> None:
    z = spread * torch.randn(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    z[0] = 0.4  # ties
    z[1, :3] = z[1].max() + 1
    expected = np.stack([nearest_on_the_simplex(row) for row in z.numpy()])
    torch.testing.assert_close(sparsemax(z), torch.from_numpy(expected), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(sparsemax, z[2:10].clone().requires_grad_())
    assert {0.05: 0, 0.5: 20, 3.0: 80}[spread] <= (expected == 0).sum()


def test_sparsemax_of_what_is_no_number_is_none() -> None:
    z = torch.tensor([[0.0, float("nan")], [1.0, 1.0]])
    assert sparsemax(z)[1].tolist() == [0.5, 0.5]
    assert bool(sparsemax(z)[0].isnan().any())


def normed(x: Array, norm: nn.LayerNorm) -> Array:
    w, b = (p.detach().numpy() for p in (norm.weight, norm.bias))
    return (x - x.mean()) / np.sqrt(x.var() + norm.eps) * w + b


def opened(x: Array, weight: Tensor, norm: nn.LayerNorm) -> Array:
    h = normed(weight.detach().numpy() @ x, norm)
    half = len(h) // 2
    return h[:half] / (1 + np.exp(-h[half:]))


def features(encoder: TabNet, number: int, x: Array) -> Array:
    layers, (first, second) = encoder.features[number], encoder.shared
    h = opened(np.append(x, 1.0), first.weight, layers.norm1)
    for weight, norm in ((second, layers.norm2), (layers.own1, layers.norm3), (layers.own2, layers.norm4)):
        h = (h + opened(h, weight.weight, norm)) / sqrt(2)
    return h


def steps(encoder: TabNet, values: Array, observed: NDArray[np.bool_]) -> list[Array]:
    """What each step decides, of one patient, as the paper writes it."""
    x = np.concatenate([np.where(observed, values, 0), observed])
    left, handed, decided = np.ones_like(x), features(encoder, 0, x)[WIDTH:], []
    for k in range(STEPS):
        choice = encoder.choices[k]
        mask = nearest_on_the_simplex(left * normed(choice.linear.weight.detach().numpy() @ handed, choice.norm))
        left = left * (1.3 - mask)
        h = features(encoder, 1 + k, mask * x)
        decided.append(np.maximum(h[:WIDTH], 0))
        handed = h[WIDTH:]
    return decided


def test_steps_are_those_of_the_paper_one_row_at_a_time(encoder: TabNet, inputs: dict[str, Tensor]) -> None:
    out = encoder({**inputs, "values": torch.where(inputs["observed"], inputs["values"], float("nan"))})
    rows = zip(inputs["values"].numpy(), inputs["observed"].numpy(), strict=True)
    expected = torch.from_numpy(np.stack([steps(encoder, *row) for row in rows]))
    torch.testing.assert_close(out.tokens, expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(out.pooled, expected.sum(1), rtol=1e-10, atol=1e-11)
    for k, level in enumerate(out.levels):
        torch.testing.assert_close(level.map[:, :WIDTH, 0], expected[:, k], rtol=1e-10, atol=1e-11)
    assert float(expected.amax()) > 0.1


def test_a_lone_input_is_more_than_its_sign(encoder: TabNet) -> None:
    x = torch.zeros(2, FIELDS, dtype=torch.float64)
    x[:, 0] = torch.tensor([0.2, 0.9])
    alone = encoder._features(1, torch.cat([x, torch.zeros_like(x)], dim=1))
    assert float((alone[0] - alone[1]).detach().abs().max()) > 1e-2


def test_what_is_changed_between_steps_reaches_the_next(encoder: TabNet, inputs: dict[str, Tensor]) -> None:
    state = encoder.run_stage(0, encoder.stem(inputs))
    plain = encoder.finish(encoder.run_stage(2, encoder.run_stage(1, state)))
    other = encoder.set_map(state, encoder.get_map(state)[0] * 2)
    found = encoder.finish(encoder.run_stage(2, encoder.run_stage(1, other)))
    torch.testing.assert_close(found.tokens[:, 0], 2 * plain.tokens[:, 0])
    assert not torch.allclose(found.tokens[:, 1], plain.tokens[:, 1])
    with pytest.raises(TypeError, match="its stem"):
        encoder.run_stage(0, State(map=state.map))


@pytest.mark.parametrize(("width", "steps", "published", "one"), [(8, 3, 8_940, 32), (64, 5, 467_836, 256)])
def test_published_counts_but_for_the_norms_of_inputs_the_logit_and_the_1(
    width: int, steps: int, published: int, one: int
) -> None:
    encoder = TabNet(fields=25, width=width)
    own = sum(p.numel() for p in encoder.parameters())
    more = sum(p.numel() for part in (encoder.choices[0], encoder.features[1]) for p in part.parameters())
    assert own + (steps - STEPS) * more == published - 2 * 100 - width + one
    assert build(ModalityPlan(kind="table", fields=("a",)), ModelPlan(preset="paper"), None).width == 8


def test_gradient_norms_of_shared_layers_are_those_of_single_rows(encoder: TabNet, inputs: dict[str, Tensor]) -> None:
    hooked = GradSampleModuleFastGradientClipping(encoder, loss_reduction="sum", strict=False)
    hooked(inputs).pooled.square().sum().backward()
    norms = [layer.weight._norm_sample.clone() for layer in encoder.shared]  # type: ignore[attr-defined]
    hooked.disable_hooks()
    for row in range(6):
        encoder.zero_grad()
        one = {name: x[row : row + 1] for name, x in inputs.items()}
        loss = encoder(one).pooled.square().sum()
        alone = torch.autograd.grad(loss, [layer.weight for layer in encoder.shared])
        for norm, gradient in zip(norms, alone, strict=True):
            torch.testing.assert_close(norm[row], gradient.norm(), rtol=1e-8, atol=1e-10)
    assert all(type(layer) is RepeatedLinear for layer in encoder.shared)
