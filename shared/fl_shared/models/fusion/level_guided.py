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
from typing import Literal, cast

import torch
from torch import Tensor, nn

from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.models.fusion.level_predictor import LevelOutput, LevelPredictor, pool
from fl_shared.models.fusion.own_heads import told
from fl_shared.models.fusion.pairwise_attention import PairwiseAttention
from fl_shared.models.fusion.shapley import shapley
from fl_shared.models.fusion.stacking import FinalStack, LogisticStack
from fl_shared.models.interface import AuxLogits, EncoderOutput, Fusion, FusionOutput, FusionSpec, Level
from fl_shared.models.registry import FUSIONS

LEVELS = 3
Modules = Literal["both", "first", "second"]
"""The paper's ablation: stacked levels alone (omega1), cross-attention alone (omega2)."""


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

    def __init__(self, spec: FusionSpec, *, modules: Modules = "both") -> None:
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
        self.cross = self.final = None
        if modules != "first":
            self.cross = PairwiseAttention(
                modalities=spec.modalities, width=model.width, heads=model.heads, dropout=model.dropout, tasks=tasks
            )
        if modules != "second":
            many, joins = len(spec.modalities), modules == "both"
            self.final = nn.ModuleDict(
                {task: FinalStack(modalities=many, outputs=n, joins=joins) for task, n in tasks.items()}
            )
        self.out_features = sum(tasks.values()) if self.cross is None else self.cross.out_features
        self.register_buffer("importance", torch.zeros(len(spec.modalities), len(tasks), LEVELS))
        fixed = torch.tensor([model.levels.get(m, -1) for m in spec.modalities])
        self.register_buffer("fixed", fixed, persistent=False)

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """All parts; in training the stacks take predictions as they are (no gradient passes through them)."""
        there = {m: present[m] for m in self.modalities}
        levels = {m: self._levels(m, outputs[m], there[m]) for m in self.modalities}
        best = self.best_levels()
        chosen = {m: _pick(levels[m], best[i : i + 1]) for i, m in enumerate(self.modalities)}
        meta = {
            m: {task: self._meta(m, task)(self._told(_logits(levels[m], task))) for task in self.tasks} for m in levels
        }
        fused, omega2 = (None, {}) if self.cross is None else self.cross(chosen, there)
        everyone = torch.ones_like(next(iter(there.values())))
        logits = {task: self._paired(z, [meta[m][task] for m in self.modalities], there) for task, z in omega2.items()}
        omega1 = {}
        for task, final in self.final.items() if self.final is not None else ():
            pairs = [(self._told(meta[m][task]), self._told(chosen[m].logits[task])) for m in self.modalities]
            attended = self._told(omega2[task]) if task in omega2 else None
            omega1[task], logits[task] = final(pairs, list(there.values()), attended)
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
        }
        if self.cross is not None:  # otherwise it is the prediction itself
            auxiliary["tasks"] = tuple(AuxLogits(task=task, logits=z, rows=everyone) for task, z in omega1.items())
        fused = torch.cat(list(logits.values()), dim=1) if fused is None else fused
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

    def _paired(self, omega2: Tensor, meta: Sequence[Tensor], there: Mapping[str, Tensor]) -> Tensor:
        """Omega2 (B, C); of a row with a lone modality, of which cross-attention knows nothing, its meta-learner's."""
        lone = torch.stack([there[m] for m in self.modalities]).sum(0) == 1
        known = [torch.where(there[m][:, None], self._told(z), 0.0) for m, z in zip(self.modalities, meta, strict=True)]
        return torch.where(lone[:, None], torch.stack(known).sum(0), omega2)

    def _told(self, logits: Tensor) -> Tensor:
        """To a stack: in training no gradient comes back from it."""
        return told(logits, training=self.training)

    def _meta(self, modality: str, task: str) -> nn.Module:
        return cast(nn.ModuleDict, self.meta[modality])[task]

    def _levels(self, modality: str, output: EncoderOutput, there: Tensor) -> list[LevelOutput]:
        pairs = zip(cast(nn.ModuleList, self.levels[modality]), output.levels, strict=True)
        return [predictor(level, there) for predictor, level in pairs]


def _logits(levels: Sequence[LevelOutput], task: str) -> Tensor:
    """What the levels of a modality predict, as it is: (B, C, 3)."""
    return torch.stack([level.logits[task] for level in levels], dim=-1)


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
    return _built(spec, modules="both")


@FUSIONS.register("level_guided_first", source="LeMoF, ablation: module 1 alone", native_missing=True, projects=False)
def build_first(spec: FusionSpec) -> LevelGuidedFusion:
    """Stacked levels alone; raises as `build`."""
    return _built(spec, modules="first")


@FUSIONS.register("level_guided_second", source="LeMoF, ablation: module 2 alone", native_missing=True, projects=False)
def build_second(spec: FusionSpec) -> LevelGuidedFusion:
    """Cross-attention between the best levels alone; raises as `build`."""
    return _built(spec, modules="second")


def _built(spec: FusionSpec, *, modules: Modules) -> LevelGuidedFusion:
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
    return LevelGuidedFusion(spec, modules=modules)
