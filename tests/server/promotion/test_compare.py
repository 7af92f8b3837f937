"""Two runs side by side: what differs, by how much, and how far one can trust the interval."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fl_server.checkpoint import RunDirectory
from fl_server.cli import app
from fl_server.launch import STUDY
from fl_server.promotion.compare import OTHERS, SAME, compare
from fl_server.rounds import run_study
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import Difference


@pytest.fixture
def run(make_study, make_fleet, initial, tmp_path):
    """Makes a finished run in which davos and emden tell (value, low, high), each of n patients."""

    def make(name: str, told: dict[str, tuple[float, float, float, int]], **changes: Any) -> Path:
        sites = {"davos": {"role": "external"}, "emden": {"role": "external"}}
        study = make_study(**({"name": name, "sites": sites} | changes))
        directory = RunDirectory(tmp_path / "runs" / name)
        directory.path.mkdir(parents=True)
        (directory.path / STUDY).write_text(study.model_dump_json(by_alias=True))
        results = run_study(study=study, fleet=make_fleet(study), run=directory, initial=initial, log=lambda _: None)
        rows = [
            row.model_copy(update={"value": v, "ci_low": low, "ci_high": high, "n": n})
            for row in results.evaluation
            if row.site in told
            for v, low, high, n in [told[row.site]]
        ]
        directory.write_results(results.model_copy(update={"evaluation": tuple(rows)}))
        return directory.path

    return make


FIRST = {"davos": (0.80, 0.75, 0.85, 200), "emden": (0.70, 0.60, 0.78, 90)}
SECOND = {"davos": (0.76, 0.73, 0.80, 200), "emden": (0.72, 0.60, 0.80, 80)}


def test_unpaired_differences_carry_both_widths(run):
    found = compare(run("one", FIRST), run("two", SECOND, seed=9))
    davos, emden = found.sites
    assert (davos.first, davos.second, davos.value, davos.paired) == (0.8, 0.76, 0.04, False)
    assert davos.ci_low == pytest.approx(0.04 - math.hypot(0.05, 0.04), abs=1e-4)
    assert davos.ci_high == pytest.approx(0.04 + math.hypot(0.05, 0.03), abs=1e-4)
    assert davos.better == "" and davos.note == SAME
    assert emden.value == -0.02 and emden.note == OTHERS  # another number of patients
    (over,) = found.summaries
    assert over.sites == ("davos", "emden") and not over.paired and over.ci_low < over.value < over.ci_high
    weights = [(2 * 1.959964 / (part.ci_high - part.ci_low)) ** 2 for part in found.sites]
    assert over.value == pytest.approx(np.average([0.04, -0.02], weights=weights), abs=2e-4)  # tau is 0 here
    assert found.differs["seed"] == (7, 9) and found.differs["name"] == ("one", "two")
    assert "tasks.mace.type" not in found.differs and found.hashes[0] != found.hashes[1]


def test_the_better_one_is_named_by_the_metric_s_direction(run):
    high, low = {"davos": (0.9, 0.88, 0.92, 200)}, {"davos": (0.6, 0.55, 0.65, 200)}
    a, b = run("a", high), run("b", low)
    assert (compare(a, b).sites[0].better, compare(b, a).sites[0].better) == ("first", "second")
    for folder in (a, b):  # an error: less is better
        results = RunDirectory(folder).read_results()
        rows = tuple(row.model_copy(update={"metric": "brier"}) for row in results.evaluation)
        RunDirectory(folder).write_results(results.model_copy(update={"evaluation": rows}))
    assert compare(a, b).sites[0].better == "second"


def test_paired_differences_of_an_evaluate_only_run_go_first(run):
    one, two = run("one", FIRST), run("two", SECOND, seed=9)
    hashes = compare(one, two).hashes
    other = {
        "arrays": "2" * 64,
        "study": hashes[1],
        "trained_by": ["aarau"],
        "seed": 9,
        "modalities": {"ecg": {"kind": "waveform", "leads": ["I"], "rate": 100, "seconds": 10}},
        "model": {},
        "training": json.loads((two / STUDY).read_text())["training"],
    }
    body = json.loads((one / STUDY).read_text()) | {
        "name": "later",
        "sites": {"davos": {"role": "external"}},
        "rounds": {"quorum": 1},
        "judged": {"arrays": "1" * 64, "study": hashes[0], "trained_by": ["aarau"], "against": other},
    }
    from fl_shared.study import Study

    study = Study.model_validate(body)
    folder = one.parent / "later"
    folder.mkdir()
    (folder / STUDY).write_text(study.model_dump_json(by_alias=True))
    told = Difference(
        site="davos", role="external", task="mace", label="", modalities="all", model="federated", against="against",
        metric="auroc", value=0.04, ci_low=0.02, ci_high=0.07, p=0.001, test="DeLong", n=200,
    )  # fmt: skip
    results = RunDirectory(one).read_results()
    named = results.study.model_copy(update={"hash": study.identity, "name": "later"})
    RunDirectory(folder).write_results(results.model_copy(update={"study": named, "differences": (told,)}))
    found = compare(one, two)
    davos, emden = found.sites
    assert (davos.paired, davos.ci_low, davos.ci_high, davos.p, davos.better) == (True, 0.02, 0.07, 0.001, "first")
    assert not emden.paired and found.paired_by == (str(folder),) and not found.summaries[0].paired
    turned = compare(two, one).sites[0]
    assert (turned.value, turned.ci_low, turned.ci_high, turned.better) == (-0.04, -0.07, -0.02, "second")
    body["judged"]["study"] = "3" * 64  # results that are not of this study are not believed
    (folder / STUDY).write_text(json.dumps(body))
    assert compare(one, two).paired_by == ()


def test_other_tasks_are_refused(run):
    one, two = run("one", FIRST), run("two", SECOND, tasks={"mace": {"type": "binary", "weight": 2.0}})
    with pytest.raises(ConsiliumError, match="predict different things") as caught:
        compare(one, two)
    assert caught.value.code is ExitCode.STUDY and [f.key for f in caught.value.faults] == ["tasks.mace"]


def test_the_command_prints_it(run):
    one, two = run("one", FIRST), run("two", SECOND, training={"rounds": 4})
    done = CliRunner().invoke(app, ["compare", str(one), str(two)], env={"COLUMNS": "220"})
    assert done.exit_code == 0, done.output
    assert "one less two" in done.stdout and "+0.04" in done.stdout and "all external (2)" in done.stdout
    assert "training.rounds: 3 | 4" in done.stdout and "too wide" in done.stdout
    body = json.loads(CliRunner().invoke(app, ["compare", str(one), str(two), "--format", "json"]).stdout)
    assert len(body["sites"]) == 2 and body["differs"]["training.rounds"] == [3, 4]
