"""Short admission notes in German, Chinese or English: symptoms, never an outcome.

At most 160 bytes of UTF-8, so that a byte-level reader of 384 tokens sees all of it and of the prescriptions. Every
note says that it is synthetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class _Phrases:
    """A language's phrases; graded ones from mild to severe."""

    header: str
    dyspnoea: tuple[str, str, str, str]
    oedema: tuple[str, str]
    palpitations: tuple[str, str, str]
    joint: str = " "


_PHRASES = {
    "de": _Phrases(
        header="SYNTHETISCH. Aufnahmebefund.",
        dyspnoea=(
            "Keine Atemnot.",
            "Atemnot bei starker Belastung.",
            "Atemnot beim Treppensteigen.",
            "Atemnot in Ruhe, Orthopnoe.",
        ),
        oedema=("Keine Ödeme.", "Unterschenkelödeme beidseits."),
        palpitations=("Kein Herzstolpern.", "Gelegentlich Herzstolpern.", "Häufig Herzrasen."),
    ),
    "zh": _Phrases(
        header="合成数据。入院记录。",
        dyspnoea=("无气促。", "剧烈活动后气促。", "上楼时气促。", "静息气促，端坐呼吸。"),
        oedema=("无水肿。", "双下肢水肿。"),
        palpitations=("无心悸。", "偶有心悸。", "频发心悸。"),
        joint="",
    ),
    "en": _Phrases(
        header="SYNTHETIC. Admission note.",
        dyspnoea=(
            "No dyspnoea.",
            "Dyspnoea on strenuous exertion.",
            "Dyspnoea on climbing stairs.",
            "Dyspnoea at rest, orthopnoea.",
        ),
        oedema=("No oedema.", "Bilateral ankle oedema."),
        palpitations=(
            "No palpitations.",
            "Occasional palpitations.",
            "Frequent palpitations.",
        ),
    ),
}


def draw_note(rng: np.random.Generator, *, language: str, severity: float, rhythm: float) -> str:
    """A note whose grades follow the latent state with noise."""
    phrases = _PHRASES[language]

    def grade(value: float, *cuts: float) -> int:
        return int(np.searchsorted(cuts, value + rng.normal(0, 0.5)))

    sentences = (
        phrases.header,
        phrases.dyspnoea[grade(severity, -0.5, 0.4, 1.3)],
        phrases.oedema[grade(severity, 0.7)],
        phrases.palpitations[grade(rhythm, 0.3, 1.2)],
    )
    return phrases.joint.join(sentences)
