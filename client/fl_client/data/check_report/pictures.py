"""Pictures of one patient, for the hospital's own report only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fl_client.data.check_report import figures
from fl_client.data.cohort import Cohort
from fl_shared.study import ModalityPlan


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image or an inline SVG, with the words that stand for it."""

    body: Markup
    alt: str
    caption: str


def pictures_of(cohort: Cohort, modalities: Mapping[str, ModalityPlan]) -> Sequence[Picture]:
    """Of each modality that can be seen, the first sample that has it. They must not leave the site."""
    found = []
    for name, plan in modalities.items():
        rows = np.flatnonzero(cohort.present[name])
        if not len(rows) or plan.kind not in ("cine", "image", "waveform"):
            continue
        row = int(rows[0])
        arrays = {key: np.asarray(array[row]) for key, array in cohort.inputs[name].items()}
        sample = f"{name} of sample {cohort.sample_ids[row]}"
        if plan.kind == "waveform":
            svg = figures.ecg(
                arrays["signal"], plan.leads, arrays["lead_mask"], rate=plan.rate or 1.0, key=f"strip-{name}"
            )
            missing = [lead for lead, there in zip(plan.leads, arrays["lead_mask"], strict=True) if not there]
            caption = f"{sample}, as the model sees it: filtered, {plan.rate:g} Hz."
            alt = f"Strip of {len(plan.leads)} leads; missing: {', '.join(missing) or 'none'}."
            found.append(Picture(body=Markup(svg), alt=alt, caption=caption))
        else:
            found.append(_images(arrays, sample))
    return found


def _images(arrays: dict[str, NDArray[Any]], sample: str) -> Picture:
    """A still image, or phases from left to right of slices from top to bottom."""
    known = bool((arrays["spacing"] > 0).all())  # an image's may be unknown
    spacing = " x ".join(f"{mm:.3g}" for mm in arrays["spacing"]) + " mm" if known else "size of a pixel unknown"
    if "pixels" in arrays:
        images, alt = arrays["pixels"][None], "One grey image."
    else:
        frames, slices = arrays["frame_mask"], arrays["slice_mask"]
        images = arrays["video"][frames][:, slices].swapaxes(0, 1)
        alt = f"{int(frames.sum())} phases of one heart beat in {int(slices.sum())} slice(s), grey."
    source = figures.montage(images)
    caption = f"{sample}, as the model sees it: {spacing}. {alt}"
    return Picture(body=Markup('<img src="{}" alt="">').format(source), alt=alt, caption=caption)
