"""Text encoder: BERT (Devlin et al. 2019), from a local directory or small over bytes.

A note longer than BERT's window is several windows in one row. Only the attention folds them apart: it has no
parameters, so that the patient stays on dimension 0 of every layer that has some.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from fl_shared.bundle import CONFIG
from fl_shared.models.interface import EncoderOutput, Level, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.weights import load_into, refused
from fl_shared.study import ModalityPlan, ModelPlan
from fl_shared.text import PAD, VOCABULARY

if TYPE_CHECKING:
    from transformers import BertModel  # 4.6 s CPU: only a study with text loads it

BYTE_LAYERS = 2
STAGES = 3
ATTENTION = "consilium_windows"  # its name in transformers' register
COMPLETE = "Give the directory of a complete BERT: config.json and model.safetensors."


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
        _use_windows(bert)
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

    def run_stage(self, index: int, state: State, cond: Tensor | None = None) -> State:
        """A third of the layers; a network of two has the embeddings as its lowest level."""
        if state.mask is None:
            raise ValueError("a text needs a mask")
        h, mask = state.map.transpose(1, 2).contiguous(), state.mask
        windows = mask.reshape(len(mask), -1, min(self.window, mask.shape[1]))
        # Additive and finite, so that a row without any text (its modality is masked) stays finite too.
        bias = torch.zeros_like(windows, dtype=h.dtype).masked_fill(~windows, torch.finfo(h.dtype).min)
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
        begins = state.mask[:, :: self.window].to(h.dtype)[..., None]
        begins = torch.cat([torch.ones_like(begins[:, :1]), begins[:, 1:]], dim=1)  # the first one also when empty
        pooled = (h[:, :: self.window] * begins).sum(1) / begins.sum(1)
        return EncoderOutput(pooled=pooled, tokens=h, token_mask=state.mask, levels=(first, second, third))


def attend_within_windows(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention of every window by itself, as transformers calls it.

    Args:
        module: the attention layer.
        query: (B, heads, K w, d), as ``key`` and ``value``.
        key: see ``query``.
        value: see ``query``.
        attention_mask: (B, K, w), added to the scores of the keys.
        dropout: of the attention weights.
        scaling: of the scores.

    Returns:
        (B, K w, heads, d), and no weights.
    """
    rows, windows, length = attention_mask.shape
    heads, width = query.shape[1], query.shape[3]

    def folded(x: Tensor) -> Tensor:
        return x.reshape(rows, heads, windows, length, width).transpose(1, 2).flatten(0, 1)

    bias = attention_mask.flatten(0, 1)[:, None, None]
    out = scaled_dot_product_attention(
        folded(query), folded(key), folded(value), attn_mask=bias, dropout_p=dropout, scale=scaling
    )
    return out.transpose(1, 2).reshape(rows, windows * length, heads, width), None


def _use_windows(bert: BertModel) -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend_within_windows)
    bert.set_attn_implementation(ATTENTION)


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
            ignore_mismatched_sizes=True,  # reported below, together with the missing ones
            dtype=torch.float32,
        )
    except (OSError, ValueError) as error:
        raise refused(directory, f"cannot be read as a BERT: {error}", COMPLETE) from error
    if absent := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise refused(directory, f"{len(absent)} weights are missing or misshapen, first {absent[0]}", COMPLETE)
    return bert


def byte_bert(*, width: int, heads: int, dropout: float, window: int) -> BertModel:
    """A small BERT over the bytes of `fl_shared.text`."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=BYTE_LAYERS,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=window,
        type_vocab_size=1,
        pad_token_id=PAD,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,  # (B, heads, L, L) random numbers would cost more than the attention
    )
    return BertModel(config, add_pooling_layer=False)


@ENCODERS.register("text_bert", kind="text", source="Devlin et al. 2019")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> TextBert:
    """The encoder of a text modality: a BERT of any size from a directory, else the small one over bytes.

    That is so in the paper preset too: nobody trains a BERT-base from nothing on a few thousand notes.

    Raises:
        ConsiliumError: the pretrained directory is no complete BERT, or its window is smaller than the study's.
    """
    window = min(plan.window, plan.max_tokens)
    if weights is None or not (weights / CONFIG).exists():
        encoder = TextBert(
            byte_bert(width=model.width, heads=model.heads, dropout=model.dropout, window=window), window=window
        )
        if weights is not None:
            load_into(encoder, weights)
        return encoder
    bert = load_bert(weights)
    if (positions := bert.config.max_position_embeddings) < window:
        mend = f"Set window = {positions} (study.toml), or use a BERT with more positions."
        raise refused(weights, f"has {positions} positions, fewer than the study's window of {window}", mend)
    return TextBert(bert, window=window)
