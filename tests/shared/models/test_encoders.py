"""Tokens of the small encoders; BERT comes from a local directory, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from acceptance import Case, encoder_cases
from random_rows import random_rows
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model
from fl_shared.models.encoders.bert import load_bert
from fl_shared.models.encoders.ecg_resnet import EcgResNet
from fl_shared.models.encoders.events_cnn import carry_forward
from fl_shared.models.encoders.text_bert import TextBert
from fl_shared.models.interface import Batch
from fl_shared.study import Study
from fl_shared.weights import directory_digest


@pytest.mark.parametrize(("name", "tokens"), [("cine", 5), ("ecg", 16), ("ehr", 4), ("series", 3)])
def test_tokens(study: Study, rows: Callable[..., Batch], name: str, tokens: int) -> None:
    model = build_model(study).eval()
    assert model.encoders[name](rows(5).inputs[name]).tokens.shape[1] == tokens


@pytest.mark.parametrize(("rate", "seconds"), [(100, 10), (500, 10), (250, 5), (50, 2)])
def test_ecg_has_16_tokens_at_any_rate(rate: int, seconds: int) -> None:
    encoder = EcgResNet(leads=2, rate=rate, dropout=0.0)
    inputs = {"signal": torch.randn(1, 2, rate * seconds), "lead_mask": torch.ones(1, 2, dtype=torch.bool)}
    assert encoder.stem(inputs).map.shape[-1] == 50 * seconds
    assert encoder(inputs).tokens.shape == (1, 16, 256)


def test_a_gap_repeats_the_last_value_before_it() -> None:
    values = torch.tensor([[[1.0], [9.0], [9.0], [4.0], [9.0]], [[9.0], [2.0], [9.0], [9.0], [5.0]]])
    observed = torch.tensor([[True, False, False, True, False], [False, True, False, False, True]])[:, :, None]
    assert carry_forward(values, observed)[:, :, 0].tolist() == [[1, 1, 1, 4, 4], [0, 2, 2, 2, 5]]


def test_ecg_is_small() -> None:
    count = sum(p.numel() for p in EcgResNet(leads=12, rate=100, dropout=0.1).parameters())
    assert 100_000 < count < 200_000


def bert_directory(folder: Path, **changes: int) -> Path:
    config = BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, **changes
    )
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def test_bert_from_a_local_directory_equals_transformers(tmp_path: Path) -> None:
    folder = bert_directory(tmp_path)
    ids = torch.randint(1, 50, (3, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(10) < torch.tensor([[10], [4], [1]])
    with torch.no_grad():
        out = TextBert(load_bert(folder), window=512).eval()({"ids": ids, "mask": mask})
        whole = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
        expected = whole(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(out.tokens[mask], expected[-1][mask], atol=1e-6, rtol=1e-5)
    for level, hidden in zip(out.levels, expected[1:], strict=True):
        torch.testing.assert_close(level.map.transpose(1, 2)[mask], hidden[mask], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.levels[2].vec[1], expected[-1][1, :4].mean(0), atol=1e-6, rtol=1e-5)


def test_bert_of_a_study(plan: dict[str, object], tmp_path: Path) -> None:
    folder = bert_directory(tmp_path)
    sha = directory_digest(folder)
    text = {"kind": "text", "max_tokens": 10, "weights": "tiny", "weights_sha256": sha}
    study = Study.model_validate({**plan, "modalities": {"text": text}})
    model = build_model(study, weights={"tiny": folder})
    torch.testing.assert_close(
        model.state_dict()["encoders.text.bert.embeddings.word_embeddings.weight"],
        load_file(folder / "model.safetensors")["bert.embeddings.word_embeddings.weight"],
    )
    assert model.state_dict()["adapters.text.weight"].shape == (16, 24)


def test_an_incomplete_bert_is_refused(tmp_path: Path) -> None:
    folder = bert_directory(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConsiliumError, match=r"encoder\.layer\.1\.output\.dense\.weight") as caught:
        load_bert(folder)
    assert caught.value.code == ExitCode.SITE


def test_a_misshapen_bert_is_refused(tmp_path: Path) -> None:
    folder = bert_directory(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.position_embeddings.weight"] = torch.zeros(3, 24)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConsiliumError, match="position_embeddings"):
        load_bert(folder)


def test_pickled_or_foreign_weights_are_refused(tmp_path: Path) -> None:
    folder = bert_directory(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConsiliumError, match="cannot be read as a BERT"):
        load_bert(folder)


@pytest.mark.parametrize("case", encoder_cases(), ids=lambda case: case.name)
def test_no_number_where_nothing_was_measured_spoils_nothing(case: Case) -> None:
    study, model = case.quiet()
    encoder, given = model.encoders["x"], random_rows(study, 4, dtype=torch.float64).inputs["x"]
    masks = {"signal": "lead_mask", "values": "observed", "vectors": "mask"}
    there = {key: given[mask] for key, mask in masks.items() if key in given}
    if "video" in given:
        there["video"] = given["frame_mask"][:, :, None] & given["slice_mask"][:, None]
    spoilt = dict(given)
    for key, mask in there.items():
        spoilt[key] = given[key].where(mask.view(*mask.shape, *[1] * (given[key].dim() - mask.dim())), torch.nan)
    found, expected = encoder(spoilt), encoder(given)
    assert torch.equal(found.pooled, expected.pooled)
    assert torch.equal(found.tokens, expected.tokens)
    if any(True for _ in encoder.parameters()):
        (found.pooled.sum() + found.tokens.sum()).backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)
