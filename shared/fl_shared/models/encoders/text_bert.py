"""Text encoder: BERT (Devlin et al. 2019), from a local directory or small over bytes.

A note longer than BERT's window is several windows in one row (`fl_shared.models.encoders.bert`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from fl_shared.bundle import CONFIG
from fl_shared.models.encoders.bert import byte_bert, load_bert, use_windows
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import token_mean
from fl_shared.models.weights import loaded, refused
from fl_shared.study import ModalityPlan, ModelPlan
from fl_shared.text import PAD

if TYPE_CHECKING:
    from transformers import BertModel  # 4.6 s CPU: only a study with text loads it

STAGES = 3


class TextBert(StagedEncoder):
    """``ids`` (B, L) and ``mask`` (B, L) -> T tokens; pooled is cls of the last layer, the mean over windows.

    Window k stands from token k * ``window`` on; tokens attend within their window, and positions restart in each. T
    goes as far as the longest text of the batch, in whole windows where it has several.

    The model is driven layer by layer, so that every id is expanded to the batch: per-patient gradients of an
    embedding read from a (1, L) id would be wrong.

    Args:
        bert: without a pooling layer.
        window: tokens of a window.
    """

    def __init__(self, bert: BertModel, *, window: int) -> None:
        super().__init__()
        # Padding is masked as a key; padding_idx would only make per-patient gradients wrong.
        bert.embeddings.word_embeddings.padding_idx = None
        use_windows(bert)
        self.bert = bert
        self.window = window
        self.width = bert.config.hidden_size
        self.stage_channels = (self.width,) * STAGES

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Word, position and type embeddings, as far as the longest text of the batch goes."""
        used = inputs["mask"].any(0).nonzero()
        longest = int(used.max()) + 1 if len(used) else 1
        ids, mask = inputs["ids"][:, :longest].contiguous(), inputs["mask"][:, :longest]
        if longest > self.window and (rest := -longest % self.window):
            ids, mask = pad(ids, (0, rest), value=PAD), pad(mask, (0, rest))
        positions = (torch.arange(ids.shape[1], device=ids.device) % self.window).expand_as(ids).contiguous()
        h = self.bert.embeddings(input_ids=ids, token_type_ids=torch.zeros_like(ids), position_ids=positions)
        return State(map=h.transpose(1, 2), mask=mask)

    def run_stage(self, index: int, state: State) -> State:
        """A third of the layers; a network of two has the embeddings as its lowest level."""
        h, mask = state.map.transpose(1, 2).contiguous(), state.valid
        windows = mask.reshape(len(mask), -1, min(self.window, mask.shape[1]))
        # Additive and finite, so that a row without any text (its modality is masked) stays finite too.
        bias = torch.zeros_like(windows, dtype=h.dtype).masked_fill(~windows, torch.finfo(h.dtype).min)
        layers = self.bert.encoder.layer
        for layer in layers[len(layers) * index // STAGES : len(layers) * (index + 1) // STAGES]:
            h = layer(h, bias)
        return state.after(h.transpose(1, 2), mask)

    def finish(self, state: State) -> EncoderOutput:
        """All tokens of the last layer."""
        h = state.map.transpose(1, 2)
        begins = state.valid[:, :: self.window]
        begins = torch.cat([torch.ones_like(begins[:, :1]), begins[:, 1:]], dim=1)  # the first one also when empty
        pooled = token_mean(h[:, :: self.window], begins)
        return EncoderOutput(pooled=pooled, tokens=h, token_mask=state.valid, levels=state.done)


@ENCODERS.register("text_bert", kind="text", source="Devlin et al. 2019")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> TextBert:
    """The encoder of a text modality: a BERT of any size from a directory, else the small one over bytes.

    That is so in the paper preset too: nobody trains a BERT-base from nothing on a few thousand notes.

    Raises:
        ConsiliumError: the pretrained directory is no complete BERT, or its window is smaller than the study's.
    """
    window = min(plan.window, plan.max_tokens)
    if weights is None or not (weights / CONFIG).exists():
        bert = byte_bert(width=model.width, heads=model.heads, dropout=model.dropout, window=window)
        return loaded(TextBert(bert, window=window), weights)
    bert = load_bert(weights)
    if (positions := bert.config.max_position_embeddings) < window:
        mend = f"Set window = {positions} (study.toml), or use a BERT with more positions."
        raise refused(weights, f"has {positions} positions, fewer than the study's window of {window}", mend)
    return TextBert(bert, window=window)
