"""Temporal pointwise convolution: one layer by loops, causality, what is carried, and three published counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fl_shared.models.encoders.tpc import PAPER, Sizes, Tpc, build, carried_and_fresh
from fl_shared.study import ModalityPlan, ModelPlan

FIELDS, BINS = 3, 14
SIZES = Sizes(channels=2, kernel=3, new=2, layers=(1, 2, 3), width=5)


@pytest.fixture
def encoder() -> Tpc:
    torch.manual_seed(0)
    encoder = Tpc(fields=FIELDS, sizes=SIZES, dropout=0.0).double()
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.5)
    return encoder


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    values = torch.randn(4, BINS, FIELDS, dtype=torch.float64, generator=g)
    observed = torch.rand(4, BINS, FIELDS, generator=g) < 0.4
    observed[:, 0, 0] = False
    return {"values": values, "observed": observed}


def test_a_value_is_carried_and_fades(inputs: dict[str, Tensor]) -> None:
    observed = inputs["observed"]
    garbage = torch.where(observed, inputs["values"], float("nan"))
    carried, fresh = carried_and_fresh(garbage, observed)
    for row in range(4):
        for f in range(FIELDS):
            value = weight = 0.0
            for t in range(BINS):
                value, weight = (float(garbage[row, t, f]), 1.0) if observed[row, t, f] else (value, 0.75 * weight)
                assert carried[row, t, f] == value
                assert fresh[row, t, f] == pytest.approx(weight, rel=1e-12)


def normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt(centred.square().mean() + norm.eps) * norm.weight + norm.bias


def layer_by_loops(encoder: Tpc, index: int, x: list[list[Tensor]], origin: Tensor) -> list[list[Tensor]]:
    """Fields, each a list of channels (T,): what the layer makes of them. origin: (2 F + 1, T)."""
    layer = encoder.stages[index][0]
    dilation = index * (SIZES.kernel - 1) if index else 1
    entering = [[c.relu() if index else c for c in field] for field in x]
    steps = []
    for t in range(BINS):
        own = []
        for f, field in enumerate(entering):
            for y in range(SIZES.channels):
                out = f * SIZES.channels + y
                total = layer.conv.bias[out]
                for c, channel in enumerate(field):
                    for j in range(SIZES.kernel):
                        at = t - (SIZES.kernel - 1 - j) * dilation
                        if at >= 0:
                            total = total + layer.conv.weight[out, c, j] * channel[at]
                own.append(total)
        old = len(x) - SIZES.new if index else 0
        read = [channel[t] for field in x[:old] for channel in field[1:]]
        read += [field[0][t] for field in x[old:]] if index else []
        found = layer.point.weight @ torch.stack([*read, *origin[:, t]]) + layer.point.bias
        steps.append((normed(torch.stack(own), layer.norm1), normed(found, layer.norm2)))
    temporal, new = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))
    kept = [[field[0], *temporal[f * SIZES.channels : (f + 1) * SIZES.channels]] for f, field in enumerate(x)]
    return [*kept, *([one] * (1 + SIZES.channels) for one in new)]


def test_layers_are_those_of_the_paper_by_loops(encoder: Tpc, inputs: dict[str, Tensor]) -> None:
    out = encoder(inputs)
    carried, fresh = carried_and_fresh(inputs["values"], inputs["observed"])
    for row in range(2):
        x = [[carried[row, :, f], fresh[row, :, f]] for f in range(FIELDS)]
        origin = torch.cat([carried[row].T, fresh[row].T, torch.arange(BINS).double()[None] / (BINS - 1)])
        for index, level in enumerate(out.levels):
            x = layer_by_loops(encoder, index, x, origin)
            expected = torch.stack([channel for field in x for channel in field])
            torch.testing.assert_close(level.map[row], expected, rtol=1e-9, atol=1e-10)
        last = [
            normed(encoder.out.weight @ expected[:, t].relu() + encoder.out.bias, encoder.norm) for t in range(BINS)
        ]
        torch.testing.assert_close(out.tokens[row], torch.stack(last).relu(), rtol=1e-9, atol=1e-10)
    assert torch.equal(out.pooled, out.tokens[:, -1])


def test_a_bin_reads_the_past_alone_and_the_last_one_all_of_it(encoder: Tpc) -> None:
    values = torch.randn(1, BINS, FIELDS, dtype=torch.float64, requires_grad=True)
    out = encoder({"values": values, "observed": torch.ones(1, BINS, FIELDS, dtype=torch.bool)})
    for t in range(BINS):
        (gradient,) = torch.autograd.grad(out.tokens[0, t].sum(), values, retain_graph=True)
        assert not gradient[0, t + 1 :].any()
        assert bool(gradient[0, t].any())
    reach = (SIZES.kernel - 1) * (1 + 2 + 4)
    assert reach >= BINS
    assert bool(gradient.any(2).all())


def test_the_small_network_reaches_over_48_bins() -> None:
    encoder = build(ModalityPlan(kind="events", fields=("a",), hours=48.0, bins=48), ModelPlan(width=16), None)
    torch.manual_seed(0)
    values = torch.randn(2, 48, 1, requires_grad=True)
    encoder({"values": values, "observed": torch.ones(2, 48, 1, dtype=torch.bool)}).pooled.square().sum().backward()
    assert bool(values.grad[:, 0].any())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_changed_map_reaches_the_result(encoder: Tpc, inputs: dict[str, Tensor], stage: int) -> None:
    def run(change: float) -> Tensor:
        state = encoder.stem(inputs)
        for index in range(4):
            if index == stage:
                state = encoder.set_map(state, encoder.get_map(state)[0] + change)
            state = encoder.run_stage(index, state) if index < 3 else state
        return encoder.finish(state).tokens

    assert bool(((run(0.5) - run(0.0)).flatten(1).abs().amax(1) > 1e-3).all())


@pytest.mark.parametrize(
    ("fields", "sizes", "static", "published"),
    [
        (17, PAPER, 64, 253_000),
        (98, PAPER, 64, 770_000),
        (87, Sizes(channels=12, kernel=4, new=13, layers=(3, 6, 9), width=17), 64, 1_080_000),
    ],
    ids=["17 channels", "MIMIC-IV", "eICU"],
)
def test_published_counts(fields: int, sizes: Sizes, static: int, published: int) -> None:
    """By closed form: ours exactly, and theirs with static inputs, the hour and both tasks' last maps (+-1.2 %)."""
    y, k, z, layers, width = sizes.channels, sizes.kernel, sizes.new, sizes.layers[-1], sizes.width
    own = theirs = 0
    for n in range(layers):
        groups, old = fields + n * z, fields + (n - 1) * z
        own += groups * y * ((1 + y if n else 2) * k + 1 + 2)  # convolution, bias, norm
        own += ((old * y + z if n else 0) + 2 * fields + 1 + 1 + 2) * z  # map across fields, bias, norm
        theirs += z * (static + 1)
    last = (fields + layers * z) * (1 + y)
    own += width * (last + 3)
    assert sum(p.numel() for p in Tpc(fields=fields, sizes=sizes, dropout=0.0).parameters()) == own
    theirs += width * (last + 3) + 2 * (width * static + width + 1)
    assert math.isclose(own + theirs, published, rel_tol=0.012)


def test_levels_stand_after_layers_3_6_and_8() -> None:
    plan = ModalityPlan(kind="events", fields=("a", "b"), hours=4.0, bins=6)
    paper = build(plan, ModelPlan(preset="paper"), None)
    assert [len(stage) for stage in paper.stages] == [3, 3, 2]
    assert [layer.conv.dilation[0] for stage in paper.stages for layer in stage] == [1, 4, 8, 12, 16, 20, 24, 28]
    assert paper.stage_channels == (17 * 12, 32 * 12, 42 * 12)
