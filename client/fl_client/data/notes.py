"""Every row's text: its note, unless it came too late, leaks or names somebody, and its prescriptions as sentences."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from fl_client.data.findings import Findings, UnreadableError
from fl_client.data.leakage import late_notes, leaks, tells_outcome
from fl_client.data.medications import sentences, with_medications
from fl_client.data.table import HEADER_LINES
from fl_client.data.text import read_text
from fl_shared.site import Site, TextFiles


def read_notes(
    frame: pd.DataFrame,
    *,
    site: Site,
    mapped: TextFiles,
    name: str,
    findings: Findings,
    tick: Callable[[], None],
) -> dict[int, str]:
    """Number of a row in ``frame`` -> text; rows without one are left out. What is set aside is quarantined."""
    late = late_notes(frame, mapped=mapped, site=site, findings=findings)
    texts: dict[int, str] = {}
    for row, path in enumerate(frame.get(mapped.column, ())):
        if not path:
            continue
        tick()
        try:
            if late[row]:
                raise UnreadableError("note-after-index", path)
            text = read_text(site.data_dir, path, encoding=mapped.encoding or site.encoding)
            if leaks(text, mapped.leakage_words):
                raise UnreadableError("note-tells-outcome", path)
        except UnreadableError as error:
            findings.set_aside(int(frame.index[row]) + HEADER_LINES, name, error)
            continue
        if tells_outcome(text):
            findings.repairs[f"{name}: has a word of an outcome, kept; see leakage_words in site.toml"] += 1
        texts[row] = text
    if mapped.medications is None:
        return texts
    said = sentences(frame, site=site, table=mapped.medications, findings=findings)
    return with_medications(texts, said)
