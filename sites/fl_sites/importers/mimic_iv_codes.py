"""MIMIC-IV's item numbers -> the concept file: code in ``events.parquet``, concept, UCUM unit.

Item numbers and units are those of ``hosp/d_labitems.csv.gz``, ``hosp/labevents.csv.gz`` and ``icu/d_items.csv.gz``.
Partial pressures, pH and saturation of blood gases are not mapped: arterial and venous samples share their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from fl_shared.site import ColumnMap

# item, unit in the release, concept, UCUM unit
_LABS = """
50912 mg/dL  creatinine        mg/dL
52024 mg/dL  creatinine        mg/dL
51006 mg/dL  urea              mg{urea_nitrogen}/dL
51007 mg/dL  uric_acid         mg/dL
50983 mEq/L  sodium            meq/L
50824 mEq/L  sodium            meq/L
50971 mEq/L  potassium         meq/L
50822 mEq/L  potassium         meq/L
50902 mEq/L  chloride          meq/L
50882 mEq/L  bicarbonate       meq/L
50868 mEq/L  anion_gap         meq/L
50802 mEq/L  base_excess       meq/L
50893 mg/dL  calcium           mg/dL
50808 mmol/L calcium_ionised   mmol/L
50960 mg/dL  magnesium         mg/dL
50970 mg/dL  phosphate         mg/dL
50813 mmol/L lactate           mmol/L
50931 mg/dL  glucose           mg/dL
50809 mg/dL  glucose           mg/dL
50852 %      hba1c             %
51222 g/dL   haemoglobin       g/dL
50811 g/dL   haemoglobin       g/dL
51221 %      haematocrit       %
50810 %      haematocrit       %
51279 m/uL   erythrocytes      10*6/uL
51250 fL     mcv               fL
51248 pg     mch               pg
51249 g/dL   mchc              g/dL
51249 %      mchc              g/dL
51277 %      rdw               %
51301 K/uL   leukocytes        10*3/uL
51300 K/uL   leukocytes        10*3/uL
51256 %      neutrophils       %
51244 %      lymphocytes       %
51254 %      monocytes         %
51200 %      eosinophils       %
51265 K/uL   platelets         10*3/uL
51237 UNK    inr               1
51274 sec    prothrombin_time  s
51275 sec    aptt              s
51214 mg/dL  fibrinogen        mg/dL
51003 ng/mL  troponin_t        ng/mL
51002 ng/mL  troponin_i        ng/mL
50910 IU/L   creatine_kinase   [IU]/L
50911 ng/mL  ck_mb             ng/mL
50963 pg/mL  nt_probnp         pg/mL
50861 IU/L   alt               [IU]/L
50878 IU/L   ast               [IU]/L
50863 IU/L   alp               [IU]/L
50954 IU/L   ldh               [IU]/L
50956 IU/L   lipase            [IU]/L
50885 mg/dL  bilirubin         mg/dL
50862 g/dL   albumin           g/dL
50976 g/dL   protein_total     g/dL
50889 mg/L   crp               mg/L
50907 mg/dL  cholesterol       mg/dL
50905 mg/dL  ldl               mg/dL
50906 mg/dL  ldl               mg/dL
50904 mg/dL  hdl               mg/dL
51000 mg/dL  triglycerides     mg/dL
50993 uIU/mL tsh               u[IU]/mL
"""
_CHART = """
220045 bpm      heart_rate       /min
220179 mmHg     sbp              mm[Hg]
220180 mmHg     dbp              mm[Hg]
220181 mmHg     map              mm[Hg]
220050 mmHg     sbp_invasive     mm[Hg]
220051 mmHg     dbp_invasive     mm[Hg]
220052 mmHg     map_invasive     mm[Hg]
220074 mmHg     cvp              mm[Hg]
220210 insp/min respiratory_rate /min
220277 %        spo2             %
223761 °F       temperature      [degF]
223762 °C       temperature      Cel
223835 UNK      fio2             %
220339 cmH2O    peep             cm[H2O]
220739 UNK      gcs_eye          1
223900 UNK      gcs_verbal       1
223901 UNK      gcs_motor        1
224639 kg       weight           kg
226512 kg       weight           kg
"""
_OUTPUT = """
226559 ml urine_output mL
226560 ml urine_output mL
226561 ml urine_output mL
226563 ml urine_output mL
226567 ml urine_output mL
"""
NO_UNIT = "UNK"  # stands in a code where the release gives no unit


def code(prefix: str, item: int | str, unit: str) -> str:
    """How an item is called in ``events.parquet``: ``LAB//50912//mg/dL``."""
    return f"{prefix}//{item}//{unit}"


def _rows(table: str) -> Iterator[tuple[str, str, str, str]]:
    for line in table.strip().splitlines():
        item, unit, concept, ucum = line.split()
        yield item, unit, concept, ucum


VITALS = frozenset(int(item) for item, *_ in _rows(_CHART))
"""The items of ``icu/chartevents.csv.gz`` that are taken."""

CODES: dict[str, ColumnMap] = {
    code(prefix, item, unit): ColumnMap(concept=concept, unit=ucum)
    for prefix, table in (("LAB", _LABS), ("CHART", _CHART), ("OUTPUT", _OUTPUT))
    for item, unit, concept, ucum in _rows(table)
}
"""Code in ``events.parquet`` -> concept and unit. The file also holds other codes; no concept stands for them yet."""


def concepts(*, vitals: bool) -> tuple[str, ...]:
    """The concepts measured, each once; without ``vitals`` those that the laboratory and the outputs give."""
    held = {m.concept: None for name, m in CODES.items() if vitals or not name.startswith("CHART")}
    return tuple(held)
