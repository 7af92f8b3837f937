"""What a hospital writes for a class of an outcome, and the words that would tell one; by language."""

from __future__ import annotations

CLASSES = {
    "de": {
        "cardiac": "kardial",
        "other": "nicht kardial",
        "routine": "Hausarzt",
        "clinic": "Herzambulanz",
        "device": "ICD-Abklärung",
    },
    "zh": {
        "cardiac": "心源性",
        "other": "非心源性",
        "routine": "常规随访",
        "clinic": "心衰门诊",
        "device": "器械评估",
    },
    "en": {
        "cardiac": "cardiac",
        "other": "non-cardiac",
        "routine": "GP",
        "clinic": "HF clinic",
        "device": "device assessment",
    },
}
"""Language -> label of the study -> word in the samples table."""

OUTCOME_WORDS = {
    "de": ("verstorben", "Exitus", "Entlassungsbrief"),
    "zh": ("死亡", "去世", "出院小结"),
    "en": ("died", "deceased", "discharge summary"),
}
"""For ``leakage_words`` of site.toml; no note holds them."""
