"""The comparisons of the five papers, for any study: each writes a comparison file in the form of the paper's tables.

Published figures are of other patients and stand beside for the eye.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from fl_server.comparison.papers import lemof, m_prtm, medfuse, medm2t, tte_alignment
from fl_server.comparison.papers.body import Body
from fl_shared.study import Study


class Paper(StrEnum):
    """Whose tables."""

    M_PRTM = "m_prtm"
    MEDM2T = "medm2t"
    TTE_ALIGNMENT = "tte_alignment"
    MEDFUSE = "medfuse"
    LEMOF = "lemof"


BODIES: Mapping[Paper, Callable[[Study], Body]] = {
    Paper.M_PRTM: m_prtm.body,
    Paper.MEDM2T: medm2t.body,
    Paper.TTE_ALIGNMENT: tte_alignment.body,
    Paper.MEDFUSE: medfuse.body,
    Paper.LEMOF: lemof.body,
}
