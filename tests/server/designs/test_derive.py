"""The studies of a design: names, roles, hashes, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl_server import cli
from fl_server.designs import Design
from fl_server.designs.derive import parse_seeds, plan_design
from fl_server.designs.files import only_simulated, write_studies
from fl_server.designs.table import costs
from fl_shared.accounting import epsilon
from fl_shared.budget import budget
from fl_shared.commands import run
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.study import load_study
from fl_shared.written import write_model

OUTSIDE = {"davos": {"role": "external", "patients": 50}}


@pytest.fixture
def written(make_study, tmp_path: Path):
    def write(**changes) -> Path:
        path = tmp_path / "study.toml"
        write_model(path, make_study(**changes), header="test")
        return path

    return write


def test_every_site_is_left_out_once(written) -> None:
    path = written(sites=OUTSIDE)
    plan = plan_design(path, Design.LOSO)
    names = ["aarau", "basel", "chur", "davos"]
    assert [derived.arm for derived in plan.studies] == names and plan.name == "toy_loso"
    for derived in plan.studies:
        assert derived.study.name == f"toy_loso_{derived.arm}"
        assert derived.study.external_sites == (derived.arm,)
        assert derived.study.train_sites == tuple(name for name in names if name != derived.arm)
        assert derived.study.rounds.quorum == 2 and derived.study.seed == 7
    declared = {name: plan.patients for name, plan in plan.studies[0].study.sites.items()}
    assert declared == {"aarau": 0, "basel": 300, "chur": 250, "davos": 50}
    hashes = {derived.study.identity for derived in plan.studies}
    assert len(hashes | {plan.parent.identity}) == 5


def test_nothing_but_roles_and_name_differs(written) -> None:
    plan = plan_design(written(sites=OUTSIDE), Design.LOSO)
    parent = plan.parent.model_dump(exclude={"name", "sites"})
    assert all(derived.study.model_dump(exclude={"name", "sites"}) == parent for derived in plan.studies)


def test_files_hold_the_very_studies(written, tmp_path: Path) -> None:
    plan = plan_design(written(sites=OUTSIDE), Design.LOSO)
    files = write_studies(plan, tmp_path / "new")
    assert {arm: load_study(path).identity for arm, path in files.items()} == {
        derived.arm: derived.study.identity for derived in plan.studies
    }
    assert write_studies(plan, tmp_path / "new") == files  # once more: the same
    other = plan_design(written(sites=OUTSIDE, seed=8), Design.LOSO)
    with pytest.raises(ConsiliumError, match="another study") as refused:
        write_studies(other, tmp_path / "new")
    assert refused.value.code == ExitCode.USAGE


def test_all_faults_at_once(written) -> None:
    """davos declares no patients, so the three studies in which it would train cannot be; nor can a quorum of 4."""
    path = written()
    path.write_text(path.read_text().replace("quorum = 2", "quorum = 3"))
    body = plan_design(path, Design.SEEDS, seeds=(1, 2))
    assert len(body.studies) == 2  # three training sites: a quorum of 3 is reached
    text = path.read_text() + '[sites.emden]\nrole = "external"\n'
    path.write_text(text.replace("quorum = 3", "quorum = 5"))
    with pytest.raises(ConsiliumError) as refused:
        plan_design(path, Design.LOSO)
    assert refused.value.code == ExitCode.STUDY  # the study itself is refused first
    path.write_text(text)
    with pytest.raises(ConsiliumError) as refused:
        plan_design(path, Design.LOSO)
    keys = [fault.key for fault in refused.value.faults]
    assert keys == ["sites.davos.patients", "sites.emden.patients"]
    first = str(refused.value.faults[0])
    assert "toy_loso_aarau" in first and "toy_loso_emden" in first and "toy_loso_davos" not in first
    assert "Add 'patients = N'" in first


def test_a_quorum_of_all_sites_is_too_high(written) -> None:
    path = written(rounds={"quorum": 3})
    path.write_text(path.read_text().replace('[sites.davos]\nrole = "external"\n', ""))
    with pytest.raises(ConsiliumError) as refused:
        plan_design(path, Design.LOSO)
    (fault,) = refused.value.faults
    assert (fault.key, fault.value) == ("rounds.quorum", "3") and "exceeds the 2 training sites" in fault.problem


def test_one_site_cannot_be_left_out(written, make_study, tmp_path: Path) -> None:
    one = make_study(rounds={"quorum": 1}).model_dump(mode="json", by_alias=True, exclude_unset=True)
    for name in ("basel", "chur", "davos"):
        del one["sites"][name]
    path = tmp_path / "one.toml"
    write_model(path, type(make_study()).model_validate(one), header="")
    for design, said in ((Design.LOSO, "nobody is left to train"), (Design.SIDES, "alone is the federation")):
        with pytest.raises(ConsiliumError, match=said):
            plan_design(path, design)


def test_seeds(written) -> None:
    path = written()
    plan = plan_design(path, Design.SEEDS, seeds=parse_seeds("1,2,30", Design.SEEDS))
    assert [(d.arm, d.study.name, d.study.seed) for d in plan.studies] == [
        ("seed_1", "toy_seed_1", 1),
        ("seed_2", "toy_seed_2", 2),
        ("seed_30", "toy_seed_30", 30),
    ]
    for wrong in ("", "1", "1,1,2"):
        with pytest.raises(ConsiliumError) as refused:
            plan_design(path, Design.SEEDS, seeds=parse_seeds(wrong, Design.SEEDS))
        assert {fault.key for fault in refused.value.faults} == {"seed"}
    with pytest.raises(ConsiliumError, match="whole numbers"):
        parse_seeds("1;2", Design.SEEDS)
    for other in (None, Design.LOSO):
        with pytest.raises(ConsiliumError, match="belongs to --design seeds"):
            parse_seeds("1,2", other)


def test_sides_judge_the_same_patients(written) -> None:
    plan = plan_design(written(), Design.SIDES)
    studies = {derived.arm: derived.study for derived in plan.studies}
    assert list(studies) == ["federated", "alone_aarau", "alone_basel", "alone_chur", "pooled"]
    assert studies["federated"].identity == plan.parent.identity
    alone = studies["alone_basel"]
    assert alone.train_sites == ("basel",) and alone.rounds.quorum == 1
    assert {name: site.judged for name, site in alone.sites.items() if site.role == "external"} == {
        "aarau": "held_out",
        "chur": "held_out",
        "davos": "all",
    }
    together = studies["pooled"]
    assert together.sites["pooled"].patients == 650 and together.training.batch == 30
    assert plan.studies[-1].pools == {"pooled": ("aarau", "basel", "chur")}
    with pytest.raises(ConsiliumError, match="patients leave no hospital") as refused:
        only_simulated(plan)
    assert refused.value.code == ExitCode.USAGE
    with pytest.raises(ConsiliumError, match="Rename the site"):
        plan_design(written(sites={"pooled": {"role": "external"}}), Design.SIDES)


def test_a_long_name_stays_one(written) -> None:
    plan = plan_design(written(name="a" * 48, sites=OUTSIDE), Design.LOSO)
    assert [len(derived.study.name) for derived in plan.studies] == [48] * 4
    assert len({derived.study.name for derived in plan.studies}) == 4


def test_what_all_studies_cost_is_composed(written) -> None:
    """A site trains in two of three studies: dearer than one, cheaper than twice one."""
    private = {"privacy": {"mode": "patient", "epsilon": 4.0}, "sites": OUTSIDE}
    plan = plan_design(written(**private), Design.LOSO)
    study = plan.studies[0].study
    spent, one = costs(plan), budget(study, "basel", delta=study.privacy.delta).training
    assert one is not None and spent["basel"] == pytest.approx(epsilon([one] * 3, delta=1e-5))
    assert 4.0 < spent["basel"] < 12.0
    assert costs(plan_design(written(), Design.SEEDS, seeds=(1, 2))) == {}


def test_the_command_shows_and_writes(written, tmp_path: Path, monkeypatch, capsys) -> None:
    def invoke(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr("sys.argv", ["fl-server", *arguments])
        with pytest.raises(SystemExit) as done:
            run(cli.app)
        told = capsys.readouterr()
        return done.value.code, told.out + told.err

    path, out = str(written(sites=OUTSIDE)), tmp_path / "new"
    code, text = invoke("design", path, "--design", "loso", "--write", str(out), "--format", "json")
    body = json.loads(text)
    assert code == 0 and len(body["studies"]) == 4
    assert all(load_study(Path(study["file"])).identity == study["hash"] for study in body["studies"])
    code, text = invoke("design", path, "--design", "seeds", "--seeds", "1,2")
    assert code == 0 and "toy_seed_2" in text
    code, text = invoke("run", path, "--design", "sides")
    assert code == ExitCode.USAGE and "patients leave no hospital" in text
    code, text = invoke("run", path, "--design", "loso", "--home", str(tmp_path / "nowhere"))
    assert code == ExitCode.UNREACHABLE and not (tmp_path / "runs").exists()
