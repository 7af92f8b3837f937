"""Values of long tables: numbers, limits and words of a code -> the scale of its concept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data.ehr import plausible
from fl_client.data.findings import MAX_LISTED, MISSING, Findings
from fl_client.data.table import coded, numbers
from fl_shared.concepts import Concept, concept, convert, scale
from fl_shared.errors import Fault
from fl_shared.site import ColumnMap

NUMBER, TEXT = "numeric_value", "text_value"


@dataclass(kw_only=True)
class Measurements:
    """Scales batches of rows, and remembers what was wrong with them until `tell`.

    codes: code in the file -> concept, unit and words; name: of the modality.
    """

    codes: Mapping[str, ColumnMap]
    name: str
    findings: Findings
    _beyond: dict[str, list[NDArray[np.float64]]] = field(default_factory=lambda: defaultdict(list))
    _unknown: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def scaled(self, rows: pd.DataFrame) -> tuple[NDArray[np.float64], pd.Series]:
        """Values (R,) on their concept's scale, NaN where missing, and the concept of each (R,).

        Args:
            rows: ``code``, and ``numeric_value``, ``text_value`` or both. The text counts where there is no number.
        """
        values = np.full(len(rows), np.nan)
        number, text = _parts(rows)
        for code, at in rows.groupby("code").indices.items():
            held = self.codes[str(code)]
            what = concept(held.concept)
            read = self._words if what.codes else self._numbers
            raw = read(number[at], text.iloc[at], str(code), held, what)
            own = convert(raw, held.unit or what.unit, what)
            wrong = (own < what.min) | (own > what.max)
            if wrong.any():
                self._beyond[str(code)].append(raw[wrong])
            values[at] = scale(np.where(wrong, np.nan, own), what)
        return values, rows["code"].map({code: held.concept for code, held in self.codes.items()})

    def _words(
        self, number: NDArray[np.float64], text: pd.Series, code: str, held: ColumnMap, what: Concept
    ) -> NDArray[np.float64]:
        """Of a categorical concept; a number is a word too."""
        known = held.codes or what.codes | {f"{value:g}": value for value in what.codes.values()}
        written = text.where(np.isnan(number), pd.Series(number, index=text.index).map("{:.15g}".format))
        values, wrong = coded(written, known)
        if wrong.any():
            self._unknown[code].update(written[wrong])
        return values

    def _numbers(
        self, number: NDArray[np.float64], text: pd.Series, code: str, held: ColumnMap, what: Concept
    ) -> NDArray[np.float64]:
        """In the unit of the file, NaN where missing or no number."""
        worded = np.isnan(number) & (text != "").to_numpy(dtype=bool)
        if not worded.any():
            return number
        said, values = text[worded], number.copy()
        read, limited, wrong = numbers(said)
        meant, unknown = coded(said, held.codes)
        values[worded] = np.where(unknown, read, meant)
        for problem, n in {
            "beyond the assay's limit, the limit taken": int((limited & unknown).sum()),
            "not a number, set missing": int((wrong & unknown).sum()),
        }.items():
            if n:
                self.findings.repairs[f"{what.name}: {problem}"] += n
        return values

    def tell(self) -> None:
        """Count implausible values, with the unit that they may have; words that no code list knows are rejects."""
        for code, found in sorted(self._beyond.items()):
            held = self.codes[code]
            plausible(np.concatenate(found), held.unit, concept(held.concept), findings=self.findings)
        for code, words in sorted(self._unknown.items()):
            key = f"modalities.{self.name}.codes.{code}.codes"
            for word, n in sorted(words.items())[:MAX_LISTED]:
                mend = f"Add it with its value of {self.codes[code].concept}."
                fault = Fault(
                    file="site.toml", key=key, value=f"{word!r} ({n} rows)", problem="unknown code", mend=mend
                )
                self.findings.rejects.append(fault)


def _parts(rows: pd.DataFrame) -> tuple[NDArray[np.float64], pd.Series]:
    """The numbers (R,), NaN where there are none, and the text (R,), "" where there is none."""
    text = rows[TEXT].fillna("").str.strip() if TEXT in rows else pd.Series("", index=rows.index, dtype=str)
    number = np.full(len(rows), np.nan)
    if NUMBER in rows:
        column: Any = rows[NUMBER]
        if not pd.api.types.is_numeric_dtype(column):  # CSV: what is no plain number, such as <0.01, is text
            written = column.fillna("").str.strip()
            column = pd.to_numeric(written, errors="coerce")
            text = text.mask(column.isna() & ~written.str.lower().isin(MISSING), written)
        text = text.mask(np.isinf(column), "inf")
        number = np.where(np.isfinite(column), column, np.nan).astype(np.float64)
    return number, text.mask(text.str.lower().isin(MISSING), "")
