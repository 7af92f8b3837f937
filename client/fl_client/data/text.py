"""Free-text files -> token ids, behind a small gate against identifiers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_client.data.findings import UnreadableError, inside, regular_file
from fl_shared.bundle import CONFIG, DESCRIPTION
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.site import Site
from fl_shared.study import ModalityPlan
from fl_shared.text import byte_windows
from fl_shared.weights import verified_directory

MAX_BYTES = 1024**2
MAX_UNKNOWN = 0.05  # of the tokens of all texts together

_RESIDENT_ID = re.compile(r"(?<!\d)\d{17}[\dXx](?![\dXx])")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_IDENTIFIERS = {
    "mobile-number": re.compile(r"(?<![\d.])(?:\+?86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}(?!\d)"),
    "record-number": re.compile(
        r"(?:\bMRN|\b(?:medical record|patient|case|hospital)\s*(?:no\b\.?|number|id\b)|\bFall(?:nummer|-?Nr\.?)"
        r"|\bPat(?:ienten)?-?(?:ID|Nr\.?|nummer)|住院号|病案号|病历号|门诊号|登记号)\s*[:#=]?\s*[A-Z]{0,3}\d{4,}",
        re.IGNORECASE,
    ),
    "name-label": re.compile(
        r"(?:\b(?:patient(?:'s)?|first|last|family|full)[ -]?name|\b(?:Vor|Nach|Patienten)name"
        r"|(?:^|\n)\s*name|(?:患者)?姓名)\s*[:=]\s*[^\W\d_]{2,}",
        re.IGNORECASE,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """ids (N, L) int64 and mask (N, L) bool, window after window; how many texts were cut because they exceed L."""

    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]
    cut: int = 0


def read_text(root: Path, named: str, *, encoding: str) -> str:
    """A text in Unicode's composed form (NFC), free of the identifiers that the gate knows.

    Full de-identification is the hospital's work; the gate only catches what was plainly forgotten.

    Raises:
        UnreadableError: no such file, too large, not in the declared encoding, empty, or an identifier in it.
    """
    path = regular_file(inside(root, named), max_bytes=MAX_BYTES)
    try:
        text = unicodedata.normalize("NFC", path.read_bytes().decode(encoding)).removeprefix("\ufeff").strip()
    except (UnicodeError, LookupError) as error:  # LookupError: no such encoding
        raise UnreadableError("text-encoding", f"{named}: not {encoding}") from error
    except OSError as error:
        raise UnreadableError("file-unreadable", f"{named}: {type(error).__name__}") from error
    if not text:
        raise UnreadableError("text-empty", named)
    if kind := identifier_in(text):
        raise UnreadableError("text-identifier", f"{named}: {kind}")
    return text


def identifier_in(text: str) -> str | None:
    """The kind of the first identifier found, full-width digits and colons included."""
    plain = unicodedata.normalize("NFKC", text)
    if any(_checksum_holds(match.group()) for match in _RESIDENT_ID.finditer(plain)):
        return "resident-id"
    return next((kind for kind, pattern in _IDENTIFIERS.items() if pattern.search(plain)), None)


def _checksum_holds(number: str) -> bool:
    """ISO 7064 MOD 11-2, as GB 11643-1999 prescribes for resident ids."""
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, number, strict=False))
    return "10X98765432"[total % 11] == number[-1].upper()


def tokenise(texts: Sequence[str], *, plan: ModalityPlan, site: Site, name: str) -> Tokens:
    """Texts -> ids of the study's tokeniser: bytes, or that of a local pretrained directory (never fetched).

    A text longer than ``plan.window`` tokens goes on in further windows, each with its own cls and sep; window k
    starts at token k * ``plan.window``.

    Raises:
        ConsiliumError: the directory is not mapped, differs from the pinned one, or does not know the language.
    """
    if not texts:
        empty = np.zeros((0, plan.max_tokens))
        return Tokens(ids=empty.astype(np.int64), mask=empty.astype(bool))
    if plan.weights is None or plan.weights_sha256 is None:
        return _bytes(texts, plan=plan)
    if plan.weights not in site.weights:
        mend = f"Add [weights] {plan.weights} = 'path of the pretrained directory'."
        fault = Fault(file="site.toml", key=f"weights.{plan.weights}", problem="missing", mend=mend)
        raise ConsiliumError("pretrained weights are missing", code=ExitCode.SITE, faults=[fault])
    folder = verified_directory(site.folder / site.weights[plan.weights], name=plan.weights, sha256=plan.weights_sha256)
    if (folder / DESCRIPTION).exists() and not (folder / CONFIG).exists():  # a bundle of the encoder that reads bytes
        return _bytes(texts, plan=plan)
    return _pretrained(texts, folder, plan=plan, name=name)


def _bytes(texts: Sequence[str], *, plan: ModalityPlan) -> Tokens:
    rows = [byte_windows(text, max_tokens=plan.max_tokens, window=plan.window) for text in texts]
    ids, mask, cut = zip(*rows, strict=True)
    return Tokens(ids=np.stack(ids), mask=np.stack(mask), cut=sum(cut))


def _pretrained(texts: Sequence[str], folder: Path, *, plan: ModalityPlan, name: str) -> Tokens:
    from transformers import AutoTokenizer  # seconds to import, and most studies read bytes

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    length = min(plan.window, plan.max_tokens)
    out = tokenizer(list(texts), truncation=True, max_length=length, return_overflowing_tokens=True)
    tokens = _packed(out["input_ids"], out["overflow_to_sample_mapping"], n=len(texts), plan=plan)
    unknown = float((tokens.ids[tokens.mask] == tokenizer.unk_token_id).mean())
    if unknown > MAX_UNKNOWN:
        mend = "Use a tokeniser of the texts' language, or bytes (no 'weights')."
        problem = f"the tokeniser does not know more than {MAX_UNKNOWN:.0%} of the tokens"
        fault = Fault(file=str(folder), key=name, value=f"{unknown:.0%}", problem=problem, mend=mend)
        raise ConsiliumError("tokeniser does not fit", code=ExitCode.DATA, faults=[fault])
    return tokens


def _packed(windows: Sequence[Sequence[int]], text_of: Sequence[int], *, n: int, plan: ModalityPlan) -> Tokens:
    """Windows, each text's in order, into its row; a last one that is too long keeps its sep."""
    ids, mask = np.zeros((n, plan.max_tokens), dtype=np.int64), np.zeros((n, plan.max_tokens), dtype=bool)
    filled, cut = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
    for window, text in zip(windows, text_of, strict=True):
        start = int(filled[text]) * plan.window
        room = min(plan.window, plan.max_tokens - start)
        filled[text] += 1
        cut[text] |= room < len(window)
        if room >= 3:  # cls, a token, sep
            kept = [*window[: room - 1], window[-1]] if room < len(window) else window
            ids[text, start : start + len(kept)], mask[text, start : start + len(kept)] = kept, True
    return Tokens(ids=ids, mask=mask, cut=int(cut.sum()))
