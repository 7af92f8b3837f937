"""What a series shows: cine, scout, perfusion, late enhancement, flow, tagging, a map, a radiograph.

The words that scanners and technicians write (SeriesDescription, ProtocolName, SequenceName, ImageType,
AcquisitionContrast) decide first, for what they exclude; then what the frames tell: a cine shows the same slice at many
times of one heart beat, a perfusion series at one time of many beats, a map at many inversion or echo times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from fl_client.data.cine.groups import Group

SeriesKind = Literal[
    "cine", "scout", "perfusion", "lge", "flow", "tagging", "map", "radiograph", "dynamic", "single", "other"
]

MIN_PHASES = 6  # of a cine; clinical ones have 12 to 60
BEAT = 2500.0  # ms: no heart beat lasts longer (24 a minute)
MIN_INVERSION = 100.0  # ms
RADIOGRAPHS = frozenset({"CR", "DX", "RG"})

_START, _END = r"(?<![a-z])", r"(?![a-z])"  # digits and "_" may touch a word, letters not

EXCLUDING: tuple[tuple[SeriesKind, re.Pattern[str]], ...] = (
    ("scout", re.compile(rf"scout|locali[sz]|{_START}loc{_END}|survey|3.?plane|planning|calibration")),
    ("perfusion", re.compile(rf"{_START}perf|first.?pass|{_START}aif{_END}")),
    (
        "lge",
        re.compile(rf"{_START}lge|late.?(?:gad|gd|enh)|delayed|{_START}mde{_END}|psir|viab|infarct|de.?(?:mri|cmr)"),
    ),
    ("map", re.compile(r"t[12]s?[ _*-]*(?:map|star)|t2\*|molli|sasha|look.?locker")),
    ("flow", re.compile(rf"flow|venc|phase.?contrast|velocity|{_START}pc{_END}")),
    ("tagging", re.compile(rf"{_START}tag{_END}|tagg|grid.?tag|spamm")),
)
CINE = re.compile(r"cine|trufi|true.?fisp|fiesta|b.?tfe|b.?ffe|ssfp|retro")
SHORT_AXIS = re.compile(rf"short.?ax|{_START}sax?{_END}|{_START}ka{_END}|kurze? ?achse|短轴")
LONG_AXIS = re.compile(
    rf"[234][ _-]?ch|[234].?kammer|long.?ax|{_START}lax?{_END}|{_START}[vh]la{_END}|[lr]vot|outflow|aort|langachse|"
    r"长轴|[二三四]腔"
)
"""In English, German and Chinese."""


def recognise(group: Group, *, alone: bool) -> SeriesKind:
    """What a group shows. ``alone``: no other orientation lies in its series."""
    image = group.first.image
    if image.modality in RADIOGRAPHS:
        return "radiograph"
    if image.modality != "MR":
        return "other"
    for name, pattern in EXCLUDING:
        if pattern.search(image.words):
            return name
    if _several(group, "echo") or _several(group, "inversion"):
        return "map"
    if group.first.phase_image:
        return "flow"
    if group.phases >= MIN_PHASES:
        return "cine" if _one_beat(group) else "dynamic"
    inversion = group.first.inversion
    if image.inversion_recovery and inversion is not None and inversion >= MIN_INVERSION:
        return "lge"
    return "single" if alone else "scout"


def recognised(groups: Sequence[Group]) -> dict[SeriesKind, list[Group]]:
    """Groups by what they show, in order."""
    result: dict[SeriesKind, list[Group]] = {}
    for group in groups:
        alone = len({other.orientation for other in groups if other.series == group.series}) == 1
        result.setdefault(recognise(group, alone=alone), []).append(group)
    return result


def _one_beat(group: Group) -> bool:
    """Whether the frames of every slice fall at different times of one beat; without times, whether words say so."""
    timed = False
    for frames in group.slices:
        triggers = [frame.trigger for frame in frames if frame.trigger is not None]
        if len(set(triggers)) > 1:
            timed = True
            if len(set(triggers)) < len(frames) or max(triggers) - min(triggers) > BEAT:
                return False
    image = group.first.image
    return timed or CINE.search(image.words) is not None or image.phases == group.phases


def _several(group: Group, attribute: str) -> bool:
    """Whether a contrast parameter differs within a slice: such frames show no motion."""
    return any(len({getattr(frame, attribute) for frame in frames}) > 2 for frames in group.slices)
