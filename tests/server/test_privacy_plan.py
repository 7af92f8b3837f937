"""``fl-server privacy plan``: sigma, epsilon and noise against signal, before anything runs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from dp_accounting import dp_event, pld, rdp
from typer.testing import CliRunner

from fl_client.payment import Payments
from fl_server.cli import app
from fl_server.privacy_plan import bare, planned
from fl_shared.budget import budget
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model
from fl_shared.site import Site, load_site
from fl_shared.study import Study
from fl_shared.wire import Request
from fl_shared.written import write_model

BY_NUMBERS = ("--patients", "136", "--batch", "16", "--steps", "20", "--rounds", "30")


def run(*options: str) -> Result:
    return CliRunner().invoke(app, ["privacy", "plan", *options])


def told(*options: str) -> Any:
    done = run(*options, "--format", "json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def code(*options: str) -> ExitCode:
    found = run(*options).exception
    assert isinstance(found, ConsiliumError)
    return found.code


def library(q: float, sigma: float, steps: int, books: Any) -> float:
    books.compose(dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(sigma)), steps)
    return float(books.get_epsilon(1e-5))


@pytest.fixture
def study_file(make_study: Callable[..., Study], tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        plan = {
            "sites": {n: {"role": "train", "patients": p} for n, p in (("aarau", 136), ("basel", 3000), ("chur", 900))},
            "training": {"rounds": 4, "steps": 5, "batch": 34, "encoders": "shared"},
            "privacy": {"mode": "patient", "epsilon": 8.0},
            "rounds": {"quorum": 2, "max_norm": None},
        }
        for key, value in changes.items():
            plan[key] = {**plan.get(key, {}), **value}
        write_model(tmp_path / "study.toml", make_study(**plan), header="")
        return tmp_path / "study.toml"

    return write


def test_numbers_alone() -> None:
    found = told("--epsilon", "8", *BY_NUMBERS)
    (site,) = found["sites"]
    assert (site["q"], found["asked"]) == (16 / 136, 8.0)
    assert 7.99 < library(16 / 136, site["sigma"], 600, rdp.RdpAccountant()) <= 8.0 + 1e-6
    assert site["pld"] == pytest.approx(library(16 / 136, site["sigma"], 600, pld.PLDAccountant()), rel=2e-3)
    assert site["pld"] < site["epsilon"] <= 8.0
    rounds = {int(number): spent for number, spent in site["rounds"].items()}
    assert sorted(rounds)[0] == 1 and sorted(rounds)[-1] == 30 and list(rounds.values()) == sorted(rounds.values())
    assert rounds[30] == site["epsilon"]
    assert rounds[1] == pytest.approx(library(16 / 136, site["sigma"], 20, rdp.RdpAccountant()), rel=2e-2)


def test_a_sigma_gives_the_same_epsilon_back() -> None:
    planned_sigma = told("--epsilon", "3", *BY_NUMBERS)["sites"][0]
    back = told("--sigma", str(planned_sigma["sigma"]), *BY_NUMBERS)
    assert back["sites"][0]["epsilon"] == planned_sigma["epsilon"] and back["asked"] is None


def test_136_patients_is_little_and_it_says_what_helps() -> None:
    done = run("--epsilon", "8", *BY_NUMBERS)
    text = " ".join(done.stdout.split())
    assert "136 patients is little for epsilon 8" in text
    assert "Freeze encoders" in text and "distribute the noise" in text
    assert "little" not in run("--epsilon", "8", *BY_NUMBERS[2:], "--patients", "50000").stdout


def test_a_study_is_planned_as_its_sites_will_pay(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file()
    found = told(str(path))
    (tmp_path / "samples.csv").write_text("patient_id,sample_id,index_time\n")
    study = Study.model_validate(_body(path))
    for site in found["sites"]:
        folder = tmp_path / site["site"]
        folder.mkdir()
        (folder / "samples.csv").write_text("patient_id,sample_id,index_time\n")
        (folder / "site.toml").write_text(f'schema = 1\nname = "{site["site"]}"\n')
        assert site["sigma"] == _paid(load_site(folder), study)
    assert [site["site"] for site in found["sites"]] == ["aarau", "basel", "chur"]


def _paid(site: Site, study: Study) -> float:
    request = Request(kind="train", study=study.identity, round=1, base="b" * 64)
    return Payments(site).reserve(request, study, {})[1]


def _body(path: Path) -> Any:
    from fl_shared.study import load_study

    return load_study(path).model_dump(mode="json", by_alias=True)


def test_noise_against_signal(study_file: Callable[..., Path]) -> None:
    path = study_file()
    found = told(str(path))
    model = build_model(Study.model_validate(_body(path)))
    noised = sum(parameter.numel() for parameter in model.parameters())
    encoders = sum(p.numel() for name, p in model.named_parameters() if name.startswith("encoders."))
    assert found["size"] == {"noised": noised, "without_encoders": noised - encoders} and encoders > 0
    site = found["sites"][0]
    assert site["ratio"] == pytest.approx(site["sigma"] * math.sqrt(noised) / 34)
    assert site["in_all"] == pytest.approx(site["ratio"] / math.sqrt(20))
    words = "\n".join(found["words"])
    assert "aarau: 136 patients is little for epsilon 8; a step's noise is" in words
    less = math.sqrt(noised / (noised - encoders))
    assert f"{noised - encoders:,} noised parameters instead of {noised:,}, {less:.2g} times less noise" in words
    frozen = told(str(study_file(training={"encoders": "frozen"})))
    assert frozen["size"]["noised"] == noised - encoders
    assert "Freeze" not in "\n".join(frozen["words"]) and "frozen already" in "\n".join(frozen["words"])


def test_distributed_noise_in_the_mean_of_the_sites(study_file: Callable[..., Path]) -> None:
    """Noise of a mean weighted by declared patients, by hand: each site's own, or what any three of them need."""
    found = told(str(study_file()))
    reach = [site["patients"] / 34 * site["sigma"] for site in found["sites"]]
    scale = math.sqrt(found["size"]["noised"]) / sum(site["patients"] for site in found["sites"])
    assert found["pooled"]["local"] == pytest.approx(math.sqrt(sum(r * r for r in reach)) * scale)
    quorum, squares = 3, sorted((r * r for r in reach), reverse=True)
    level = squares[len(squares) // quorum] / quorum if len(squares) > quorum - 1 else 0.0
    parts = [max(level, square - (quorum - 1) * level) for square in squares]
    assert found["pooled"]["distributed"] == pytest.approx(math.sqrt(sum(parts)) * scale)
    assert "Distribute the noise" in "\n".join(found["words"])


def test_the_parts_of_the_budget(study_file: Callable[..., Path]) -> None:
    parts = {
        "statistics": {"tasks": ["mace"], "epsilon": 1.0},
        "evaluation": {"recalibrate": True, "recalibrate_epsilon": 0.5, "epsilon": 2.0},
    }
    found, plain = told(str(study_file(**parts))), told(str(study_file()))
    assert set(found["parts"]) == {"statistics", "recalibration", "evaluation"}
    assert found["parts"]["statistics"]["epsilon"] == pytest.approx(1.0, abs=2e-3)
    assert found["parts"]["recalibration"]["epsilon"] == pytest.approx(0.5, abs=2e-3)
    for site, without in zip(found["sites"], plain["sites"], strict=True):
        assert 0.99 * 8 < site["epsilon"] <= 8.0 and site["sigma"] > without["sigma"]
        assert max(site["rounds"].values()) < site["epsilon"]  # the intercept is refitted after the last round
    text = run(str(study_file(**parts))).stdout
    assert re.search(r"statistics: sigma \d+\.\d+, epsilon (1\.0|0\.99)\d+ by itself", text)


def test_options_change_the_study(study_file: Callable[..., Path]) -> None:
    path = study_file()
    found = told(
        str(path),
        *["--epsilon", "2", "--delta", "1e-6", "--patients", "500", "--batch", "20", "--steps", "2", "--rounds", "6"],
    )
    assert (found["delta"], found["asked"]) == (1e-6, 2.0)
    assert {(site["patients"], site["q"]) for site in found["sites"]} == {(500, 0.04)}
    direct = bare(patients=500, batch=20, steps=2, rounds=6, delta=1e-6, target=2.0, sigma=None)
    assert found["sites"][0]["sigma"] == direct.sites[0].sigma
    open_ = study_file(privacy={"mode": "none", "epsilon": None})
    assert code(str(open_)) is ExitCode.USAGE
    assert told(str(open_), "--epsilon", "8")["sites"][0]["sigma"] == told(str(study_file()))["sites"][0]["sigma"]
    assert told(str(open_), "--sigma", "1")["sites"][0]["sigma"] == 1.0


def test_a_whole_site_is_one_unit(make_study: Callable[..., Study]) -> None:
    study = make_study(
        training={"encoders": "shared", "rounds": 3, "steps": 4},
        privacy={"mode": "site", "epsilon": 8.0},
        rounds={"quorum": 2, "max_norm": None},
    )
    found = planned(study, size=None)
    event = budget(study, "aarau", delta=1e-5).training
    assert event is not None and (event.q, event.steps) == (1.0, 3)
    assert found.unit == "site" and {site.q for site in found.sites} == {1.0}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--epsilon", "8"), ExitCode.USAGE),
        (("--patients", "100", "--batch", "5", "--steps", "2", "--rounds", "3"), ExitCode.USAGE),
        (("--epsilon", "8", "--sigma", "1", *BY_NUMBERS), ExitCode.USAGE),
        (("--epsilon", "0", *BY_NUMBERS), ExitCode.PRIVACY),
    ],
)
def test_what_cannot_be_planned(options: tuple[str, ...], expected: ExitCode) -> None:
    assert code(*options) is expected


def test_faults_of_the_study_come_first(study_file: Callable[..., Path]) -> None:
    path = study_file()
    path.write_text(path.read_text().replace("quorum", "quorom"))
    assert code(str(path)) is ExitCode.STUDY
    assert code(str(study_file()), "--delta", "0.009") is ExitCode.STUDY  # not below one over 3,000 patients
