"""The model of every system: encoders, adapters, fusion and heads. `fl_shared.models.compose` puts them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor, nn

from fl_shared.models.interface import (
    AuxLogits,
    Batch,
    EncoderOutput,
    Fusion,
    FusionOutput,
    Head,
    Ranked,
    StagedEncoder,
    each_tensor,
)
from fl_shared.models.masked import MaskedSeries
from fl_shared.models.ranking import attention_ranking
from fl_shared.plans import SERIES
from fl_shared.study import Study
from fl_shared.task import RISKY

TASKS, SEGMENTATION, UNIMODAL, MASKED, CHOOSE = "tasks", "segmentation", "unimodal", "masked", "choose"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """logits: task -> (B, C); auxiliary predictions, losses (B,) each, ranked attention, of the model's objective."""

    logits: Mapping[str, Tensor]
    auxiliary: tuple[AuxLogits, ...] = ()
    losses: tuple[Tensor, ...] = ()
    ranked: tuple[Ranked, ...] = ()


class MultimodalModel(nn.Module):
    """Encoders, adapters, fusion and heads; the children's names are the parameter groups of the study.

    Every encoder runs on all rows (per-patient gradients need one shape); what an absent modality's row holds is
    zeroed before its encoder and after it, so that it cannot matter.

    Attributes:
        objective: what `forward` computes and `losses` sums: ``tasks``, ``segmentation``, ``unimodal`` (a head a task
            and modality, named ``task@modality``), ``masked`` (hidden parts of series), or an objective of the fusion.
        drawn: segmentation -> the modality that it is drawn on.
    """

    def __init__(
        self,
        study: Study,
        *,
        encoders: Mapping[str, StagedEncoder],
        adapters: Mapping[str, nn.Module],
        fusion: Fusion,
        heads: Mapping[str, nn.Module],
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.adapters = nn.ModuleDict(adapters)
        self.fusion = fusion
        self.heads = nn.ModuleDict(heads)
        self._study = study
        self.drawn = {t: plan.modality for t, plan in study.tasks.items() if plan.modality is not None}
        self._fused = tuple(task for task in study.tasks if task not in self.drawn)
        self.enter(1)

    def enter(self, round: int) -> None:
        """Be as a round of the study wants it: its objective, and gradients for what it trains."""
        self.objective = self._study.phase(round).objective
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._study.trains(name, round))

    @property
    def staged(self) -> bool:
        """Whether the fusion acts inside the encoders: what one gives hangs on the others, so that none can be kept."""
        return "stages" in self.fusion.needs and self.objective not in (SEGMENTATION, UNIMODAL, MASKED)

    def constant_encoders(self) -> tuple[str, ...]:
        """Modalities whose encoder nothing changes at present: their features need be computed once only."""
        return () if self.staged else self._frozen()

    def train(self, mode: bool = True) -> Self:
        """Constant encoders stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen():
            self.encoders[name].eval()
        return self

    def _frozen(self) -> tuple[str, ...]:
        return tuple(m for m, e in self.encoders.items() if not any(p.requires_grad for p in e.parameters()))

    def forward(self, batch: Batch) -> Outputs:
        """Logits of every task, and what the objective needs.

        Args:
            batch: rows; to judge a subset of modalities, change ``present``.

        Raises:
            ValueError: a row has no modality present.
        """
        if self.objective == SEGMENTATION:
            return Outputs(logits=self.segment(batch))
        if self.objective == MASKED:
            return Outputs(logits={}, losses=self._masked(batch))
        present = self._present(batch)
        encoded = self._encoded(batch, present)
        outputs = {name: self._adapt(name, output, present[name]) for name, output in encoded.items()}
        if self.objective == UNIMODAL:
            return Outputs(logits={}, auxiliary=self._unimodal(outputs, present))
        fused = self.fusion(outputs, present)
        logits = {}
        if self.objective == TASKS:
            logits = self._logits(fused)
            if self.training:
                trained = {t: m for t, m in self.drawn.items() if m not in batch.features}
                logits |= {task: self.heads[task](encoded[m].levels) for task, m in trained.items()}
        losses = (fused.losses[self.objective],) if self.objective in fused.losses else ()
        ranked = fused.ranked if self.objective == TASKS else ()
        return Outputs(logits=logits, auxiliary=fused.auxiliary.get(self.objective, ()), losses=losses, ranked=ranked)

    def traced(self, batch: Batch) -> tuple[dict[str, Tensor], Mapping[str, EncoderOutput]]:
        """Logits of the tasks, and what the encoders gave on the way there, for gradients of the one by the other."""
        encoded = self._encoded(batch, batch.present)
        outputs = {name: self._adapt(name, output, batch.present[name]) for name, output in encoded.items()}
        return self._logits(self.fusion(outputs, batch.present)), encoded

    def _logits(self, fused: FusionOutput) -> dict[str, Tensor]:
        own = self.fusion.predicts
        return {task: fused.logits[task] if own else self.heads[task](fused.of(task)) for task in self._fused}

    def encode(self, name: str, batch: Batch) -> EncoderOutput:
        """What the encoder of a modality makes of the rows; absent rows' inputs are read as 0."""
        if name in batch.features:
            return batch.features[name]
        output: EncoderOutput = self.encoders[name](self._read(name, batch, batch.present[name]))
        return output

    def _read(self, name: str, batch: Batch, there: Tensor) -> dict[str, Tensor]:
        return {key: _where(there, x) for key, x in batch.inputs[name].items()}

    def _encoded(self, batch: Batch, present: Mapping[str, Tensor]) -> Mapping[str, EncoderOutput]:
        """Of every modality; a fusion inside the encoders must not see what modality dropout hides."""
        if not self.staged:
            return {name: self.encode(name, batch) for name in self.encoders}
        encoders = {name: cast(StagedEncoder, encoder) for name, encoder in self.encoders.items()}
        return self.fusion.encode(
            encoders, {name: self._read(name, batch, present[name]) for name in encoders}, present
        )

    @torch.no_grad()
    def shares(self, batch: Batch) -> Mapping[str, Tensor] | None:
        """What part (B,) each modality has in what is fused of a row, where the fusion says so (`Fusion.shares`)."""
        present = self._present(batch)
        encoded = self._encoded(batch, present)
        outputs = {name: self._adapt(name, output, present[name]) for name, output in encoded.items()}
        return self.fusion.shares(outputs, present)

    @torch.no_grad()
    def features(self, name: str, batch: Batch) -> EncoderOutput:
        """As `encode`, in evaluation mode, without what the fusion does not need: for `Batch.features`."""
        self.encoders[name].eval()
        return self.fusion.kept(self.encode(name, batch), batch.present[name])

    def with_features(self, batch: Batch) -> Batch:
        """The rows with what every encoder gives of them, so that many sets of modalities cost one run; as they are
        where the fusion acts inside the encoders.
        """
        if self.staged:
            return batch
        return replace(batch, features={name: self.features(name, batch) for name in self.encoders})

    def segment(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (B, frames, slices, classes, size, size) of every segmentation.

        The encoders always run: what is kept as `Batch.features` lacks the maps, which are large. A fusion inside them
        acts here too, since the decoders learnt from what it leaves.
        """
        given = replace(batch, features={})
        if self.staged:
            encoded = self._encoded(given, batch.present)
        else:
            encoded = {name: self.encode(name, given) for name in set(self.drawn.values())}
        return {task: self.heads[task](encoded[name].levels) for task, name in self.drawn.items()}

    def losses(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Loss a row (B,), summed over tasks, auxiliary predictions, ranked attention and further losses."""
        each = [self._loss(task, logits, batch, None) for task, logits in outputs.logits.items()]
        each += [self._loss(aux.task, aux.logits, batch, aux.rows) for aux in outputs.auxiliary]
        each += [self._rank(ranked, batch) for ranked in outputs.ranked if self._is_risky(ranked.task)]
        return torch.stack([*each, *outputs.losses]).sum(0)

    @torch.no_grad()
    def choose(self, batch: Batch) -> None:
        """Fill the fusion's buffers from these rows (objective 'choose')."""
        outputs = {name: self._adapt(name, self.encode(name, batch), batch.present[name]) for name in self.encoders}
        self.fusion.choose(outputs, batch.present)

    def predict(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is judged, task by task (`Head.predict`)."""
        return {task: self._head(task).predict(z) for task, z in logits.items()}

    def _head(self, task: str) -> Head:
        return cast(Head, self.heads[task])

    def _loss(self, task: str, logits: Tensor, batch: Batch, rows: Tensor | None) -> Tensor:
        mask = batch.target_mask[task]
        known = mask if rows is None else mask & rows.view(-1, *[1] * (mask.dim() - 1))
        loss = self._head(task).loss(logits, batch.targets[task], known)
        return loss * self._study.tasks[task].weight

    def _is_risky(self, task: str) -> bool:
        return self._study.tasks[task].type in RISKY

    def _rank(self, ranked: Ranked, batch: Batch) -> Tensor:
        loss = attention_ranking(ranked, batch.targets[ranked.task], batch.target_mask[ranked.task])
        return loss * self._study.tasks[ranked.task].weight

    def _adapt(self, name: str, output: EncoderOutput, there: Tensor) -> EncoderOutput:
        """Pooled vector and tokens through one call (ghost clipping allows a layer one a pass); absent rows are 0."""
        both = self.adapters[name](torch.cat([output.pooled[:, None], output.tokens], dim=1))
        adapted = replace(output, pooled=both[:, 0], tokens=both[:, 1:])
        return each_tensor(lambda x: _where(there, x), adapted)

    def _unimodal(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> tuple[AuxLogits, ...]:
        return tuple(
            AuxLogits(
                task=task, logits=self.heads[f"{task}@{name}"](FusionOutput(fused=output.pooled)), rows=present[name]
            )
            for task in self._fused
            for name, output in outputs.items()
        )

    def _masked(self, batch: Batch) -> tuple[Tensor, ...]:
        """Loss (B,) of each series; 0 where it is absent."""
        losses = []
        for name, plan in self._study.modalities.items():
            if plan.kind in SERIES:
                head = cast(MaskedSeries, self.heads[f"masked@{name}"])
                seen, hidden = head.hide(batch.inputs[name])
                output = self.encode(name, replace(batch, inputs={name: seen}, features={}))
                true = {key: _where(batch.present[name], x) for key, x in batch.inputs[name].items()}
                losses.append(_where(batch.present[name], head.loss(output, true, hidden)))
        return tuple(losses)

    def _present(self, batch: Batch) -> dict[str, Tensor]:
        """(B,) a modality, after modality dropout, which never takes the last one present."""
        there = torch.stack([batch.present[m] for m in self.encoders], dim=1)
        if not bool(there.any(1).all()):
            raise ValueError("a row has no modality present")
        model, plans = self._study.model, self._study.modalities.values()
        dropout = [model.modality_dropout if plan.dropout is None else plan.dropout for plan in plans]
        if self.training and self.objective != UNIMODAL and any(dropout):
            draw = torch.rand(there.shape, device="cpu").to(there.device)  # so that a seed means the same everywhere
            margin = (draw - torch.tensor(dropout, device=there.device)).masked_fill(~there, -2.0)
            kept = margin >= 0
            kept |= (margin == margin.amax(1, keepdim=True)) & ~kept.any(1, keepdim=True)
            there = there & kept
        return dict(zip(self.encoders, there.unbind(1), strict=True))


def _where(there: Tensor, value: Tensor) -> Tensor:
    """Rows that are there; 0 (or False) in the others, whatever they hold."""
    return torch.where(there.view(-1, *[1] * (value.dim() - 1)), value, torch.zeros_like(value))
