"""AHRQ's Clinical Classifications Software, single level, for diagnoses: ICD code -> category.

Reads the files as AHRQ's HCUP publishes them (https://hcup-us.ahrq.gov), which are not part of this package:
``$dxref 2015.csv`` for ICD-9-CM and ``ccs_dx_icd10cm_2019_1.csv`` (or another year) for ICD-10-CM. Both quote with
single quotes and pad with spaces; the first starts with lines of prose.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fl_shared.errors import ConsiliumError, ExitCode, Fault

PHENOTYPES: Mapping[str, int] = {
    "septicaemia": 2,
    "diabetes_without_complication": 49,
    "diabetes_with_complications": 50,
    "lipid_disorders": 53,
    "fluid_and_electrolyte_disorders": 55,
    "essential_hypertension": 98,
    "hypertension_with_complications": 99,
    "acute_myocardial_infarction": 100,
    "coronary_atherosclerosis": 101,
    "conduction_disorders": 105,
    "cardiac_dysrhythmias": 106,
    "heart_failure": 108,
    "acute_cerebrovascular_disease": 109,
    "pneumonia": 122,
    "chronic_obstructive_pulmonary_disease": 127,
    "pleurisy_pneumothorax_collapse": 130,
    "respiratory_failure": 131,
    "other_lower_respiratory_disease": 133,
    "other_upper_respiratory_disease": 134,
    "other_liver_diseases": 151,
    "gastrointestinal_haemorrhage": 153,
    "acute_renal_failure": 157,
    "chronic_kidney_disease": 158,
    "complications_of_procedures": 238,
    "shock": 249,
}
"""The 25 phenotypes of the ICU benchmark (Harutyunyan et al., Sci Data 2019;6:96) -> CCS category."""

_CODE_COLUMNS = {"ICD-9-CM CODE": 9, "ICD-10-CM CODE": 10}
_CATEGORY = "CCS CATEGORY"
_PROSE = 5  # lines before the header at most


@dataclass(frozen=True, kw_only=True)
class Ccs:
    """Categories by ICD code: without dots and in capitals, as MIMIC writes them."""

    categories: Mapping[tuple[int, str], int]
    """(ICD version, code) -> category."""

    @property
    def versions(self) -> frozenset[int]:
        """The ICD versions that were read."""
        return frozenset(version for version, _ in self.categories)


def read_ccs(path: Path) -> Ccs:
    """Read one of AHRQ's files, or every ``.csv`` of a folder that is one (give the folder to cover both versions).

    Raises:
        ConsiliumError: (exit code 12) no such file, none of AHRQ's single-level diagnosis files, or a version that
            lacks categories of the phenotypes (a procedure file, a table cut short).
    """
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    categories: dict[tuple[int, str], int] = {}
    faults = []
    for file in files:
        found = _read(file) if file.is_file() else {}
        if absent := sorted(set(PHENOTYPES.values()) - set(found.values())):
            if found or not path.is_dir():
                faults.append(_fault(file, absent if found else []))
            continue  # another table of the same folder
        categories |= found
    if not files or (not categories and not faults):
        faults.append(_fault(path, []))
    if faults:
        raise ConsiliumError("--ccs: the CCS table cannot be used", code=ExitCode.DATA, faults=faults)
    return Ccs(categories=categories)


def _read(file: Path) -> dict[tuple[int, str], int]:
    """(ICD version, code) -> category; nothing when the file has not AHRQ's columns."""
    with file.open(encoding="latin-1", newline="") as lines:  # ASCII but for accents in descriptions
        rows = csv.reader(lines, quoting=csv.QUOTE_NONE)  # the first two columns hold no comma
        for _, row in zip(range(_PROSE), rows, strict=False):
            names = [_bare(cell) for cell in row]
            code = next((name for name in names if name in _CODE_COLUMNS), None)
            if code is not None and _CATEGORY in names:
                version, at, category = _CODE_COLUMNS[code], names.index(code), names.index(_CATEGORY)
                cells = [(_bare(row[at]), _bare(row[category])) for row in rows if len(row) > max(at, category)]
                return {(version, code.replace(".", "").upper()): int(n) for code, n in cells if code and n.isdigit()}
    return {}


def _bare(cell: str) -> str:
    """A cell without the single quotes and the padding around and inside them."""
    return cell.strip().strip("'").strip()


def _fault(path: Path, absent: list[int]) -> Fault:
    wanted = "$dxref 2015.csv (ICD-9-CM) and ccs_dx_icd10cm_2019_1.csv (ICD-10-CM)"
    mend = f"Give AHRQ's single-level diagnosis files, unmodified: {wanted}, or a folder that holds both."
    if absent:
        value = ", ".join(map(str, absent))
        return Fault(file=str(path), key=_CATEGORY, value=value, problem="no code of these categories", mend=mend)
    return Fault(file=str(path), key="--ccs", problem="no single-level CCS table", mend=mend)
