"""A cohort as tensors on the training device: converted once, batches by index."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.data.cohort import Cohort
from fl_shared.models.interface import Batch


def as_batch(cohort: Cohort, *, device: torch.device) -> Batch:
    """All rows of the cohort as one batch; row numbers are those of the cohort."""

    def tensor(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)

    return Batch(
        inputs={m: {k: tensor(v) for k, v in named.items()} for m, named in cohort.inputs.items()},
        present={m: tensor(v) for m, v in cohort.present.items()},
        targets={t: tensor(v) for t, v in cohort.targets.items()},
        target_mask={t: tensor(v) for t, v in cohort.target_mask.items()},
        index=tensor(cohort.patient),
    )


def take(batch: Batch, rows: torch.Tensor | NDArray[np.int64]) -> Batch:
    """The rows with these numbers."""
    rows = torch.as_tensor(rows, device=batch.index.device)
    return Batch(
        inputs={m: {k: v.index_select(0, rows) for k, v in named.items()} for m, named in batch.inputs.items()},
        present={m: v.index_select(0, rows) for m, v in batch.present.items()},
        targets={t: v.index_select(0, rows) for t, v in batch.targets.items()},
        target_mask={t: v.index_select(0, rows) for t, v in batch.target_mask.items()},
        index=batch.index.index_select(0, rows),
    )
