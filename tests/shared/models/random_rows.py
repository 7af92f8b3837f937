"""Random rows for any study, in the layout of the product; and the same rows with garbage where nothing counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fl_client.data.modalities import FILE_KINDS
from fl_shared.models.interface import Batch
from fl_shared.study import ModalityPlan, Study, TaskPlan
from fl_shared.text import byte_windows


def random_rows(
    study: Study, n: int, *, seed: int = 0, dtype: torch.dtype | None = None, only: Sequence[str] = ()
) -> Batch:
    """Random rows in the layout of the product.

    Of M > 1 modalities the k-th row lacks the k-th, the (M + k)-th has it alone, the others have what chance gives.
    Where structures are drawn, they are bright, so that they can be learned.

    Args:
        study: modalities and tasks.
        n: how many.
        seed: of all draws.
        dtype: of what is floating; the product's own when absent.
        only: modalities that every row has, and no other; then every target is known.
    """
    g = torch.Generator().manual_seed(seed)
    present = _presence(tuple(study.modalities), n, g)
    if only:
        present = {name: torch.full((n,), name in only) for name in study.modalities}
    inputs = {name: _inputs(plan, n, g) for name, plan in study.modalities.items()}
    targets, known = {}, {}
    for name, task in study.tasks.items():
        if task.modality is None:
            targets[name], known[name] = _target(task, n, g)
            known[name] |= bool(only)
            continue
        own = inputs[task.modality]
        targets[name] = _discs(own["video"].shape, classes=task.outputs, g=g)
        own["video"] += 2 * targets[name]
        drawn = own["frame_mask"][:, :, None] & own["slice_mask"][:, None] & present[task.modality][:, None, None]
        known[name] = drawn & _flags(g, *drawn.shape, share=0.8)
    inputs = {m: {k: _where(present[m], v) for k, v in named.items()} for m, named in inputs.items()}
    batch = Batch(inputs=inputs, present=present, targets=targets, target_mask=known, index=torch.arange(n))
    return batch if dtype is None else as_dtype(batch, dtype)


def as_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    """What is floating in another precision."""

    def change(x: Tensor) -> Tensor:
        return x.to(dtype) if x.is_floating_point() else x

    inputs = {m: {k: change(v) for k, v in named.items()} for m, named in batch.inputs.items()}
    return replace(batch, inputs=inputs, targets={t: change(y) for t, y in batch.targets.items()})


def spoiled(batch: Batch) -> Batch:
    """The same rows with garbage where a modality is absent or a target unknown: NaN, True, 1 or 255."""

    def garbage(x: Tensor, keep: Tensor) -> Tensor:
        worst = float("nan") if x.is_floating_point() else {torch.uint8: 255}.get(x.dtype, 1)
        return _masked(x, keep, worst)

    inputs = {m: {k: garbage(v, batch.present[m]) for k, v in named.items()} for m, named in batch.inputs.items()}
    targets = {t: garbage(y, batch.target_mask[t]) for t, y in batch.targets.items()}
    return replace(batch, inputs=inputs, targets=targets)


def with_other_masked_parts(batch: Batch) -> Batch:
    """The same rows with other finite values where a mask says that nothing is: the product writes 0 there."""
    inputs = {}
    for name, named in batch.inputs.items():
        inputs[name] = dict(named)
        for key, mask in {"signal": "lead_mask", "values": "observed", "ids": "mask", "vectors": "mask"}.items():
            if key in named:
                inputs[name][key] = _masked(named[key], named[mask])
        if "video" in named:
            there = named["frame_mask"][:, :, None] & named["slice_mask"][:, None]
            inputs[name]["video"] = _masked(named["video"], there)
    return replace(batch, inputs=inputs)


def _masked(x: Tensor, keep: Tensor, other: float = 7) -> Tensor:
    """x (B, …) where keep, (B, …) with fewer dimensions, is True; another value elsewhere."""
    return x.where(keep.view(*keep.shape, *[1] * (x.dim() - keep.dim())), torch.full_like(x, other))


def _flags(g: torch.Generator, *shape: int, share: float = 0.7) -> Tensor:
    return torch.rand(shape, generator=g) < share


def _presence(names: tuple[str, ...], n: int, g: torch.Generator) -> dict[str, Tensor]:
    eye = torch.eye(len(names), dtype=torch.bool)
    fixed = torch.cat([~eye, eye]) if len(names) > 1 else eye
    there = torch.cat([fixed, _flags(g, n, len(names))])[:n]
    there[:, -1] |= ~there.any(1)
    return dict(zip(names, there.unbind(1), strict=True))


def _where(there: Tensor, value: Tensor) -> Tensor:
    return value * there.view(-1, *[1] * (value.dim() - 1)).to(value.dtype)


def _inputs(plan: ModalityPlan, n: int, g: torch.Generator) -> dict[str, Tensor]:
    """All rows present; the last of each mask's places is valid, the others may not be."""
    if plan.kind == "text":
        letters = torch.randint(97, 123, (n, 2 * plan.max_tokens), generator=g).tolist()
        lengths = torch.randint(2, plan.max_tokens, (n,), generator=g).tolist()
        notes = [bytes(row[:length]).decode() for row, length in zip(letters, lengths, strict=True)]
        tokens = [byte_windows(note, max_tokens=plan.max_tokens, window=plan.window)[:2] for note in notes]
        ids, masks = zip(*tokens, strict=True)
        return {"ids": torch.stack([*map(torch.from_numpy, ids)]), "mask": torch.stack([*map(torch.from_numpy, masks)])}
    fields = (len(plan.fields),) if plan.kind == "table" else (plan.bins, len(plan.fields))
    if plan.kind in FILE_KINDS:
        layout = FILE_KINDS[plan.kind].layout(plan)
    else:
        layout = {"values": (fields, "float32"), "observed": (fields, "bool")}
    found = {}
    for key, (shape, dtype) in layout.items():
        if dtype == "bool":
            found[key] = _flags(g, n, *shape)
            found[key].view(n, -1)[:, -1] = True
        else:
            x = torch.randn(n, *shape, generator=g)
            if key in ("video", "pixels"):  # more than noise, so that a small network can tell them apart
                x = x + 0.6 * x[..., :1, :1]
            found[key] = (x.exp() if key == "spacing" else x).to(getattr(torch, dtype))
    return found


def _target(task: TaskPlan, n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Values (n, C), and which of them are known."""
    time = 1.3 * task.horizon * torch.rand(n, generator=g)
    y: Tensor
    match task.type:
        case "binary" | "multilabel":
            y = _flags(g, n, len(task.names), share=0.5).float()
        case "multiclass":
            y = torch.randint(0, task.outputs, (n, 1), generator=g).float()
        case "survival":
            y = torch.stack([time, _flags(g, n).float()], dim=1)
        case "competing":
            y = torch.stack([time, torch.randint(0, 1 + len(task.labels), (n,), generator=g).float()], dim=1)
        case _:
            y = torch.randn(n, 1, generator=g)
    return y, _flags(g, *y.shape, share=0.9)


def _discs(shape: torch.Size, *, classes: int, g: torch.Generator) -> Tensor:
    """A disc of the class of its row, somewhere in each image (n, frames, slices, size, size)."""
    n, frames, slices, size, _ = shape
    centre = size / 4 + size / 2 * torch.rand(n, frames, slices, 2, 1, 1, generator=g)
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    number = 1 + torch.arange(n) % (classes - 1)
    return ((grid - centre).norm(dim=3) < size / 5).to(torch.uint8) * number.to(torch.uint8)[:, None, None, None, None]
