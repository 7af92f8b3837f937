"""Features of encoders that do not change: computed once for all rows, so that a round costs only what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from fl_client.training.rows import span
from fl_shared.models.build import select
from fl_shared.models.interface import Batch, EncoderOutput
from fl_shared.models.model import MASKED, SEGMENTATION, MultimodalModel
from fl_shared.wire import digest

ROWS, NUMBERS = 64, 2**20  # a forward pass, at most: rows, and numbers of their input
OWN_INPUTS = (SEGMENTATION, MASKED)  # read the encoder's maps, or give it other inputs
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Known:
    """What an encoder gave for all rows, the digest of its weights then, and how often each tensor had been written."""

    written: tuple[int, ...]
    weights: str
    output: EncoderOutput


class FeatureCache:
    """What each constant encoder gives for every row, until its parameters are others.

    Args:
        model: asked which encoders are constant at present.
        batch: all rows.
    """

    def __init__(self, model: MultimodalModel, batch: Batch) -> None:
        self._model, self._batch = model, batch
        self._known: dict[str, Known] = {}

    def fill(self, batch: Batch) -> Batch:
        """``batch`` (all rows) with the features of the constant encoders, which then are all that is told of these
        modalities; none where the objective needs more.
        """
        constant = () if self._model.objective in OWN_INPUTS else self._model.constant_encoders()
        self._known = {name: known for name, known in self._known.items() if name in constant}
        drawn = [task for task, modality in self._model.drawn.items() if modality in constant]
        return replace(
            batch,
            inputs={name: {} if name in constant else named for name, named in batch.inputs.items()},
            targets={task: y for task, y in batch.targets.items() if task not in drawn},
            target_mask={task: mask for task, mask in batch.target_mask.items() if task not in drawn},
            features={name: self._of(name) for name in constant},
        )

    def _of(self, name: str) -> EncoderOutput:
        encoder, known = self._model.encoders[name], self._known.get(name)
        # torch counts what is written to a tensor: reading a published encoder anew would cost a second each round
        written = tuple(tensor._version for tensor in (*encoder.parameters(), *encoder.buffers()))
        if known is None or known.written != written:
            weights = digest(select(encoder))
            same = known is not None and known.weights == weights
            output = known.output if known is not None and same else self._computed(name)
            known = self._known[name] = Known(written=written, weights=weights, output=output)
        return known.output

    def _computed(self, name: str) -> EncoderOutput:
        whole = replace(self._batch, inputs={name: self._batch.inputs[name]}, targets={}, target_mask={})
        numbers = sum(x[0].numel() for x in whole.inputs[name].values())
        rows = max(1, min(ROWS, NUMBERS // numbers))
        starts = range(0, len(whole), rows)
        return joined([self._model.features(name, span(whole, start, start + rows)) for start in starts])


def joined(parts: list[T]) -> T:
    """Parts (alike in form) as one, row after row; shorter ones are padded with 0, masked as nothing."""
    first = parts[0]
    if isinstance(first, Tensor):
        return cast(T, _stacked(cast(list[Tensor], parts)))
    if isinstance(first, Mapping):
        return cast(T, {key: joined([cast(Mapping[str, object], p)[key] for p in parts]) for key in first})
    if isinstance(first, tuple):
        return cast(T, tuple(joined(list(each)) for each in zip(*cast(list[tuple[object, ...]], parts), strict=True)))
    if is_dataclass(first) and not isinstance(first, type):
        return replace(first, **{f.name: joined([getattr(p, f.name) for p in parts]) for f in fields(first)})
    return first


def _stacked(parts: list[Tensor]) -> Tensor:
    sizes = [max(each) for each in zip(*(part.shape[1:] for part in parts), strict=True)]
    padded = []
    for part in parts:
        missing = [size - have for size, have in zip(sizes, part.shape[1:], strict=True)]
        padded.append(pad(part, [n for m in reversed(missing) for n in (0, m)]) if any(missing) else part)
    return torch.cat(padded)
