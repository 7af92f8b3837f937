"""MedM2T's fusion (arXiv v2): a shared encoder, bi-modal attention over every pair of modalities, a decoder.

The paper's attention asks one vector with one vector: a softmax over a single key, which is 1 whatever is asked. Here
tokens ask tokens. The released code also attends across patients and adds one direction to itself: neither is done.
Published sizes for E = 512: a block 3,152,384 parameters, a pair 6,304,768 (512 less here a block: the bias of a key,
which softmax ignores).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.attention import attend
from fl_shared.models.interface import EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS
from fl_shared.models.tokens import learned_tokens, token_mean

EPSILON = 1e-6


class CrossBlock(nn.Module):
    """Post-norm cross-attention (Vaswani et al. 2017, fig. 1): x (B, T, E) asks y (B, S, E) -> (B, T, E)."""

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """Mask (B, S) of y; at least one is valid."""
        found = attend(self.query(x), self.key(y), self.value(y), mask, heads=self.heads)
        x = self.norm1(x + self.dropout(self.out(found)))
        h: Tensor = self.norm2(x + self.dropout(self.outer(F.leaky_relu(self.inner(x)))))
        return h


class BimodalPair(nn.Module):
    """Tokens of two modalities -> one vector (B, E): each asks the other, mean over who asks, both directions added.

    What is asked holds the none token before the modality's own, always valid: with one token alone the softmax would
    be 1, and without any nothing could be asked.
    """

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ahead = CrossBlock(width=width, heads=heads, dropout=dropout)
        self.back = CrossBlock(width=width, heads=heads, dropout=dropout)

    def forward(self, a: Tensor, a_mask: Tensor, b: Tensor, b_mask: Tensor) -> Tensor:
        """a (B, 1 + T, E), b (B, 1 + S, E): the none token first, as in the masks; only the others ask."""
        ahead = token_mean(self.ahead(a[:, 1:], b, b_mask), a_mask[:, 1:])
        back = token_mean(self.back(b[:, 1:], a, a_mask), b_mask[:, 1:])
        return ahead + back


class BimodalAttentionFusion(Fusion):
    """fused (B, D / 2) of D = (M + M (M - 1) / 2) E: a vector a modality and one a pair, through half of the decoder.

    The adapters are the paper's linear map a modality; the other half of the decoder is a linear head. An absent
    modality's vector is its learned none token, and its pairs are 0. One modality alone has no pair.
    """

    needs = frozenset({"pooled", "tokens"})
    native_missing = True

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        model, width = spec.model, spec.model.width
        self.modalities = spec.modalities
        self.none = nn.Embedding(len(spec.modalities), width)
        self.shared = nn.Linear(width, width)
        self.shared_dropout = nn.Dropout(model.dropout / 2)  # 0.05 in the paper, 0.1 elsewhere
        self.pairs = nn.ModuleDict(
            {
                f"{a}@{b}": BimodalPair(width=width, heads=model.heads, dropout=model.dropout)
                for a, b in combinations(spec.modalities, 2)
            }
        )
        inputs = (len(spec.modalities) + len(self.pairs)) * width
        self.out_features = inputs // 2
        self.decoder = nn.Linear(inputs, self.out_features)
        self.norm = nn.LayerNorm(self.out_features)
        self.dropout = nn.Dropout(model.dropout)

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """Vectors in the order of the study, then pairs."""
        vectors, tokens, masks = self._encode(outputs, present)
        parts = list(vectors.values())
        for a, b in combinations(self.modalities, 2):
            found = self.pairs[f"{a}@{b}"](tokens[a], masks[a], tokens[b], masks[b])
            parts.append(torch.where((present[a] & present[b])[:, None], found, 0.0))
        fused = self.dropout(F.relu(self.norm(self.decoder(torch.cat(parts, dim=1)))))
        return FusionOutput(fused=fused)

    def _encode(
        self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Each modality's vector (B, E), none token and tokens (B, 1 + T, E), and their mask, by one shared map.

        What is not valid is replaced before, so that whatever it holds cannot matter.
        """
        nones = torch.split(learned_tokens(self.none, present[self.modalities[0]]), 1, dim=1)
        parts, masks = [], {}
        for m, none in zip(self.modalities, nones, strict=True):
            valid = outputs[m].token_mask & present[m][:, None]
            pooled = torch.where(present[m][:, None, None], outputs[m].pooled[:, None], none)
            parts += [pooled, none, torch.where(valid[..., None], outputs[m].tokens, 0.0)]
            masks[m] = F.pad(valid, (1, 0), value=True)
        shared = self.shared_dropout(F.relu(self.shared(torch.cat(parts, dim=1))))
        each = shared.split([1 + mask.shape[1] for mask in masks.values()], dim=1)
        vectors = {m: part[:, 0] for m, part in zip(masks, each, strict=True)}
        return vectors, {m: part[:, 1:] for m, part in zip(masks, each, strict=True)}, masks


@FUSIONS.register("bimodal_attention", source="MedM2T, shared encoder and bi-modal attention", native_missing=True)
def build(spec: FusionSpec) -> BimodalAttentionFusion:
    """The fusion of the study's modalities."""
    return BimodalAttentionFusion(spec)
