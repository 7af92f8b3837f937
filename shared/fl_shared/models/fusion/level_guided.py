"""Level-guided fusion (LeMoF, modules 1 and 2): each level of each encoder predicts, the best levels attend.

Four parts, each trained by an objective of its own: ``levels`` (a predictor on each of three levels), ``meta`` (a
logistic meta-learner over a modality's levels), ``cross`` (cross-attention between the best levels of every pair of
modalities) and, by the tasks themselves, ``final`` (logistic stacking of them all). In between ``choose`` fills
``importance``. Every stack is linear in logits, which suits each type of task.

The paper has two modalities and leaves widths, pooling and absence open. Ours: all three, and more modalities by pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.models.fusion.level_predictor import LevelOutput, LevelPredictor, pool
from fl_shared.models.fusion.pairwise_attention import PairwiseAttention
from fl_shared.models.fusion.shapley import shapley
from fl_shared.models.fusion.stacking import FinalStack, LogisticStack
from fl_shared.models.interface import AuxLogits, EncoderOutput, Fusion, FusionOutput, FusionSpec, Level
from fl_shared.models.registry import FUSIONS

LEVELS = 3


class LevelGuidedFusion(Fusion):
    """Levels of the modalities -> the tasks' logits.

    Attributes:
        importance: (modalities, tasks, 3) mean absolute Shapley value of each level in the meta-learner; its largest
            mean over tasks is a modality's best level, unless the study fixes it.
    """

    needs = frozenset({"levels"})
    native_missing = True
    predicts = True
    importance: Tensor
    fixed: Tensor

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        model, tasks = spec.model, spec.tasks
        self.modalities, self.tasks = spec.modalities, tuple(tasks)
        self.levels = nn.ModuleDict(
            {
                m: nn.ModuleList(LevelPredictor(channels=c, width=model.width, tasks=tasks) for c in spec.levels[m])
                for m in spec.modalities
            }
        )
        self.meta = nn.ModuleDict(
            {
                m: nn.ModuleDict({task: LogisticStack(outputs=n, features=LEVELS) for task, n in tasks.items()})
                for m in spec.modalities
            }
        )
        self.cross = PairwiseAttention(
            modalities=spec.modalities, width=model.width, heads=model.heads, dropout=model.dropout, tasks=tasks
        )
        self.final = nn.ModuleDict(
            {task: FinalStack(modalities=len(spec.modalities), outputs=n) for task, n in tasks.items()}
        )
        self.out_features = self.cross.out_features
        self.register_buffer("importance", torch.zeros(len(spec.modalities), len(tasks), LEVELS))
        fixed = torch.tensor([model.levels.get(m, -1) for m in spec.modalities])
        self.register_buffer("fixed", fixed, persistent=False)

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """All parts; the stacks take predictions as they are (no gradient passes through them)."""
        there = {m: present[m] for m in self.modalities}
        levels = {m: self._levels(m, outputs[m], there[m]) for m in self.modalities}
        best = self.best_levels()
        chosen = {m: _pick(levels[m], best[i : i + 1]) for i, m in enumerate(self.modalities)}
        meta = {m: {task: self._meta(m, task)(_logits(levels[m], task)) for task in self.tasks} for m in levels}
        fused, omega2 = self.cross(chosen, there)
        everyone = torch.ones_like(next(iter(there.values())))
        logits, omega1 = {}, {}
        for task in self.tasks:
            pairs = [(meta[m][task].detach(), chosen[m].logits[task].detach()) for m in self.modalities]
            omega1[task], logits[task] = self.final[task](pairs, list(there.values()), omega2[task].detach())
        each_level = [
            AuxLogits(task=task, logits=level.logits[task], rows=there[m])
            for m in self.modalities
            for level in levels[m]
            for task in self.tasks
        ]
        each_meta = [AuxLogits(task=t, logits=z, rows=there[m]) for m in meta for t, z in meta[m].items()]
        auxiliary = {
            "levels": tuple(each_level),
            "meta": tuple(each_meta),
            "cross": tuple(AuxLogits(task=task, logits=z, rows=everyone) for task, z in omega2.items()),
            "tasks": tuple(AuxLogits(task=task, logits=z, rows=everyone) for task, z in omega1.items()),
        }
        return FusionOutput(fused=fused, logits=logits, auxiliary=auxiliary)

    @torch.no_grad()
    def choose(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> None:
        """Fill ``importance`` from the rows that have each modality; 0 where none has it.

        An absent level's logit is its mean over these rows (as in shap's linear explainer), so that what all rows
        share, such as the log-odds of a rare outcome, is no level's merit. A site with a single row thus has no say.
        """
        for i, m in enumerate(self.modalities):
            levels = self._levels(m, outputs[m], present[m])
            for j, task in enumerate(self.tasks):
                x = _logits(levels, task)[present[m]]
                values = shapley(self._meta(m, task), x, baseline=x.sum(0) / max(len(x), 1)).abs()
                self.importance[i, j] = values.sum((0, 1)) / max(values[..., 0].numel(), 1)

    def kept(self, output: EncoderOutput, there: Tensor) -> EncoderOutput:
        """The levels as at most 16 tokens each, not as whole maps: pooling them again changes nothing."""
        pooled = (pool(level, there) for level in output.levels)
        levels = tuple(Level(map=x.transpose(1, 2).contiguous(), mask=mask) for x, mask in pooled)
        return replace(super().kept(output, there), levels=levels)

    def best_levels(self) -> Tensor:
        """Number of each modality's best level (M,)."""
        return torch.where(self.fixed >= 0, self.fixed, self.importance.mean(1).argmax(1))

    def _meta(self, modality: str, task: str) -> nn.Module:
        return cast(nn.ModuleDict, self.meta[modality])[task]

    def _levels(self, modality: str, output: EncoderOutput, there: Tensor) -> list[LevelOutput]:
        pairs = zip(cast(nn.ModuleList, self.levels[modality]), output.levels, strict=True)
        return [predictor(level, there) for predictor, level in pairs]


def _logits(levels: Sequence[LevelOutput], task: str) -> Tensor:
    """What the levels of a modality predict, as it is: (B, C, 3)."""
    return torch.stack([level.logits[task].detach() for level in levels], dim=-1)


def _pick(levels: Sequence[LevelOutput], number: Tensor) -> LevelOutput:
    """The level of a number (1,), on its device: reading it out would wait for a GPU."""

    def pick(each: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(each), dim=1).index_select(1, number)[:, 0]

    return LevelOutput(
        tokens=pick([level.tokens for level in levels]),
        mask=pick([level.mask for level in levels]),
        logits={task: pick([level.logits[task] for level in levels]) for task in levels[0].logits},
    )


# not projected: a level has its own map to d, and the encoders' last outputs are not read
@FUSIONS.register("level_guided", source="LeMoF, modules 1 and 2", native_missing=True, projects=False)
def build(spec: FusionSpec) -> LevelGuidedFusion:
    """The fusion of the study's modalities.

    Raises:
        ConsiliumError: fewer than two modalities, or a fixed level that is none (exit code 10).
    """
    faults = []
    if len(spec.modalities) < 2:
        mend = "Add one, or choose another system."
        faults.append(Fault(file="study.toml", key="modalities", problem="level_guided joins at least two", mend=mend))
    for name, level in spec.model.levels.items():
        if name not in spec.modalities or not 0 <= level < LEVELS:
            mend = f"Give 0, 1 or 2 for any of: {', '.join(spec.modalities)}."
            fault = Fault(
                file="study.toml", key=f"model.levels.{name}", value=str(level), problem="no such level", mend=mend
            )
            faults.append(fault)
    if faults:
        raise ConsiliumError("the model cannot be built", code=ExitCode.STUDY, faults=faults)
    return LevelGuidedFusion(spec)
