"""What a note must not tell: outcomes in so many words, and anything written after the index time."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data.findings import Findings
from fl_client.data.table import times
from fl_shared.site import Site, TextFiles

OUTCOME_WORDS = (
    *("死亡", "去世", "病故", "身故", "猝死", "出院小结", "出院记录", "出院诊断"),
    *("verstorben", "verstarb", "exitus", "todesursache", "todesfall", "entlassungsbrief", "entlassbrief"),
    *("died", "deceased", "passed away", "expired", "death", "hospice", "discharge summary", "discharge diagnos"),
)
"""Chinese, German and English words of outcomes and of texts that are written after them: counted, never acted on."""

_HAN = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # and kana: written without spaces between words


def leaks(text: str, words: Iterable[str]) -> bool:
    """Whether a word of the text begins with one of the words (or phrases): "verstorben" is found in "Verstorbener".

    Case, width, line breaks and invisible characters make no difference. Chinese and Japanese words are found
    wherever they stand.
    """
    plain = _plain(text)
    return any(_beginning(word).search(plain) for word in words if word.strip())


def tells_outcome(text: str) -> bool:
    """Whether one of `OUTCOME_WORDS` stands in the text: worth a look, but no proof ("no sudden death in family")."""
    return leaks(text, OUTCOME_WORDS)


def late_notes(frame: pd.DataFrame, *, mapped: TextFiles, site: Site, findings: Findings) -> NDArray[np.bool_]:
    """Rows (N,) whose note was written after the index time, or nobody can tell when.

    Naive times are in the site's zone; a date alone is its midnight. Nowhere true without a ``time_column``.
    """
    if mapped.time_column is None or not {mapped.time_column, mapped.column} <= set(frame.columns):
        return np.zeros(len(frame), dtype=bool)
    there, told = frame[mapped.column] != "", Findings()
    written = times(frame[mapped.time_column].where(there, ""), site.zone, findings=told)
    index = times(frame["index_time"], site.zone, findings=Findings())
    for what, n in {
        "naive, taken in the site's time zone": told.repairs.total(),
        "missing or unreadable, the note counts as late": int((there & written.isna()).sum()),
    }.items():
        if n:
            findings.repairs[f"{mapped.time_column}: {what}"] += n
    return np.asarray(there & ~(written <= index), dtype=bool)


def _plain(text: str) -> str:
    """Compatibility form, case folded, without soft hyphens and other invisible characters."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c for c in folded if unicodedata.category(c) != "Cf")


@lru_cache(maxsize=1024)
def _beginning(word: str) -> re.Pattern[str]:
    parts = _plain(word).split()
    within_words = re.match(rf"[{_HAN}\W]", parts[0])
    return re.compile(("" if within_words else rf"(?<![^\W_{_HAN}])") + r"\s+".join(map(re.escape, parts)))
