"""The LSTM against torch.nn.LSTM: numbers, gradients, shortened sequences, and gradient norms of single rows."""

from __future__ import annotations

import pytest
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import Tensor, nn

from fl_shared.models.recurrent import Lstm

B, T, INPUTS, HIDDEN = 5, 7, 3, 4


class Both(nn.Module):
    """Two layers, two directions, composed as torch does."""

    def __init__(self) -> None:
        super().__init__()
        widths = (INPUTS, 2 * HIDDEN)
        self.layers = nn.ModuleList(
            nn.ModuleList(Lstm(width, HIDDEN, reverse=reverse) for reverse in (False, True)) for width in widths
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = torch.cat([one(x, mask) for one in layer], dim=2)
        return x


def reference(model: Both) -> nn.LSTM:
    """torch's own, with the same weights."""
    lstm = nn.LSTM(INPUTS, HIDDEN, num_layers=2, bidirectional=True, batch_first=True).double()
    with torch.no_grad():
        for name, parameter in lstm.named_parameters():
            parameter.copy_(of(model, name))
    return lstm


def of(model: Both, name: str) -> nn.Parameter:
    """Our parameter of torch's name, e.g. ``weight_hh_l1_reverse``."""
    leaf, which, layer, *reverse = name.split("_")
    one = model.layers[int(layer[1])][len(reverse)]
    return getattr(one.input if which == "ih" else one.recurrent, leaf)


@pytest.fixture
def model() -> Both:
    torch.manual_seed(0)
    return Both().double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(B, T, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> Tensor:
    """Gaps at the start, in the middle and at the end, all steps, and a single one."""
    steps = torch.tensor(
        [[0, 0, 1, 1, 0, 1, 1], [1, 1, 0, 1, 0, 0, 0], [1] * T, [0, 0, 0, 1, 0, 0, 0], [1] * 3 + [0] * 4]
    )
    return steps.bool()


def spread(states: Tensor) -> Tensor:
    """A loss (B,) in which every number of the states has another weight and a slope of its own."""
    weights = torch.linspace(-1, 2, states[0].numel(), dtype=states.dtype).view(states.shape[1:])
    return (weights * states + states**2).flatten(1).sum(1)


def test_numbers_gradients_and_parameters_are_those_of_torch(model: Both, x: Tensor) -> None:
    lstm = reference(model)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in lstm.parameters())
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = model(ours), lstm(theirs)[0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    spread(found).sum().backward()
    spread(expected).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-13)
    for name, parameter in lstm.named_parameters():
        torch.testing.assert_close(of(model, name).grad, parameter.grad, rtol=1e-11, atol=1e-13, msg=name)


def test_without_gradients_the_numbers_are_the_same(model: Both, x: Tensor, mask: Tensor) -> None:
    with torch.no_grad():
        constant = model(x, mask)
    assert torch.equal(model(x, mask), constant)


def test_masked_steps_are_no_steps(model: Both, x: Tensor, mask: Tensor) -> None:
    lstm = reference(model)
    found = model(x, mask)
    spread(found * mask[:, :, None]).sum().backward()
    for row in range(B):
        expected = lstm(x[row : row + 1, mask[row]])[0]
        torch.testing.assert_close(found[row : row + 1, mask[row]], expected, rtol=1e-12, atol=1e-14)
        placed = torch.zeros_like(found[:1]).index_copy(1, mask[row].nonzero()[:, 0], expected)
        spread(placed).sum().backward()
    for name, parameter in lstm.named_parameters():
        torch.testing.assert_close(of(model, name).grad, parameter.grad, rtol=1e-11, atol=1e-13, msg=name)
    garbage = torch.where(mask[:, :, None], x, 1e6)
    assert torch.equal(model(garbage, mask), found)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_last_state_has_read_everything_and_is_carried_over_gaps(reverse: bool, x: Tensor, mask: Tensor) -> None:
    torch.manual_seed(2)
    one = Lstm(INPUTS, HIDDEN, reverse=reverse).double()
    lstm = nn.LSTM(INPUTS, HIDDEN, batch_first=True).double()
    lstm.load_state_dict(
        {
            f"{leaf}_{which}_l0": getattr(m, leaf)
            for which, m in (("ih", one.input), ("hh", one.recurrent))
            for leaf in ("weight", "bias")
        }
    )
    last = one.last(one(x, mask))
    for row in range(B):
        steps = x[row, mask[row]]
        expected = lstm((steps.flip(0) if reverse else steps)[None])[1][0][0, 0]
        torch.testing.assert_close(last[row], expected, rtol=1e-12, atol=1e-14)
    assert not one(x, torch.zeros_like(mask)).any()


def test_constant_weights_let_gradients_through(model: Both, x: Tensor) -> None:
    lstm = reference(model)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    spread(model.requires_grad_(False)(ours)).sum().backward()
    spread(lstm(theirs)[0]).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-13)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("masked", [False, True])
def test_ghost_norms_are_those_of_torchs_lstm_on_single_rows(
    model: Both, x: Tensor, mask: Tensor, masked: bool
) -> None:
    lstm = reference(model)
    hooked = GradSampleModuleFastGradientClipping(model, loss_reduction="sum", strict=True)
    states = hooked(x, mask) if masked else hooked(x)
    spread(states * mask[:, :, None]).sum().backward()
    for row in range(B):
        steps = mask[row] if masked else torch.ones_like(mask[row])
        placed = torch.zeros_like(states[:1]).index_copy(1, steps.nonzero()[:, 0], lstm(x[row : row + 1, steps])[0])
        loss = spread(placed * mask[row][None, :, None]).sum()
        gradients = torch.autograd.grad(loss, list(lstm.parameters()))
        for (name, _), gradient in zip(lstm.named_parameters(), gradients, strict=True):
            norm = of(model, name)._norm_sample[row]  # type: ignore[attr-defined]
            torch.testing.assert_close(norm, gradient.norm(), rtol=1e-7, atol=1e-9, msg=f"{name}, row {row}")
