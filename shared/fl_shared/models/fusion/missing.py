"""What stands in for an absent modality, for any fusion that cannot leave one out.

A learned vector a modality, or zeros (``model.missing``): Hayat et al. 2022 (MedFuse, section 4) found them
equivalent. Without modality dropout, rows that have everything leave the vectors untrained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from fl_shared.models.interface import EncoderOutput, Fusion, FusionOutput, FusionSpec, Level, StagedEncoder
from fl_shared.models.tokens import learned_tokens


class MissingAdapter(Fusion):
    """The same fusion, whose absent modalities are filled in before it looks: it sees valid outputs only.

    Where a modality is absent: pooled = v; tokens = v, the first of them valid; level k = v_k at every place. Presence
    is passed on as it is.

    Args:
        fusion: one without ``native_missing``.
        spec: what it was built for.
    """

    native_missing = True

    def __init__(self, fusion: Fusion, spec: FusionSpec) -> None:
        super().__init__()
        self.needs, self.predicts = fusion.needs, fusion.predicts
        self.out_features = fusion.out_features
        self.fusion = fusion
        learned = spec.modalities if spec.model.missing == "learned" else ()
        leveled = learned if "levels" in fusion.needs else ()
        plain = learned if fusion.needs & {"pooled", "tokens"} else ()
        self.vectors = nn.ModuleDict({m: nn.Embedding(1, spec.widths[m]) for m in plain})
        self.levels = nn.ModuleDict({m: nn.ModuleList(nn.Embedding(1, c) for c in spec.levels[m]) for m in leveled})

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """As the fusion's own."""
        found: FusionOutput = self.fusion(self._filled(outputs, present), present)
        return found

    def encode(
        self,
        encoders: Mapping[str, StagedEncoder],
        inputs: Mapping[str, Mapping[str, Tensor]],
        present: Mapping[str, Tensor],
    ) -> dict[str, EncoderOutput]:
        """As the fusion's own."""
        return self.fusion.encode(encoders, inputs, present)

    def choose(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> None:
        """As the fusion's own."""
        self.fusion.choose(self._filled(outputs, present), present)

    def kept(self, output: EncoderOutput, there: Tensor) -> EncoderOutput:
        """As the fusion's own."""
        return self.fusion.kept(output, there)

    def _filled(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> dict[str, EncoderOutput]:
        return {m: self._fill(m, output, present[m]) for m, output in outputs.items()}

    def _fill(self, modality: str, output: EncoderOutput, there: Tensor) -> EncoderOutput:
        vector = _read(self.vectors[modality], there) if modality in self.vectors else torch.zeros_like(output.pooled)
        first = torch.arange(output.tokens.shape[1], device=there.device) == 0
        return replace(
            output,
            pooled=torch.where(there[:, None], output.pooled, vector),
            tokens=torch.where(there[:, None, None], output.tokens, vector[:, None]),
            token_mask=torch.where(there[:, None], output.token_mask, first),
            levels=self._fill_levels(modality, output.levels, there),
        )

    def _fill_levels(self, modality: str, levels: tuple[Level, ...], there: Tensor) -> tuple[Level, ...]:
        if "levels" not in self.needs:
            return levels
        if modality not in self.levels:
            vectors = [level.map.new_zeros(level.map.shape[:2]) for level in levels]
        else:
            vectors = [_read(table, there) for table in cast(nn.ModuleList, self.levels[modality])]
        return tuple(_fill_level(level, v, there) for level, v in zip(levels, vectors, strict=True))


def _fill_level(level: Level, vector: Tensor, there: Tensor) -> Level:
    space = [1] * (level.map.dim() - 2)
    rows = there.view(-1, 1, *space)
    return Level(
        map=torch.where(rows, level.map, vector.view(*vector.shape, *space)),
        mask=None if level.mask is None else level.mask | ~rows[:, 0],
    )


def _read(table: nn.Module, there: Tensor) -> Tensor:
    """The vector of a table of one, for every row (B, d)."""
    return learned_tokens(cast(nn.Embedding, table), there)[:, 0]
