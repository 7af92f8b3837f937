"""Text encoder: BERT (Devlin et al. 2019), from a local directory or small over bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fl_shared.models.interface import EncoderOutput, Level, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.weights import refused
from fl_shared.study import ModalityPlan, ModelPlan
from fl_shared.text import PAD, VOCABULARY

if TYPE_CHECKING:
    from transformers import BertModel  # 4.6 s CPU: only a study with text loads it

BYTE_LAYERS = 2
STAGES = 3
COMPLETE = "Give the directory of a complete BERT: config.json and model.safetensors."


class TextBert(StagedEncoder):
    """``ids`` (B, L) and ``mask`` (B, L) -> L tokens; pooled is the first token (cls) of the last layer.

    The model is driven layer by layer, so that every id is expanded to the batch: per-patient gradients of an
    embedding read from a (1, L) id would be wrong.
    """

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        # Padding is masked as a key; padding_idx would only make per-patient gradients wrong.
        bert.embeddings.word_embeddings.padding_idx = None
        self.bert = bert
        self.width = bert.config.hidden_size
        self.stage_channels = (self.width,) * STAGES

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Word, position and type embeddings, as far as the longest text of the batch goes."""
        longest = max(1, int(inputs["mask"].sum(1).max()))
        ids, mask = inputs["ids"][:, :longest].contiguous(), inputs["mask"][:, :longest]
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids).contiguous()
        h = self.bert.embeddings(input_ids=ids, token_type_ids=torch.zeros_like(ids), position_ids=positions)
        return State(map=h.transpose(1, 2), mask=mask)

    def run_stage(self, index: int, state: State, cond: Tensor | None = None) -> State:
        """A third of the layers; a network of two has the embeddings as its lowest level."""
        h, mask = state.map.transpose(1, 2), state.mask
        if mask is None:
            raise ValueError("a text needs a mask")
        # Finite, so that a row without text (all masked) stays finite too.
        bias = torch.zeros_like(mask, dtype=h.dtype).masked_fill(~mask, torch.finfo(h.dtype).min)[:, None, None]
        layers = self.bert.encoder.layer
        for layer in layers[len(layers) * index // STAGES : len(layers) * (index + 1) // STAGES]:
            h = layer(h, bias)
        weight = mask.to(h.dtype)[..., None]
        vec = (h * weight).sum(1) / weight.sum(1).clamp(min=1)
        level = Level(map=h.transpose(1, 2), vec=vec, mask=mask)
        return State(map=level.map, mask=mask, done=(*state.done, level))

    def finish(self, state: State) -> EncoderOutput:
        """All tokens of the last layer."""
        if state.mask is None:
            raise ValueError("a text needs a mask")
        first, second, third = state.done
        h = state.map.transpose(1, 2)
        return EncoderOutput(pooled=h[:, 0], tokens=h, token_mask=state.mask, levels=(first, second, third))


def load_bert(directory: Path) -> BertModel:
    """A pretrained BERT from a local directory (``config.json`` and safetensors only; never the network, no pickle).

    Raises:
        ConsiliumError: not a BERT, or weights are missing or of another shape (exit code 11).
    """
    from transformers import BertModel

    try:
        bert, info = BertModel.from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            add_pooling_layer=False,
            attn_implementation="sdpa",
            ignore_mismatched_sizes=True,  # reported below, together with the missing ones
            dtype=torch.float32,
        )
    except (OSError, ValueError) as error:
        raise refused(directory, f"cannot be read as a BERT: {error}", COMPLETE) from error
    if absent := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise refused(directory, f"{len(absent)} weights are missing or misshapen, first {absent[0]}", COMPLETE)
    return bert


def byte_bert(*, width: int, heads: int, dropout: float, max_tokens: int) -> BertModel:
    """A small BERT over the bytes of `fl_shared.text`."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=BYTE_LAYERS,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=max_tokens,
        type_vocab_size=1,
        pad_token_id=PAD,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,  # (B, heads, L, L) random numbers would cost more than the attention
        attn_implementation="sdpa",
    )
    return BertModel(config, add_pooling_layer=False)


@ENCODERS.register("text_bert", kind="text", source="Devlin et al. 2019")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> TextBert:
    """The encoder of a text modality."""
    if weights is not None:
        return TextBert(load_bert(weights))
    return TextBert(byte_bert(width=model.width, heads=model.heads, dropout=model.dropout, max_tokens=plan.max_tokens))
