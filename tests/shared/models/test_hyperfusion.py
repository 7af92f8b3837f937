"""HyperFusion against torch's convolutions with each patient's own weights; its start; published size."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from one_patient import driven, encoders_of, fusion_of, inside, row_of, until, valid_places, weight
from random_rows import random_rows
from torch import Tensor
from torch.nn import functional as F

from fl_shared.models.fusion.hyperfusion import Generator, resized
from fl_shared.models.interface import Batch, Level
from fl_shared.models.model import MultimodalModel

CONV = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
POOL = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}


@pytest.mark.parametrize(("filters", "size"), [(16, 297_297), (4, 19_089)])
def test_published_sizes(filters: int, size: int) -> None:
    """Block 4 of the paper's ResNet: 8 f to 16 f channels. 81 of its parameters belong to the tabular embedding."""
    generator = Generator(conditioners=8, inputs=8 * filters, outputs=16 * filters)
    made = sum(p.numel() for part in (generator.weights, generator.biases) for p in part.parameters())
    assert made == size - 81


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (("ecg", "ehr"), "ecg"),
        (("ecg", "ehr"), "ehr"),
        (("cine", "ehr", "image"), "image"),
        (("cine", "ecg", "ehr", "text"), "cine"),
    ],
)
def test_each_patient_is_as_in_a_loop(names: tuple[str, ...], host: str) -> None:
    study, model = inside("hyperfusion", names, guide=host)
    batch = random_rows(study, 3 * len(names), dtype=torch.float64)
    found = driven(model, batch)[host].pooled
    for row in range(len(batch)):
        torch.testing.assert_close(found[row], one_patient(model, batch, row), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def one_patient(model: MultimodalModel, batch: Batch, row: int) -> Tensor:
    """Its own convolution of the last stage's input, then the mean over places, added to the last stage's output."""
    encoders, (inputs, there), host = encoders_of(model), row_of(batch, row), fusion_of(model).host
    own, others = encoders[host], [m for m in encoders if m != host]
    before = until(own, inputs[host], left=1)
    after = own.run_stage(len(own.stage_channels) - 1, before)
    if any(there[m] for m in others):
        pooled = {m: encoders[m](inputs[m]).pooled[0].numpy() for m in others if there[m]}
        absent = {m: weight(model, f"absent.vectors.{m}.weight")[0] for m in others if not there[m]}
        x = np.concatenate([(pooled | absent)[m] for m in others])
        e = weight(model, "generator.embedding.weight") @ x + weight(model, "generator.embedding.bias")
        e = (e - e.mean()) / np.sqrt(e.var() + 1e-5)
        e = e * weight(model, "generator.norm.weight") + weight(model, "generator.norm.bias")
        c_in, c_out = before.map.shape[1], after.map.shape[1]
        kernel, bias = (
            weight(model, f"generator.{part}.weight") @ e + weight(model, f"generator.{part}.bias")
            for part in ("weights", "biases")
        )
        kernel = math.sqrt(3 / c_in) * kernel.reshape(c_out, c_in, *[1] * (before.map.dim() - 2))
        path = CONV[before.map.dim()](before.map, torch.from_numpy(kernel), torch.from_numpy(math.sqrt(3) * bias))
        path = POOL[before.map.dim()](path, after.map.shape[2:])
        moved = after.map.clone()
        for place in valid_places(after):
            moved[(0, slice(None), *place)] += path[(0, slice(None), *place)]
        after = own.set_map(after, moved)
    return own.finish(after).pooled[0]


@pytest.mark.parametrize(("length", "places"), [(12, 12), (12, 6), (7, 3), (5, 1), (3, 7)])
def test_a_map_is_brought_to_other_places_by_means_over_valid_ones(length: int, places: int) -> None:
    g = torch.Generator().manual_seed(length)
    x = torch.randn(4, 3, length, 2, generator=g, dtype=torch.float64)
    mask = torch.rand(4, length, 2, generator=g) < 0.6
    mask[0] = False
    found = resized(Level(map=x.masked_fill(~mask[:, None], torch.nan), mask=mask), torch.Size([places, 2]))
    for row, place, column in product(range(4), range(places), range(2)):
        begin, end = place * length // places, -(-(place + 1) * length // places)
        members = [x[row, :, k, column] for k in range(begin, end) if mask[row, k, column]]
        expected = torch.stack(members).mean(0) if members else torch.zeros(3).double()
        torch.testing.assert_close(found[row, :, place, column], expected)


def test_the_start_is_hyperfan_in() -> None:
    """Var(W_gen) = 2 / (2 C_in 8 Var(e)) and Var(b_gen) = 1 / (8 Var(e)), and the embedding's variance is 1."""
    study, model = inside("hyperfusion", ("ehr", "image"), spread=False)
    generator = model.fusion.fusion.generator
    with torch.no_grad():
        drawn = math.sqrt(3 / generator.inputs) * generator.weights.weight
        assert float(drawn.var()) == pytest.approx(1 / (generator.inputs * 8), rel=0.05)
        assert float((math.sqrt(3) * generator.biases.weight).var()) == pytest.approx(1 / 8, rel=0.1)
        assert not generator.weights.bias.any()
        assert not generator.biases.bias.any()
        pooled = model.encoders["ehr"](random_rows(study, 64, only=("ehr",), dtype=torch.float64).inputs["ehr"]).pooled
        embedded = generator.norm(generator.embedding(pooled))
        assert float(embedded.square().mean()) == pytest.approx(1, rel=0.01)
        weights, biases = generator(pooled)
        x = torch.randn(64, generator.inputs, 50, generator=torch.Generator().manual_seed(0)).double()
        given = torch.einsum("boi,bip->bop", weights, x)
        assert float(given.var()) == pytest.approx(1, rel=0.15)
        assert float(biases.var()) == pytest.approx(1, rel=0.3)
