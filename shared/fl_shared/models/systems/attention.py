"""System 'attention': an encoder a modality, masked self-attention over their tokens, a head a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn

from fl_shared.models.interface import Batch, EncoderOutput, Fusion, Head, StagedEncoder
from fl_shared.models.registry import DEFAULT_ENCODERS, ENCODERS, FUSIONS, HEADS, SYSTEMS
from fl_shared.models.weights import find
from fl_shared.study import Study


class MultimodalModel(nn.Module):
    """Encoders, adapters, fusion and heads; the children's names are the parameter groups of the study.

    Every encoder runs on all rows (per-patient gradients need one shape); what an absent modality's row holds is
    zeroed before its encoder and masked after it, so that it cannot matter.
    """

    def __init__(
        self,
        *,
        encoders: Mapping[str, StagedEncoder],
        adapters: Mapping[str, nn.Module],
        fusion: Fusion,
        heads: Mapping[str, nn.Module],
        modality_dropout: Mapping[str, float],
        frozen_encoders: bool,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.adapters = nn.ModuleDict(adapters)
        self.fusion = fusion
        self.heads = nn.ModuleDict(heads)
        self.modality_dropout = tuple(modality_dropout[name] for name in encoders)
        self.frozen_encoders = frozen_encoders
        self.encoders.requires_grad_(not frozen_encoders)

    def train(self, mode: bool = True) -> Self:
        """Frozen encoders stay in evaluation mode: their features are constants."""
        super().train(mode)
        if self.frozen_encoders:
            self.encoders.eval()
        return self

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Logits (B, C) of every task.

        Args:
            batch: rows; to judge a subset of modalities, change ``present``.
            generator: randomness of modality dropout (training only); torch's own when absent.

        Raises:
            ValueError: a row has no modality present.
        """
        present = self._present(batch, generator)
        outputs = {}
        for name, encoder in self.encoders.items():
            there = present[name]
            inputs = {
                key: torch.where(there.view(-1, *[1] * (value.dim() - 1)), value, torch.zeros_like(value))
                for key, value in batch.inputs[name].items()
            }
            outputs[name] = self._adapt(name, encoder(inputs))
        fused = self.fusion(outputs, present)
        return {task: head(fused) for task, head in self.heads.items()}

    def losses(self, logits: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Loss a row (B,), summed over tasks."""
        each = [self._head(t).loss(z, batch.targets[t], batch.target_mask[t]) for t, z in logits.items()]
        return torch.stack(each).sum(0)

    def predict(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Probabilities (B, C) of every task."""
        return {task: self._head(task).predict(z) for task, z in logits.items()}

    def _head(self, task: str) -> Head:
        return cast(Head, self.heads[task])

    def _adapt(self, name: str, output: EncoderOutput) -> EncoderOutput:
        """Pooled vector and tokens through one call: ghost clipping allows a layer one call a pass."""
        both = self.adapters[name](torch.cat([output.pooled[:, None], output.tokens], dim=1))
        return replace(output, pooled=both[:, 0], tokens=both[:, 1:])

    def _present(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        """(B,) a modality, after modality dropout, which never takes the last one present."""
        there = torch.stack([batch.present[m] for m in self.encoders], dim=1)
        if not bool(there.any(1).all()):
            raise ValueError("a row has no modality present")
        if self.training and any(self.modality_dropout):
            # drawn where the generator lives, so that a seed means the same on every device
            device = generator.device if generator is not None else torch.device("cpu")
            draw = torch.rand(there.shape, generator=generator, device=device).to(there.device)
            margin = (draw - torch.tensor(self.modality_dropout, device=there.device)).masked_fill(~there, -2.0)
            kept = margin >= 0
            kept |= (margin == margin.amax(1, keepdim=True)) & ~kept.any(1, keepdim=True)
            there = there & kept
        return dict(zip(self.encoders, there.unbind(1), strict=True))


@SYSTEMS.register("attention", source="M-PRTM's fusion over tokens", native_missing=True)
def build(study: Study, weights: Mapping[str, Path]) -> MultimodalModel:
    """Compose the system of a study; weights: name in ``site.toml`` -> local directory."""
    encoders = {}
    for name, plan in study.modalities.items():
        key = f"modalities.{name}.encoder"
        entry = ENCODERS.get(plan.encoder or DEFAULT_ENCODERS.get(plan.kind, plan.kind), key=key, kind=plan.kind)
        encoders[name] = entry.build(plan, study.model, find(plan, weights))
    width = study.model.width
    adapters = {m: nn.Identity() if e.width == width else nn.Linear(e.width, width) for m, e in encoders.items()}
    fusion = FUSIONS.get("self_attention", key="model.system").build(tuple(encoders), study.model)
    heads = {
        name: HEADS.get(task.type, key=f"tasks.{name}.type").build(task, fusion.out_features)
        for name, task in study.tasks.items()
    }
    return MultimodalModel(
        encoders=encoders,
        adapters=adapters,
        fusion=fusion,
        heads=heads,
        modality_dropout={
            name: study.model.modality_dropout if plan.dropout is None else plan.dropout
            for name, plan in study.modalities.items()
        },
        frozen_encoders=study.training.encoders == "frozen",
    )
