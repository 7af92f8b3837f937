"""What in each input of a record moved one number: pictures' places, seconds of an ECG, words, fields.

All methods ask the model itself, with everything else of the record as it is. Signals and words: integrated gradients
against a stated baseline. Cine and images: Grad-CAM on the encoder's last map. Tables and series: the number less what
it would be had the field not been observed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_client.bedside.attribution import Attribution, grad_cam, integrated_gradients, left_out
from fl_client.bedside.case import Case
from fl_client.bedside.targets import Target


def of_signal(case: Case, target: Target, modality: str) -> Attribution:
    """Of a waveform (1, leads, samples); the baseline is a flat line in every lead."""
    inputs = case.inputs(modality)
    rest = {key: each for key, each in inputs.items() if key != "signal"}

    def score(signal: Tensor) -> Tensor:
        return case.score_of(target, modality, {**rest, "signal": signal})

    signal = inputs["signal"]
    return integrated_gradients(score, signal, baseline=torch.zeros_like(signal))


def of_text(case: Case, target: Target, modality: str) -> Attribution | None:
    """Of the tokens (1, L) of a note; the baseline are vectors of zeros in place of its words'.

    The first and last token of each window, which stand for no word, are in the baseline as they are. None where the
    encoder has no word embeddings.
    """
    layer = next((m for name, m in case.model.encoders[modality].named_modules() if _embeds_words(name, m)), None)
    if layer is None:
        return None
    inputs = case.inputs(modality)
    words = _given(layer, lambda: case.score_of(target, modality, inputs))
    mask = inputs["mask"][:, : words.shape[1]]
    mask = torch.nn.functional.pad(mask, (0, words.shape[1] - mask.shape[1]))
    frame = _frame(mask[0], case.study.modalities[modality].window)
    baseline = torch.where((mask[0] & ~frame)[None, :, None], torch.zeros_like(words), words)

    with _Hook(layer) as hook:

        def score(vectors: Tensor) -> Tensor:
            hook.change = lambda _: vectors
            rows = {key: each.expand(len(vectors), *each.shape[1:]) for key, each in inputs.items()}
            return case.score_of(target, modality, rows)

        found = integrated_gradients(score, words, baseline=baseline)
    values = torch.zeros(inputs["ids"].shape, dtype=torch.float64)
    length = min(values.shape[1], words.shape[1])
    values[:, :length] = found.values.sum(-1)[:, :length]
    return Attribution(values=values, total=found.total)


def of_images(case: Case, target: Target, modality: str) -> Tensor:
    """Of a cine (frames, slices, h, w) or an image (1, 1, h, w): Grad-CAM on the coarse grid of the last level."""
    inputs = case.inputs(modality)
    with torch.enable_grad():
        driven = {key: _driven(each) for key, each in inputs.items()}
        score, output = case.score_and_output(target, modality, driven)
        heat = grad_cam(score, output.levels[-1].map)
    if heat.dim() == 2:
        return heat[None, None]
    frames, slices = inputs["video"].shape[1:3]
    if heat.shape[0] == frames * slices:
        return heat.reshape(frames, slices, *heat.shape[1:])
    return heat[:, None].expand(-1, slices, -1, -1)


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a table or of a series: whether it was observed, its last scaled value, and what it adds."""

    name: str
    value: float | None
    effect: float | None


def of_fields(case: Case, target: Target, modality: str) -> tuple[Field, ...]:
    """Of a table or a series: each field's effect, against the same record without it; missing ones have none."""
    inputs, names = case.inputs(modality), case.study.modalities[modality].fields
    observed = inputs["observed"]  # (1, F) or (1, bins, F)
    there = observed.flatten(0, -2).any(0)
    which = there.nonzero()[:, 0]

    def score(seen: Tensor) -> Tensor:
        values = torch.where(seen, inputs["values"], 0.0)
        return case.score_of(target, modality, {"values": values, "observed": seen})

    without = observed.expand(len(which), *observed.shape[1:]).clone()
    for row, field in enumerate(which.tolist()):
        without[row, ..., field] = False
    effects = dict(zip(which.tolist(), left_out(score, observed, without).tolist(), strict=True)) if len(which) else {}
    last = {f: _last(inputs["values"][0, ..., f], observed[0, ..., f]) for f in effects}
    return tuple(Field(name=name, value=last.get(f), effect=effects.get(f)) for f, name in enumerate(names))


@torch.no_grad()
def drawn(case: Case) -> dict[str, Tensor]:
    """Segmentation -> labels (frames, slices, size, size) that the model draws on this record."""
    if not any(modality in case.present for modality in case.model.drawn.values()):
        return {}
    labels = case.model.predict(case.model.segment(case.batch))
    return {task: labels[task][0] for task, modality in case.model.drawn.items() if modality in case.present}


def _driven(x: Tensor) -> Tensor:
    """As an input that gradients are taken of: the parameters need none, so that nothing else would start a graph."""
    return x.clone().requires_grad_() if x.is_floating_point() else x


@torch.no_grad()
def _given(layer: nn.Module, run: Callable[[], Tensor]) -> Tensor:
    """What a layer gives while something runs."""
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, given, output: seen.append(output))
    try:
        run()
    finally:
        handle.remove()
    return seen[0]


def _last(values: Tensor, observed: Tensor) -> float:
    return float(values.reshape(-1)[observed.reshape(-1)][-1])


def _embeds_words(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding) and name.endswith("word_embeddings")


def _frame(mask: Tensor, window: int) -> Tensor:
    """Which tokens (L,) are the first or the last of their window."""
    place = torch.arange(len(mask))
    ends = mask & (~torch.cat([mask[1:], mask.new_zeros(1)]) | ((place + 1) % window == 0))
    return (mask & (place % window == 0)) | ends


class _Hook:
    """While entered, a layer's output is what ``change`` makes of it."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self.change: Callable[[Tensor], Tensor] = lambda output: output

    def __enter__(self) -> _Hook:
        self._handle = self._layer.register_forward_hook(lambda module, given, output: self.change(output))
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
