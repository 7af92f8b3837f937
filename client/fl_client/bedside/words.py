"""Tokens of a note back to its words, each with what its tokens add."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fl_shared.bundle import CONFIG
from fl_shared.site import Site
from fl_shared.study import ModalityPlan
from fl_shared.text import FIRST_BYTE

_WORDS = re.compile(r"\s+|[^\s⺀-鿿豈-﫿＀-￯]+|.", re.DOTALL)  # Chinese: a character a word


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word or the space between two, and the sum of its tokens' attributions."""

    text: str
    value: float

    @property
    def size(self) -> float:
        """How much it moves, either way."""
        return abs(self.value)


Pieces = Sequence[tuple[str, float]]
Decode = Callable[[Sequence[int], Sequence[float]], Pieces]
"""Ids and values of a window's tokens -> pieces of text and their values."""


def words_of(ids: Tensor, mask: Tensor, values: Tensor, *, plan: ModalityPlan, site: Site) -> tuple[Word, ...]:
    """Words of a note, from ids, mask and values (L,) of its tokens; the sums of both are the same."""
    decode = decoder(plan, site)
    found: list[Word] = []
    for start in range(0, len(ids), plan.window):
        part = slice(start, start + plan.window)
        there = mask[part]
        if bool(there.any()):
            pieces = decode(ids[part][there].tolist(), values[part][there].tolist())
            found += [Word(text=text, value=value) for text, value in pieces]
    return tuple(found)


def decoder(plan: ModalityPlan, site: Site) -> Decode:
    """How this study's tokens become text here: bytes, or the tokeniser of a pretrained directory."""
    folder = site.folder / site.weights[plan.weights] if plan.weights is not None else None
    if folder is None or not (folder / CONFIG).exists():
        return from_bytes
    return _from_pretrained(folder)


def from_bytes(ids: Sequence[int], values: Sequence[float]) -> Pieces:
    """Of `fl_shared.text`: bytes between cls and sep; a character's value is the sum of its bytes'."""
    content = bytes(i - FIRST_BYTE for i in ids if i >= FIRST_BYTE)
    of_byte = [value for i, value in zip(ids, values, strict=True) if i >= FIRST_BYTE]
    pieces, at = [], 0
    for match in _WORDS.finditer(content.decode("utf-8", errors="replace")):
        length = len(match.group().encode())
        pieces.append((match.group(), sum(of_byte[at : at + length])))
        at += length
    return pieces


def _from_pretrained(folder: Path) -> Decode:
    from transformers import AutoTokenizer  # seconds to import, and most studies read bytes

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    special = set(tokenizer.all_special_tokens) - {tokenizer.unk_token}

    def decode(ids: Sequence[int], values: Sequence[float]) -> Pieces:
        pieces: list[tuple[str, float]] = []
        for token, value in zip(tokenizer.convert_ids_to_tokens(list(ids)), values, strict=True):
            if token in special:
                continue
            if token.startswith("##") and pieces:
                text, before = pieces[-1]
                pieces[-1] = (text + token.removeprefix("##"), before + value)
            else:
                pieces += [(" ", 0.0)] if pieces else []
                pieces.append((token, value))
        return pieces

    return decode
