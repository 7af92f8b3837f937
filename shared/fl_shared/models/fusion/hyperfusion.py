"""HyperFusion: the other modalities generate weights of one's network, patient by patient (Duenias et al. 2024).

As in its Alzheimer model, an embedding of 8 numbers generates the 1 x 1 convolution, weights and biases, on the
down-sampling path around the host's last block. Over any encoder: the last stage's output + the generated convolution
of the stage's input, brought to the output's places by adaptive average pooling. The encoder's own path stays: it is
what remains where no conditioner is present. The host is ``model.guide``, else the first by name with places in space
or time.

Ours: the conditioners' pooled vectors are embedded by a linear map that learns with the rest (there, a pretrained
tabular network) and a LayerNorm, so that the embedding has variance 1 whatever the patients are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.fusion.staged import (
    HostedFusion,
    begun,
    feature_map,
    host_of,
    over_places,
    stepped,
    with_map,
)
from fl_shared.models.interface import EncoderOutput, FusionSpec, Level, StagedEncoder
from fl_shared.models.registry import FUSIONS

EMBEDDING = 8
POOLS: Mapping[int, Callable[..., Tensor]] = {
    3: F.adaptive_avg_pool1d,
    4: F.adaptive_avg_pool2d,
    5: F.adaptive_avg_pool3d,
}


class Generator(nn.Module):
    """Conditioners (B, N) -> weights (B, C_out, C_in) and biases (B, C_out) of a 1 x 1 convolution.

    Hyperfan-in (Chang et al. 2020): parameters that generate weights have variance 1 / (8 C_in), those that generate
    biases 1 / 8, for an embedding of variance 1. They are drawn with 1 / (3 * 8) as any layer of 8 inputs, so what they
    give is multiplied by sqrt(3 / C_in) and sqrt(3).
    """

    def __init__(self, *, conditioners: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.embedding = nn.Linear(conditioners, EMBEDDING)
        self.norm = nn.LayerNorm(EMBEDDING)
        self.weights = nn.Linear(EMBEDDING, outputs * inputs)
        self.biases = nn.Linear(EMBEDDING, outputs)

    def forward(self, conditioners: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and biases."""
        embedded = self.norm(self.embedding(conditioners))
        weights = math.sqrt(3 / self.inputs) * self.weights(embedded)
        return weights.unflatten(1, (self.outputs, self.inputs)), math.sqrt(3) * self.biases(embedded)


class HyperFusion(HostedFusion):
    """A generated 1 x 1 convolution around the host's last stage: fused (B, M * d)."""

    def __init__(self, spec: FusionSpec, *, host: str) -> None:
        super().__init__(spec, host=host)
        if self.conditioners:
            inputs, outputs = spec.levels[host][-2:]
            self.generator = Generator(conditioners=self.conditioners, inputs=inputs, outputs=outputs)

    def hosted(
        self, host: StagedEncoder, inputs: Mapping[str, Tensor], given: Tensor | None, heard: Tensor
    ) -> EncoderOutput:
        """The generated path is added after the last stage."""
        state = begun(host, inputs, left=1)
        before = feature_map(host, state)
        state = stepped(host, state, left=1)
        if given is not None:
            after = feature_map(host, state).map
            weights, biases = self.generator(given)
            x = resized(before, after.shape[2:])
            path = torch.bmm(weights, x.flatten(2)).view_as(after) + over_places(biases, after)
            rows = heard.view(-1, *[1] * (after.dim() - 1))
            state = with_map(host, state, after + torch.where(rows, path, 0.0))
        return host.finish(state)


def resized(level: Level, places: torch.Size) -> Tensor:
    """Means of a map over its valid places, (B, C, *places); 0 where none is valid. It commutes with a 1 x 1 conv."""
    pool = POOLS[level.map.dim()]
    if level.mask is None:
        return pool(level.map, places)
    valid = level.mask[:, None]
    share = pool(valid.to(level.map.dtype), places)
    return pool(torch.where(valid, level.map, 0.0), places) / torch.where(share > 0, share, 1.0)


@FUSIONS.register("hyperfusion", source="Duenias et al. 2024 (HyperFusion)")
def build(spec: FusionSpec) -> HyperFusion:
    """The fusion of the study's modalities."""
    return HyperFusion(spec, host=host_of(spec))
