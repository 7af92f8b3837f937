"""Low-rank adapters (LoRA) inside frozen encoders: all that is trained of them where encoders = 'adapters'.

Hu et al. 2022: W x becomes W x + (alpha / r) B A x, with A (r, n) and B (m, r), and B starts at 0, so that training
starts from the encoder as it was. By peft. Ours: alpha = 2 r, and dropout 0.05 before A.

A and B are averaged over sites each by itself, and noised each by itself. That is not the mean of the sites' products
B A, and noise in both factors is multiplied (Sun et al. 2024, Improving LoRA in Privacy-preserving Federated Learning,
section 3). The mean is off by the covariance of the sites' A and B: small while they stay close within a round.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from fl_shared.errors import ConsiliumError, ExitCode, Fault

LAYERS: Mapping[str, str] = {
    "dae_former": r"stages\.2\..*",  # ours: the last stage
    "ehr_mlp": r"stages\..*",
    "sparse_series": r"stages\.2\..*",  # an LSTM is no sum of linear maps that an adapter could be added to
    "table_mlp": r"hidden|out",
    "text_bert": r"bert\.encoder\.layer\.\d+\.attention\.self\.(query|value)",
}
"""Encoder -> names of its linear maps that get an adapter (a regular expression); each is called once a pass."""

DROPOUT = 0.05
ZERO: Mapping[str, float] = {"weight": 0.0}


def is_lora(name: str) -> bool:
    """Whether an array of a model is an adapter's A or B."""
    return ".lora_" in name


def add_lora(encoder: nn.Module, *, name: str, key: str, rank: int) -> None:
    """Put adapters into an encoder, in place: ``query.weight`` becomes ``query.base_layer.weight``, and
    ``query.lora_A.default.weight`` and ``query.lora_B.default.weight`` come to it.

    Maps with fewer than ``rank`` inputs or outputs get none. An encoder without parameters is left as it is.

    Args:
        encoder: with its pretrained weights, which have the names from before.
        name: of the encoder in the registry.
        key: where the study names it.
        rank: r.

    Raises:
        ConsiliumError: the encoder has no such map (exit code 10).
    """
    if not any(True for _ in encoder.parameters()):
        return
    maps = [path for path, module in encoder.named_modules() if _fits(path, module, layers=LAYERS.get(name), rank=rank)]
    if not maps:
        raise _refusal(name, key=key, rank=rank)
    from peft import LoraConfig, inject_adapter_in_model  # 5 s CPU: only a study with adapters loads it

    target = "|".join(re.escape(path) for path in maps)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=DROPOUT, target_modules=target)
    inject_adapter_in_model(config, encoder)
    for path, module in encoder.named_modules():
        if path.endswith(".lora_B.default"):
            vars(module)["initial"] = ZERO  # else it would be drawn like any linear map


def _fits(path: str, module: nn.Module, *, layers: str | None, rank: int) -> bool:
    named = layers is not None and re.fullmatch(layers, path) is not None
    return named and isinstance(module, nn.Linear) and min(module.in_features, module.out_features) >= rank


def _refusal(name: str, *, key: str, rank: int) -> ConsiliumError:
    if name in LAYERS:
        mend = "Lower model.lora_rank, or widen the model."
    else:
        mend = f"Encoders that can be adapted: {', '.join(LAYERS)}. Use one, or another value of training.encoders."
    problem = f"has no linear map that could get an adapter of rank {rank} (training.encoders = 'adapters')"
    fault = Fault(file="study.toml", key=key, value=name, problem=problem, mend=mend)
    return ConsiliumError("the model cannot be built", code=ExitCode.STUDY, faults=[fault])
