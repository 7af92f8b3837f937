"""The check's HTML report: one offline file, pictures of patients only in the hospital's own."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from fl_client.data.check import examine, summary
from fl_client.data.check_report import figures
from fl_client.data.check_report.page import writable, write_page
from fl_client.data.check_report.pictures import pictures_of
from fl_client.data.cohort import Cohort
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.study import ModalityPlan

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0",
)  # fmt: skip


@pytest.fixture
def site(make_site, write_ecg, tmp_path):
    """Sixty patients, of whom twenty have an ECG and one an ECG that is not there."""
    write_ecg(tmp_path, "e1")
    rows = [
        {"patient_id": f"secret{k:03}", "sample_id": f"zebra{k:03}", "Alter": 40 + k % 45, "Krea": 0.6 + k / 60,
         "Geschlecht": "mw"[k % 2], "tot": int(k % 3 == 0), "ecg_path": "e1" if k < 20 else ""}
        for k in range(60)
    ]  # fmt: skip
    rows[30]["ecg_path"] = "lost_<b>file"
    return make_site(rows, extra='title = "Drum <script>alert(1)</script> Tower"\nsynthetic = true')


def written(site, path: Path, *, local: bool) -> str:
    cohort, report = examine(site, None, workers=1)
    found = summary(report, cohort, site=site, study=None, local=local)
    plans = {"ecg": ModalityPlan(kind="waveform", leads=LEADS, rate=100, seconds=10)}
    write_page(found, path, pictures=pictures_of(cohort, plans) if local and cohort else ())
    return path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Tags, what they point to, and the words that stand for pictures."""

    VOID = frozenset({"meta", "img", "br", "path", "use", "rect", "line", "circle", "polygon", "polyline", "image"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.ids, self.points, self.labels = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.points += [found[key] for key in ("href", "src", "xlink:href") if key in found]
        if found.get("role") == "img":
            self.labels.append(found["aria-label"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("local", [False, True])
def test_the_page_is_whole_and_offline(site, tmp_path, local):
    path = tmp_path / "report.html"
    page = Reader(written(site, path, local=local))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(to.startswith("data:image/png") or (to[0] == "#" and to[1:] in page.ids) for to in page.points)
    assert "script" not in page.tags and "link" not in page.tags
    assert len(page.labels) == page.tags.count("figure") == (3 if local else 2)
    assert all(len(label) > 20 for label in page.labels)
    assert path.stat().st_mode & 0o777 == 0o600


def test_outsiders_see_no_patient(site, tmp_path):
    outside, inside = (written(site, tmp_path / "r.html", local=local) for local in (False, True))
    words = ("secret", "zebra", "lost_", "ecg_path", str(tmp_path))
    assert not any(word in re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", outside, flags=re.S) for word in words)
    assert "lost_&lt;b&gt;file" in inside and "zebra000" in inside and "<script>" not in inside
    assert "must not leave the hospital" in inside and "must not leave the hospital" not in outside
    assert "SYNTHETIC DATA" in inside and "SYNTHETIC DATA" in outside
    assert "Strip of 12 leads; missing: none." in inside and "Strip of" not in outside
    cohort, report = examine(site, None, workers=1)
    assert isinstance(cohort, Cohort)
    plans = {"ecg": ModalityPlan(kind="waveform", leads=LEADS, rate=100, seconds=10)}
    body = summary(report, cohort, site=site, study=None, local=False)
    with pytest.raises(ValueError, match="only a local report"):
        write_page(body, tmp_path / "r.html", pictures=pictures_of(cohort, plans))


def test_rejected_data_have_a_page_with_their_faults(make_site, tmp_path):
    site = make_site([{"patient_id": "p1", "sample_id": "s1", "Geschlecht": "divers", "tot": "?!"}])
    outside, inside = (written(site, tmp_path / "r.html", local=local) for local in (False, True))
    for page in (outside, inside):
        assert "Rejected" in page and page.count("<li><strong>") == 2 and "Geschlecht" in page
    assert "divers" in inside and "row 2" in inside
    assert "divers" not in outside and "row 2" not in outside and "samples.csv" not in outside


def test_a_real_browser_shows_the_page(site, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs a browser (Debian: apt install chromium)")
    written(site, tmp_path / "report.html", local=True)
    picture = tmp_path / "report.png"
    command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,3000",
               f"--screenshot={picture}", "--dump-dom", (tmp_path / "report.html").as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "</html>" in done.stdout and "<svg" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Refused to" in line] == []
    assert picture.stat().st_size > 50_000  # not a blank page


def pixels(source: str) -> np.ndarray:
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    return imread(io.BytesIO(data), format="png")[..., 0]


def test_a_montage_shows_slices_by_phases():
    images = np.zeros((2, 3, 16, 16), dtype=np.float16)
    images[1, 2, 4:8, :] = 1.0  # second slice, third phase
    shown = pixels(figures.montage(images))
    assert shown.shape == (32, 48)
    bright = np.argwhere(shown > 0.5)
    assert bright.min(axis=0).tolist() == [20, 32] and bright.max(axis=0).tolist() == [23, 47]


def test_a_single_slice_is_laid_out_in_lines_and_large_pictures_are_thinned():
    images = np.random.default_rng(0).normal(size=(1, 10, 512, 512)).astype(np.float16)
    assert pixels(figures.montage(images)).shape == (2 * 128, 8 * 128)
    assert pixels(figures.montage(images[:, :3, :64, :64])).shape == (64, 3 * 64)


def test_pictures_of_every_kind_that_can_be_seen(site):
    cohort, _ = examine(site, None, workers=1)
    n = len(cohort)
    video = np.random.default_rng(0).normal(size=(n, 4, 2, 32, 32)).astype(np.float16)
    frames, slices = np.ones((n, 4), dtype=bool), np.tile([True, False], (n, 1))
    late = {"pixels": video[:, 0, :1], "spacing": np.zeros((n, 2), dtype=np.float32)}
    cine = {"video": video, "frame_mask": frames, "slice_mask": slices, "spacing": np.full((n, 3), 1.5, np.float32)}
    here = np.arange(n) >= 5
    cohort = Cohort(**{
        **vars(cohort), "inputs": {**cohort.inputs, "cmr": cine, "lge": late},
        "present": {**cohort.present, "cmr": here, "lge": here, "empty": ~(here | ~here)},
    })  # fmt: skip
    plans = {
        "ehr": ModalityPlan(kind="table", fields=("age",)),
        "cmr": ModalityPlan(kind="cine", frames=4, slices=2, size=32),
        "lge": ModalityPlan(kind="image", size=32),
        "empty": ModalityPlan(kind="image", size=32),
    }
    cmr, lge = pictures_of(cohort, plans)
    assert cmr.alt == "4 phases of one heart beat in 1 slice(s), grey."
    assert cmr.caption.startswith(f"cmr of sample {cohort.sample_ids[5]}, as the model sees it: 1.5 x 1.5 x 1.5 mm.")
    assert "size of a pixel unknown" in lge.caption
    assert pixels(re.search('src="([^"]*)"', cmr.body).group(1)).shape == (32, 4 * 32)  # the absent slice is left out


def test_missing_leads_are_said_in_the_strip():
    there = np.arange(12) != 4
    signal = np.where(there[:, None], np.sin(np.arange(500) / 20), 0)
    svg = figures.ecg(signal, LEADS, there, rate=100.0, key="s")
    assert svg.count(">missing<") == 1 and all(f">{lead}<" in svg for lead in LEADS)
    assert "#0" not in svg.replace('"#s-', "")  # every colour is the page's


def test_where_no_report_can_be_written_it_is_said_first(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "report.html"):
        with pytest.raises(ConsiliumError, match="cannot be written") as error:
            writable(path)
        assert error.value.code == ExitCode.USAGE
    writable(tmp_path / "new" / "report.html")
    assert (tmp_path / "new").is_dir()
