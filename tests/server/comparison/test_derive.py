"""The cells of a comparison, their studies, what privacy refuses and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl_server import cli
from fl_server.comparison.derive import derive
from fl_shared.commands import run
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.written import write_model

EHR = {"kind": "table", "fields": ["age", "sex"]}
HEAD = 'schema = 1\nname = "grid"\nstudy = "study.toml"\n'


@pytest.fixture
def written(make_study, tmp_path: Path):
    def write(text: str, **changes) -> Path:
        study = make_study(**({"modalities": {"ehr": EHR}, "training": {"encoders": "shared"}} | changes))
        write_model(tmp_path / "study.toml", study, header="test")
        path = tmp_path / "grid.toml"
        path.write_text(HEAD + text, encoding="utf-8")
        return path

    return write


def test_every_variant_in_every_mode_with_every_seed(written) -> None:
    grid = derive(
        written('seeds = [3, 4]\nmodes = ["local", "pooled", "federated", "epsilon_2.5"]\n'
                "[private]\ntraining = {batch = 20}\n[variants.wide]\nstudy = {model = {width = 16}}\n"
                "private = {privacy = {clip = 0.5}}\n[variants.ecg]\nonly = ['ecg']\n")
    )  # fmt: skip
    assert len(grid.cells) == 16 and {len(c.studies) for c in grid.cells if c.mode == "local"} == {3}
    names = [one.study.name for cell in grid.cells for one in cell.studies]
    assert len(set(names)) == len(names) == 2 * 2 * (3 + 3) and max(map(len, names)) <= 48
    cells = {(c.variant, c.mode, c.seed): c for c in grid.cells}
    local = {one.arm: one.study for one in cells["wide", "local", 3].studies}
    assert local.keys() == {"aarau", "basel", "chur"} and local["basel"].train_sites == ("basel",)
    assert local["basel"].external_sites == ("davos",) and local["basel"].rounds.quorum == 1
    (pooled,) = cells["wide", "pooled", 4].studies
    assert pooled.pools == {"pooled": ("aarau", "basel", "chur")} and pooled.study.seed == 4
    assert pooled.study.sites["pooled"].patients == 650 and pooled.study.training.batch == 30
    assert pooled.study.sites["aarau"].judged == "held_out" and pooled.study.sites["davos"].judged == "all"
    (private,) = cells["wide", "epsilon_2.5", 3].studies
    plan = private.study.privacy
    assert (plan.mode, plan.epsilon, plan.clip, private.study.training.batch) == ("patient", 2.5, 0.5, 20)
    (plain,) = cells["wide", "federated", 3].studies
    assert plain.study.privacy.mode == "none" and plain.study.training.batch == 10 and plain.study.model.width == 16
    (ecg,) = cells["ecg", "federated", 3].studies
    assert list(ecg.study.modalities) == ["ecg"]
    assert grid.variants["wide"].parameters > 0 and grid.variants["wide"].native


def test_studies_have_the_same_names_again_and_others_when_changed(written) -> None:
    text = "[variants.wide]\nstudy = {{model = {{width = {}}}}}\n"
    first, again, other = (derive(written(text.format(width))).cells[0].studies[0].study for width in (16, 16, 32))
    assert first.identity == again.identity and first.name != other.name


def test_axes_are_crossed(written) -> None:
    axes = "[axes.size.small]\n[axes.size.wide]\nstudy = {model = {width = 16}}\n[axes.inputs.both]\n"
    grid = derive(written(axes + "[axes.inputs.ehr]\nonly = ['ehr']\n"))
    assert [cell.variant for cell in grid.cells] == ["small.both", "small.ehr", "wide.both", "wide.ehr"]
    assert [list(c.studies[0].study.modalities) for c in grid.cells[2:]] == [["ecg", "ehr"], ["ehr"]]
    assert grid.cells[3].studies[0].study.model.width == 16


def test_all_faults_at_once_named_by_variant(written) -> None:
    text = "[variants.a]\nstudy = {model = {fusion = 'nonsense'}}\n[variants.b]\nonly = ['ekg']\n[variants.c]\n"
    with pytest.raises(ConsiliumError) as refused:
        derive(written(text + "private = {privacy = {delta = 0.009}}\nstudy = {training = {batch = 0}}\n"))
    told = [str(fault) for fault in refused.value.faults]
    assert refused.value.code == ExitCode.STUDY and len(told) == 3
    assert "nonsense" in told[0] and "(variant a)" in told[0]
    assert "Did you mean 'ecg'?" in told[1] and "(variant b)" in told[1]
    assert "training.batch" in told[2] and "(variant c)" in told[2]


def test_an_encoder_that_there_is_not_is_a_fault_of_its_variant(written) -> None:
    with pytest.raises(ConsiliumError, match="variant odd") as refused:
        derive(written("[variants.plain]\n[variants.odd]\nstudy = {modalities = {ecg = {encoder = 'ecg_resnett'}}}\n"))
    assert refused.value.code == ExitCode.STUDY and "ecg_resnet" in refused.value.faults[0].mend


COX = "study = {tasks = {mace = {type = 'survival', survival_model = 'cox'}}}\n"


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        (COX, "the Cox loss of task 'mace' couples patients"),
        ("study = {model = {system = 'lemof'}, training = {rounds = 8}}\n", "a release of its own"),
        ("private = {training = {finetune = 3}}\n", "fine-tuning after the last round is not noised"),
        ("private = {training = {batch = 300}, privacy = {delta = 1e-12}}\n", "no sigma reaches epsilon 1e-09"),
    ],
)
def test_what_privacy_refuses_is_a_cell_with_its_reason(written, variant: str, reason: str) -> None:
    grid = derive(written(f"modes = ['federated', 'epsilon_0.000000001']\n[variants.one]\n{variant}"))
    plain, private = grid.cells
    assert plain.studies and not plain.refused
    assert not private.studies and reason in private.refused


def test_a_mistake_under_privacy_is_no_refusal(written) -> None:
    """A delta that allows to publish a patient whole is wrong, not refused."""
    with pytest.raises(ConsiliumError, match=r"privacy\.delta") as wrong:
        derive(written("modes = ['epsilon_8']\n[variants.one]\nprivate = {privacy = {delta = 0.009}}\n"))
    assert wrong.value.code == ExitCode.STUDY


def test_plan_shows_cells_and_runs_nothing(written, capsys, monkeypatch, tmp_path: Path) -> None:
    path = written(f"modes = ['federated', 'epsilon_8']\n[variants.plain]\n[variants.cox]\n{COX}")
    words = ["fl-server", "compare-systems", str(path), "--plan", "--runs", str(tmp_path / "runs"), "--format", "json"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as done:
        run(cli.app)
    assert not done.value.code
    body = json.loads(capsys.readouterr().out)
    assert body["studies"] == 3 and [bool(cell["refused"]) for cell in body["cells"]] == [False, False, False, True]
    assert not (tmp_path / "runs").exists()
