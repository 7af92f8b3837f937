"""Features of encoders that do not change: computed once for all rows, so that a round costs only what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from fl_shared.models.build import select
from fl_shared.models.interface import Batch, EncoderOutput, take
from fl_shared.models.model import MASKED, SEGMENTATION, MultimodalModel
from fl_shared.wire import digest

ROWS = 256  # a forward pass
OWN_INPUTS = (SEGMENTATION, MASKED)  # read the encoder's maps, or give it other inputs
T = TypeVar("T")


class FeatureCache:
    """What each constant encoder gives for every row, until its parameters are others.

    Args:
        model: asked which encoders are constant at present.
        batch: all rows.
    """

    def __init__(self, model: MultimodalModel, batch: Batch) -> None:
        self._model, self._batch = model, batch
        self._known: dict[str, tuple[str, EncoderOutput]] = {}

    def fill(self, batch: Batch) -> Batch:
        """``batch`` (all rows) with the features of the constant encoders; none where the objective needs more."""
        constant = () if self._model.objective in OWN_INPUTS else self._model.constant_encoders()
        self._known = {name: known for name, known in self._known.items() if name in constant}
        return replace(batch, features={name: self._of(name) for name in constant})

    def _of(self, name: str) -> EncoderOutput:
        weights = digest(select(self._model, lambda array: array.startswith(f"encoders.{name}.")))
        if self._known.get(name, ("",))[0] != weights:
            parts = [
                self._model.features(name, take(self._batch, torch.arange(start, min(start + ROWS, len(self._batch)))))
                for start in range(0, len(self._batch), ROWS)
            ]
            self._known[name] = weights, joined(parts)
        return self._known[name][1]


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
