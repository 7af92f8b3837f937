"""BERT by transformers: from a local directory or small over bytes, with attention within the windows of a note.

Only the attention folds windows apart: it has no parameters, so that the patient stays on dimension 0 of every layer
that has some.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fl_shared.models.weights import refused
from fl_shared.text import PAD, VOCABULARY

if TYPE_CHECKING:
    from transformers import BertModel  # 4.6 s CPU: only a study with text loads it

BYTE_LAYERS = 2
ATTENTION = "consilium_windows"  # its name in transformers' register
COMPLETE = "Give the directory of a complete BERT: config.json and model.safetensors."


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


def use_windows(bert: BertModel) -> None:
    """Let every attention layer of a BERT attend within windows."""
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
