"""``fl-server evaluate``: what it writes, and what it refuses before any hospital is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from fl_server.checkpoint import RunDirectory
from fl_server.cli import app
from fl_server.events import Event
from fl_server.launch import INITIAL, STUDY
from fl_server.progress import describe
from fl_server.promotion.judging import prepare_judging
from fl_server.promotion.source import read_source
from fl_server.rounds import run_study
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.judged import travelling
from fl_shared.model_bundle import write_bundle
from fl_shared.model_card import describe as card_of
from fl_shared.study import load_study
from fl_shared.wire import digest


@pytest.fixture
def run(make_study, make_fleet, initial, tmp_path):
    """Makes a finished run."""

    def make(name: str, **changes: Any) -> Path:
        study = make_study(name=name, **changes)
        directory = RunDirectory(tmp_path / "runs" / name)
        directory.path.mkdir(parents=True)
        (directory.path / STUDY).write_text(study.model_dump_json(by_alias=True))
        run_study(study=study, fleet=make_fleet(study), run=directory, initial=initial, log=lambda _: None)
        return directory.path

    return make


def evaluate(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["evaluate", *map(str, words), "--format", "json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(code: ExitCode, *words: object) -> str:
    with pytest.raises(ConsiliumError) as caught:
        evaluate(*words)
    assert caught.value.code is code
    return str(caught.value)


def test_it_writes_the_study_that_sites_approve(run, tmp_path):
    one, two, path = run("one"), run("two", training={"rounds": 4}), tmp_path / "eval.toml"
    told = evaluate("--model", one, "--against", two, "--sites", "wuhan, xian", "--write", path)
    study = load_study(path)
    assert (told["hash"], told["sites"], told["warnings"]) == (study.identity, ["wuhan", "xian"], [])
    assert study.external_sites == ("wuhan", "xian") and study.name == "one_judged"
    first, second = read_source(one), read_source(two)
    assert study.judged.arrays == digest(first.finished.arrays)
    assert study.judged.against.arrays == digest(second.finished.arrays)
    folder = prepare_judging(path, first, against=second, runs=tmp_path / "runs")
    sent = load_file(folder / INITIAL)
    assert digest(sent) == digest(travelling(first.finished.arrays, second.finished.arrays))
    with pytest.raises(ConsiliumError, match="not the arrays that study 'one_judged' judges"):
        prepare_judging(path, second, against=first, runs=tmp_path / "runs")
    assert "exists already" in refused(ExitCode.USAGE, "--model", one, "--sites", "xian", "--write", path)


def test_what_cannot_be_is_said_before_anybody_is_asked(run, tmp_path):
    one, path = run("one"), tmp_path / "eval.toml"
    assert "either --sites and --write" in refused(ExitCode.USAGE, "--model", one)
    assert "name at least one site" in refused(ExitCode.USAGE, "--model", one, "--write", path)
    assert "it trained this model" in refused(ExitCode.STUDY, "--model", one, "--sites", "chur", "--write", path)
    (tmp_path / "empty").mkdir()
    assert "no results.json" in refused(
        ExitCode.CHECKPOINT, "--model", tmp_path / "empty", "--sites", "x", "--write", path
    )
    other = run("other", tasks={"mace": {"type": "binary", "weight": 2.0}})
    words = ("--model", one, "--against", other, "--sites", "xian", "--write", path)
    assert "predict different things" in refused(ExitCode.STUDY, *words)
    assert not path.exists()
    path.write_text((one / STUDY).read_text())  # no TOML at all
    assert "not valid TOML" in refused(ExitCode.STUDY, path, "--model", one, "--home", tmp_path / "home")


def test_a_study_that_judges_is_not_run_with_an_untrained_model(run, make_fleet, initial, tmp_path):
    evaluate("--model", run("one"), "--sites", "xian", "--write", tmp_path / "eval.toml")
    study = load_study(tmp_path / "eval.toml")
    directory = RunDirectory(tmp_path / "runs" / study.name)
    fleet = make_fleet(study)
    with pytest.raises(ConsiliumError, match="fl-server evaluate FILE --model RUN"):
        run_study(study=study, fleet=fleet, run=directory, initial=initial, log=lambda _: None)
    assert fleet.asked == [] and not any(directory.rounds.glob("round_*"))


def test_no_site_is_lost_without_the_quorum(run, make_fleet, tmp_path):
    source = read_source(run("one"))
    evaluate("--model", tmp_path / "runs" / "one", "--sites", "xian,wuhan", "--write", tmp_path / "eval.toml")
    body = (tmp_path / "eval.toml").read_text().replace("quorum = 1", "quorum = 2")
    (tmp_path / "eval.toml").write_text(body)
    study, events = load_study(tmp_path / "eval.toml"), []
    directory = RunDirectory(tmp_path / "runs" / study.name)
    arrays = {name: np.array(array) for name, array in source.finished.arrays.items()}

    def go(faults: dict[Any, Any]) -> Any:
        fleet = make_fleet(study, faults)
        return run_study(study=study, fleet=fleet, run=directory, initial=arrays, log=events.append)

    with pytest.raises(ConsiliumError) as caught:
        go({("xian", "hello", 0): "not-connected"})
    assert caught.value.code is ExitCode.UNREACHABLE and "1 judging site(s)" in str(caught.value)
    with pytest.raises(ConsiliumError) as caught:
        go({("xian", "evaluate", 0): "no-reply"})
    assert caught.value.code is ExitCode.ROUND_FAILED
    results = go({})
    assert {row.site for row in results.evaluation} == {
        "xian",
        "wuhan",
    } and results.study.judged == source.finished.identity
    assert {event.status for event in events if event.kind == "phase"} == {"hello", "evaluate"}
    (started,) = [describe(event) for event in events if event.kind == "run_started"][:1]
    assert started == "2 sites judge a finished model"
    assert describe(Event(kind="run_started", rounds=3, sites={"a": "train"})).startswith("1 sites, 0 of 3")


def test_an_unsigned_bundle_is_warned_of(run, tmp_path):
    source = read_source(run("one"))
    model = source.finished
    card = card_of(study=model.study, results=source.results, arrays=model.arrays, round=source.round)
    folder = tmp_path / "bundle"
    write_bundle(
        folder, canonical=source.canonical, arrays=model.arrays, card=card, results=source.results, private=None
    )
    words = ("--model", folder, "--sites", "xian", "--write", tmp_path / "eval.toml")
    assert "say whom you trust" in refused(ExitCode.USAGE, *words)
    (warning,) = evaluate(*words, "--unsigned")["warnings"]
    assert warning.startswith("UNSIGNED MODEL")
    assert load_study(tmp_path / "eval.toml").judged.study == model.identity
