"""The encoder over fixed summaries: statistics of a plain pandas loop, and a plain wide and deep network's numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fl_shared.models.encoders.events_summary import (
    LIMIT,
    SHRINK,
    STATISTICS,
    TINY,
    WIDE,
    EventsSummary,
    build,
    summaries,
)
from fl_shared.study import ModalityPlan, ModelPlan

ROWS, BINS, FIELDS, WIDTH = 7, 13, 5, 12


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    """Row 0 has nothing, row 1 one value a field, the others what chance gives, some beyond the limit."""
    g = torch.Generator().manual_seed(1)
    values = 2 * torch.randn(ROWS, BINS, FIELDS, dtype=torch.float64, generator=g)
    observed = torch.rand(ROWS, BINS, FIELDS, generator=g) < 0.4
    observed[0], observed[1] = False, torch.arange(BINS)[:, None] == torch.arange(FIELDS)
    assert bool((values[observed].abs() > LIMIT).any())
    return {"values": values, "observed": observed}


@pytest.fixture
def encoder() -> EventsSummary:
    torch.manual_seed(0)
    return EventsSummary(fields=FIELDS, width=WIDTH, dropout=0.0).double()


def by_pandas(values: Tensor, observed: Tensor) -> list[float]:
    """The statistics of one series."""
    series = pd.Series(values.numpy()).clip(-LIMIT, LIMIT)[observed.numpy()]
    if series.empty:
        return [0.0] * len(STATISTICS)
    time = series.index.to_numpy() / BINS
    slope = np.sum((time - time.mean()) * (series - series.mean())) / (np.sum((time - time.mean()) ** 2) + SHRINK)
    told = {
        "measured": 1.0,
        "share": len(series) / BINS,
        "first": series.iloc[0],
        "last": series.iloc[-1],
        "mean": series.mean(),
        "least": series.min(),
        "greatest": series.max(),
        "slope": slope,
        "deviation": np.sqrt(series.var(ddof=0) + TINY),
    }
    return [told[name] for name in STATISTICS]


def test_summaries_are_those_of_a_loop(inputs: dict[str, Tensor]) -> None:
    values, observed = inputs["values"], inputs["observed"]
    want = [[by_pandas(values[r, :, f], observed[r, :, f]) for f in range(FIELDS)] for r in range(ROWS)]
    torch.testing.assert_close(summaries(values, observed), torch.tensor(want), rtol=1e-12, atol=1e-12)


def test_a_steady_trend_is_told_in_change_over_the_window() -> None:
    time = (torch.arange(1000, dtype=torch.float64) / 1000)[None, :, None]
    found = summaries(0.5 - 0.8 * time, torch.ones(1, 1000, 1, dtype=torch.bool))
    assert float(found[0, 0, STATISTICS.index("slope")]) == pytest.approx(-0.8, rel=1e-3)


def test_the_pooled_vector_is_that_of_a_network_beside_a_linear_map(
    encoder: EventsSummary, inputs: dict[str, Tensor]
) -> None:
    out = encoder(inputs)
    x = summaries(**inputs).flatten(1)
    hidden = F.gelu(F.layer_norm(F.linear(x, encoder.hidden.weight, encoder.hidden.bias), (2 * WIDTH,)))
    plain = WIDE * x @ encoder.wide.weight.T
    expected = hidden @ encoder.out.weight.T + encoder.out.bias + plain
    torch.testing.assert_close(out.pooled, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.tokens.mean(1), expected, rtol=1e-12, atol=1e-12)
    low, middle, high = (level.vec for level in out.levels)
    torch.testing.assert_close(low, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(middle, torch.cat([hidden, plain], dim=1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(high, expected, rtol=1e-12, atol=1e-12)


def test_tokens_differ_in_their_hidden_units_only(encoder: EventsSummary, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        encoder.out.weight[:, 3 : 2 * WIDTH] = 0.0  # the first of 8 blocks of 3 hidden units is left
    tokens = encoder(inputs).tokens
    assert tokens.shape == (ROWS, 8, WIDTH)
    torch.testing.assert_close(tokens[:, 1:], tokens[:, 1:2].expand(-1, 7, -1))
    assert float((tokens[:, 0] - tokens[:, 1]).detach().abs().amin(0).max()) > 0.01


def test_what_was_not_observed_is_not_read(encoder: EventsSummary, inputs: dict[str, Tensor]) -> None:
    garbage = torch.where(inputs["observed"], inputs["values"], float("nan")).requires_grad_()
    found = encoder({**inputs, "values": garbage})
    assert torch.equal(found.tokens, encoder(inputs).tokens)
    found.pooled.sum().backward()
    assert garbage.grad is not None
    assert bool(garbage.grad.isfinite().all())
    assert not garbage.grad[~inputs["observed"]].any()


def test_dropout_takes_summaries_half_as_often_as_hidden_units() -> None:
    plan = ModalityPlan(kind="events", fields=("sbp", "gcs"), hours=48.0, bins=BINS)
    encoder = build(plan, ModelPlan(width=16, dropout=0.5), None)
    assert isinstance(encoder, EventsSummary)
    assert (encoder.dropout1.p, encoder.dropout2.p, encoder.width) == (0.25, 0.5, 16)
    g = torch.Generator().manual_seed(2)
    inputs = {"values": torch.randn(2000, BINS, 2, generator=g), "observed": torch.ones(2000, BINS, 2).bool()}
    kept = encoder.stem(inputs).map.mean(-1) != 0
    assert float(kept.double().mean()) == pytest.approx(0.75, abs=0.02)
