"""A run as the report sees it: invented predictions (labelled synthetic) judged by the real metrics."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fl_server.report.page import write_report
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.results import PrivacyResult, Results, RoundResult, SiteResult, SiteRound, StudyResult
from fl_shared.study import TaskPlan

sys.path.insert(0, str(Path(__file__).parent))  # its helpers

SITES = {
    "drum_tower": ("train", 900, "Drum Tower Hospital"),
    "east_lake": ("train", 400, "East Lake Hospital"),
    "north_gate": ("train", 30, "North Gate Clinic <script>alert(1)</script>"),
    "harbour": ("external", 49, "Harbour General"),
    "west_bank": ("external", 240, "West Bank Heart Centre"),
}
JUDGED = {"drum_tower": 180, "east_lake": 80, "north_gate": 6, "harbour": 55, "west_bank": 240}
TASKS = {"diagnosis": ("NORM", "MI", "STTC", "CD", "HYP"), "death": ()}
TYPES = {"diagnosis": "multilabel", "death": "binary"}
HEADLINE = {"diagnosis": ("NORM", "MI", "STTC", "CD"), "death": ()}
MODALITIES = {"ecg": 1.0, "ehr": 0.5, "text": 2.4}
SIGNAL = {"all": 2.6, "headline": 1.2, **MODALITIES}


def _evaluation():
    rng = np.random.default_rng(7)
    rows, curves = [], []
    for site, (role, _, _) in SITES.items():
        for task, names in TASKS.items():
            labels, n = names or ("",), JUDGED[site]
            targets = (rng.random((n, len(labels))) < np.array([0.4, 0.3, 0.25, 0.25, 0.06])[: len(labels)]).astype(
                float
            )
            noise = rng.normal(size=targets.shape)
            for modalities, signal in SIGNAL.items():
                scores = 1 / (
                    1 + np.exp(-(signal * (targets - 0.5) + noise + rng.normal(size=targets.shape) / 2 - 0.6))
                )
                found = evaluate_predictions(
                    site=site,
                    role=role,
                    task=task,
                    plan=TaskPlan(type=TYPES[task], labels=names, headline=HEADLINE[task]),
                    modalities=modalities,
                    model="attention, round 12",
                    predictions=scores,
                    targets=targets,
                    mask=np.ones_like(targets, dtype=bool),
                    patients=np.arange(n) % max(1, round(0.9 * n)),
                    bootstrap=200,
                    seed=1,
                    min_patients=10,
                )
                rows += found[0]
                curves += found[1]
    return tuple(rows), tuple(curves)


def _rounds():
    train = [name for name, site in SITES.items() if site[0] == "train"]
    rounds = [RoundResult(round=0, outcome="committed", seconds=1.2, sites={})]
    for index in range(1, 13):
        sites = {name: SiteRound(status="accepted") for name in train}
        if index in (4, 5):
            sites["north_gate"] = SiteRound(status="absent", reason="site-deadline")
        if index == 8:
            sites["east_lake"] = SiteRound(status="rejected", reason="update-norm-too-large")
        if index == 9:
            sites = {name: SiteRound(status="failed", reason="trainer-failed") for name in train}
        outcome = "failed" if index == 9 else "committed"
        rounds.append(RoundResult(round=index, outcome=outcome, seconds=31.4 + index, sites=sites))
    return tuple(rounds)


@pytest.fixture(scope="session")
def results() -> Results:
    evaluation, curves = _evaluation()
    return Results(
        schema=1,
        study=StudyResult(
            name="cardiac_demo",
            hash="9f2c" * 16,
            system="attention",
            synthetic=True,
            tasks={task: labels or ("",) for task, labels in TASKS.items()},
            types=TYPES,
            headline=HEADLINE,
            modalities=tuple(MODALITIES),
            leaky=("text",),
            package="0.1.0",
        ),
        privacy=PrivacyResult(
            mode="patient",
            delta=1e-5,
            epsilon_budget=8.0,
            epsilon_spent={"drum_tower": 5.21, "east_lake": 6.874, "north_gate": 7.93},
        ),
        sites={
            name: SiteResult(role=role, declared_patients=patients if role == "train" else 0, title=title)
            for name, (role, patients, title) in SITES.items()
        },
        rounds=_rounds(),
        evaluation=evaluation,
        curves=curves,
        notes=("External sites ran the initial encoders.", "north_gate missed rounds 4 & 5."),
    )


VOID = {"meta", "br", "use", "path", "rect"}


class Tags(HTMLParser):
    """Collects ids, labels and text, and checks that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags, self.text, self.targets = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.targets += [v[1:] for k, v in attrs if k in ("href", "xlink:href") and v.startswith("#")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def _read(results, folder):
    write_report(results, folder / "runs" / "report.html")
    page = (folder / "runs" / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    return page, tags, re.sub(r"\s+", " ", "".join(tags.text))


@pytest.fixture(scope="session")
def read():
    """Write the report of results into a folder: the page, its tags, its text in one line."""
    return _read
