from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import sunnybrook_lopo as lopo

from fl_shared.study import load_study

SOURCE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "sunnybrook-cine"


def test_images_and_contours_are_moved_alike() -> None:
    labels = np.zeros((2, 3, 64, 64), np.uint8)
    labels[:, :, 20:44, 26:38] = 1
    draw = np.random.default_rng(0)
    for _ in range(8):
        video, moved = lopo.changed(labels.astype(np.float16), labels, draw)
        assert set(np.unique(moved)) == {0, 1} and (moved != labels).mean() > 0.01
        seen = video > (video.max() + video.min()) / 2
        assert 2 * (seen & (moved == 1)).sum() / (seen.sum() + moved.sum()) > 0.97


@pytest.mark.skipif(not SOURCE.is_dir(), reason=f"real data missing: {SOURCE}")
def test_every_endocardial_contour_is_there_with_its_area(tmp_path) -> None:
    """Oracle: the shoelace formula over the points of the contour files, in native pixels."""
    written = load_study(lopo.import_sunnybrook(SOURCE, tmp_path).study)
    study = lopo.study_of(written, encoder="dae_former", seed=0)
    cohort = lopo.read_drawn(tmp_path, study)
    for patient, name in enumerate(cohort.patient_ids):
        areas = []
        for path in (tmp_path / lopo.SITE / "contours" / name).rglob("*-icontour-manual.txt"):
            x, y = np.loadtxt(path).T
            areas.append(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
        assert len(areas) == cohort.target_mask[lopo.TASK][patient].sum() == 18
        native = np.array([_pixel_of(tmp_path, name)] * 2)
        spacing = cohort.inputs["cine"]["spacing"][patient, :2]
        drawn = cohort.targets[lopo.TASK][patient].sum() * np.prod(spacing)
        assert drawn == pytest.approx(sum(areas) * np.prod(native), rel=0.02)


def _pixel_of(folder: Path, patient: str) -> float:
    import pydicom

    path = next((folder / lopo.SITE / "cine" / patient).glob("*.dcm"))
    rows, columns = pydicom.dcmread(path, stop_before_pixels=True).PixelSpacing
    assert rows == columns
    return float(rows)
