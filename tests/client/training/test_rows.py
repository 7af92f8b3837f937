"""Reading rows: the same as taking them, in memory that is used again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fl_client.training.rows import RowReader, span
from fl_shared.models.interface import Batch, EncoderOutput, each_tensor, take


def batch(rows: int = 9) -> Batch:
    g = torch.Generator().manual_seed(0)
    tokens = torch.randn(rows, 3, 4, generator=g)
    mask = torch.rand(rows, 3, generator=g) < 0.5
    return Batch(
        inputs={"ecg": {"signal": torch.randn(rows, 2, 50, generator=g)}},
        present={"ecg": torch.rand(rows, generator=g) < 0.5, "ehr": torch.ones(rows, dtype=torch.bool)},
        targets={"death": torch.rand(rows, 1, generator=g)},
        target_mask={"death": torch.ones(rows, 1, dtype=torch.bool)},
        index=torch.arange(rows),
        features={"ehr": EncoderOutput(pooled=tokens[:, 0], tokens=tokens, token_mask=mask)},
    )


def tensors(part: Batch) -> list[Tensor]:
    found: list[Tensor] = []
    each_tensor(lambda x: found.append(x) or x, part)  # type: ignore[func-returns-value]
    return found


def test_a_reading_is_what_take_gives_whatever_was_read_before() -> None:
    whole = batch()
    read = RowReader(whole)
    for rows in ([3, 1], [], [8, 0, 4, 4, 2], [5], list(range(9))):
        chosen = np.array(rows, np.int64)
        found, expected = tensors(read(chosen)), tensors(take(whole, chosen))
        assert len(found) == len(expected) == 9
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True))


def test_smaller_readings_use_the_memory_of_a_larger_one() -> None:
    read = RowReader(batch())
    first = [x.data_ptr() for x in tensors(read(np.arange(6)))]
    assert [x.data_ptr() for x in tensors(read(np.array([7, 2])))] == first


def test_the_rows_that_are_read_from_stay_as_they_were() -> None:
    whole = batch()
    before = [x.clone() for x in tensors(whole)]
    each_tensor(lambda x: x.zero_(), RowReader(whole)(np.arange(9)))
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole), before, strict=True))


def test_a_span_is_a_view_and_ends_with_the_rows() -> None:
    whole = batch()
    part = span(whole, 6, 20)
    assert len(part) == 3
    assert torch.equal(part.index, torch.tensor([6, 7, 8]))
    assert part.features["ehr"].tokens.data_ptr() == whole.features["ehr"].tokens[6:].data_ptr()
