"""A long note is several windows in one row: each as if it were alone, and one window as if there were no windows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from fl_shared.errors import ConsiliumError
from fl_shared.models.build import build_model
from fl_shared.models.encoders.bert import byte_bert, load_bert
from fl_shared.models.encoders.text_bert import TextBert
from fl_shared.models.interface import EncoderOutput
from fl_shared.study import Study
from fl_shared.text import byte_windows
from fl_shared.weights import directory_digest

WINDOW = 8
NOTES = ("short", "a note of three windows", "心力衰竭 NYHA III", "", "six and no more, cut here at the end")


def encoder(*, window: int = WINDOW) -> TextBert:
    torch.manual_seed(0)
    return TextBert(byte_bert(width=16, heads=2, dropout=0.0, window=window), window=window).eval()


def read(notes: tuple[str, ...], *, max_tokens: int, window: int = WINDOW) -> dict[str, torch.Tensor]:
    rows = [byte_windows(note, max_tokens=max_tokens, window=window) for note in notes]
    return {
        "ids": torch.stack([torch.from_numpy(ids) for ids, _, _ in rows]),
        "mask": torch.stack([torch.from_numpy(mask) for _, mask, _ in rows]),
    }


def test_a_note_of_one_window_gives_the_same_numbers_in_a_longer_row():
    model = encoder()
    short = tuple(note for note in NOTES if len(note.encode()) <= WINDOW - 2)
    with torch.no_grad():
        one = model(read(short, max_tokens=WINDOW))
        more = model(read(short, max_tokens=5 * WINDOW))
    for name in ("pooled", "tokens", "token_mask"):
        assert torch.equal(getattr(one, name), getattr(more, name))


@pytest.mark.parametrize("max_tokens", [24, 27, 30])
def test_every_window_equals_transformers_on_that_window_alone(max_tokens: int):
    model, inputs = encoder(), read(NOTES, max_tokens=max_tokens)
    plain = BertModel(BertConfig(**{**model.bert.config.to_dict(), "attn_implementation": "eager"}), False).eval()
    plain.load_state_dict(model.bert.state_dict())
    with torch.no_grad():
        found: EncoderOutput = model(inputs)
        for row in range(len(NOTES)):
            begins = []
            for start in range(0, max_tokens, WINDOW):
                ids, mask = (inputs[name][row : row + 1, start : start + WINDOW] for name in ("ids", "mask"))
                if not mask.any():
                    continue
                expected = plain(ids, attention_mask=mask.long()).last_hidden_state[0][mask[0]]
                tokens = found.tokens[row, start : start + mask.shape[1]][mask[0]]
                torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
                begins.append(expected[0])
            torch.testing.assert_close(found.pooled[row], torch.stack(begins).mean(0), atol=1e-5, rtol=1e-5)
    assert found.token_mask.sum() == inputs["mask"].sum()


def test_nothing_crosses_the_border_of_a_window():
    model, inputs = encoder(), read(("a note of three windows",), max_tokens=24)
    with torch.no_grad():
        before = model(inputs).tokens
        inputs["ids"][0, WINDOW + 3] += 1
        after = model(inputs).tokens
    moved = (before != after).any(-1)[0]
    assert moved[WINDOW : 2 * WINDOW].any()
    assert not moved[:WINDOW].any()
    assert not moved[2 * WINDOW :].any()


def test_an_absent_long_note_stays_finite():
    with torch.no_grad():
        out = encoder()({"ids": torch.zeros(2, 24, dtype=torch.long), "mask": torch.zeros(2, 24, dtype=torch.bool)})
        inputs = read(("", "a note of three windows"), max_tokens=24)
        inputs["mask"][0] = False
        mixed = encoder()(inputs)
    assert out.pooled.isfinite().all()
    assert mixed.pooled.isfinite().all()
    assert mixed.tokens.shape[1] == 24


def test_a_study_with_long_notes_needs_positions_for_one_window_only(plan: dict[str, object], tmp_path: Path):
    text = {"kind": "text", "max_tokens": 4096, "window": 32}
    model = build_model(Study.model_validate({**plan, "modalities": {"text": text}}))
    assert model.state_dict()["encoders.text.bert.embeddings.position_embeddings.weight"].shape == (32, 16)

    config = BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path)
    assert load_bert(tmp_path).config.max_position_embeddings == 16
    text |= {"weights": "tiny", "weights_sha256": directory_digest(tmp_path)}
    with pytest.raises(ConsiliumError, match=r"16 positions, fewer than the study's window of 32.*window = 16"):
        build_model(Study.model_validate({**plan, "modalities": {"text": text}}), weights={"tiny": tmp_path})
