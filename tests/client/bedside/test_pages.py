"""Pages of patients at a hospital that never joined: content, files, errors. Nothing leaves."""

from __future__ import annotations

import csv
import json
import re
import shutil
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fl_client.bedside import predict as pages
from fl_client.bedside.page import percent
from fl_client.cli import app
from fl_shared.audit import AuditLog
from fl_shared.errors import ConsiliumError, ExitCode

HERE = "gamma"


def run(made, *arguments: str, trust: bool = True) -> dict:
    given = ["--sites-dir", str(made.folder), "--site", HERE, "predict", "--model", str(made.bundle), *arguments]
    given += ["--trust", str(made.key)] if trust else []
    done = CliRunner().invoke(app, [*given, "--format", "json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def page_of(body: dict, number: int = 0) -> str:
    return (Path(body["folder"]) / body["patients"][number]["page"]).read_text()


def test_the_page_of_a_patient_with_all_inputs(made):
    body = run(made, "--patient", made.whole)
    page = page_of(body)
    for said in (
        "SYNTHETIC DATA", "NOT A MEDICAL DEVICE", "FOR THIS HOSPITAL ONLY", f"Patient {made.whole}",
        "Follow-up suggestion", "by day 30", "by day 365", "Exact Shapley values",
        "integrated gradients against a flat", "Grad-CAM", "drawn by the model", "took no part",
        "Not observed:</strong> Corrected QT interval",
        "length of stay", "No interval can be given",
    ):  # fmt: skip
        assert said in page, said
    assert "SYNTHETIC. Admission note." in re.sub("<[^>]*>", "", page)
    assert "TRAINED ON THIS PATIENT" not in page and "UNSIGNED" not in page and "missing, and what" not in page
    assert page.count('class="strip"') == 12 and page.count("data:image/png") == 3
    assert "index.html" not in page  # there is none


def test_every_number_of_the_page_is_in_the_json(made):
    body = run(made, "--patient", made.whole)
    (told,) = body["patients"]
    assert [n["title"] for n in told["numbers"]] == [
        "survival, event by day 30", "survival, event by day 365", "death", "follow up, routine", "follow up, clinic",
        "follow up, device", "length of stay",
        "death by cause, cardiac, by day 180", "death by cause, other, by day 180",
    ]  # fmt: skip
    death = next(n for n in told["numbers"] if n["title"] == "death")
    group = death["similar"]["together"]
    assert set(group["sites"]) <= {"north", "south"} and group["patients"] == 20 * len(group["sites"])
    assert 0 < group["low"] < group["share"] < group["high"] < 1
    shown = f"{percent(group['share'])} ({percent(group['low'])} to {percent(group['high'])})"
    assert shown in re.sub(r"\s+", " ", page_of(body))
    assert next(n for n in told["numbers"] if n["kind"] == "value")["similar"] is None
    assert told["timeline"][0]["windows"][1]["risk"] == told["numbers"][1]["value"]
    (lane,) = [lane for lane in told["timeline"] if lane["title"] == "survival, event"]
    group = lane["windows"][1]["same_band"]["together"]
    assert group["patients"] == 40 and f"{percent(group['share'])} ({percent(group['low'])}" in page_of(body)
    assert lane["windows"][0]["same_band"] is None  # no hospital tells day 30


def test_the_page_of_a_patient_with_half_of_them_missing(made):
    body = run(made, "--patient", made.half)
    (told,), page = body["patients"], page_of(body)
    assert told["present"] == ["ecg", "ehr"]
    assert {m["modality"]: m["why"].split(" (")[0] for m in told["missing"]} == {
        "cine": "set aside: file-missing", "text": "none in this record",
    }  # fmt: skip
    assert [item["check"] for item in told["aside"]] == ["file-missing"]
    assert "✕ cine missing" in page and "✕ text missing" in page and page.count("data:image/png") == 0
    main = next(n for n in told["numbers"] if n["title"] == told["main"])
    assert set(main["contributions"]) == {"ecg", "ehr"}


def test_what_missing_inputs_cost_is_read_from_the_bundle(made, monkeypatch):
    body = run(made, "--patient", made.half)
    assert "is <strong>not known</strong>" in page_of(body)  # the main task is survival: nobody told it without
    monkeypatch.setattr(pages, "told_of", _asking_for_death(pages.told_of, monkeypatch))
    told = run(made, "--patient", made.half)["patients"][0]
    (cost,) = told["costs"]["hospitals"]
    assert (cost["site"], cost["missing"], cost["whole"]["value"], cost["without"]["value"]) == (
        "south", ["cine", "text"], 0.81, 0.74,
    )  # fmt: skip
    death = next(n for n in told["numbers"] if n["title"] == "death")
    assert death["similar"] is None or death["similar"]["inputs"] == ["ecg", "ehr"]


def _asking_for_death(told_of, monkeypatch):
    from fl_client.bedside import told as module
    from fl_client.bedside.targets import Target

    monkeypatch.setattr(module, "main_target", lambda study: Target(task="death", label="", kind="risk"))
    return told_of


def test_no_file_is_open_to_others_and_the_log_names_nobody(made):
    body = run(made, "--all")
    folder, state = Path(body["folder"]), made.site().state_dir
    assert folder.is_relative_to(state / "bedside")
    for path in (*folder.rglob("*"), folder, folder.parent, state):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    log = AuditLog(state / "audit.jsonl")
    (row,) = [row for row in log.rows() if row["action"] == "predict"]
    assert log.verify() is None and row["pages"] == len(body["patients"]) and row["signed"] is True
    text = (state / "audit.jsonl").read_text()
    assert not any(told["patient"] in text for told in body["patients"])
    assert {path.name for path in state.iterdir()} <= {"audit.jsonl", "bedside", "cache"}  # no outbox, no release


def test_all_patients_in_three_tables(made):
    body = run(made, "--all")
    folder = Path(body["folder"])
    assert json.loads((folder / "predictions.json").read_text()) == body
    told = [each["patient"] for each in body["patients"]]
    assert made.whole in told and made.half in told and made.empty not in told
    (without,) = body["without"]
    assert without["patient"] == made.empty and "record: no-modality" in without["why"][0]
    with (folder / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["patient"] for row in rows] == told
    death = [next(n["value"] for n in each["numbers"] if n["title"] == "death") for each in body["patients"]]
    assert [float(row["death"]) for row in rows] == pytest.approx(death, rel=1e-5)
    main = [next(n["value"] for n in each["numbers"] if n["title"] == each["main"]) for each in body["patients"]]
    assert main == sorted(main, reverse=True)
    index = (folder / "index.html").read_text()
    assert all(f'href="{each["page"]}"' in index for each in body["patients"])
    assert "Without a number" in index and "file-missing" in index and "index.html" in page_of(body)


def test_one_patient_and_all_tell_the_same(made):
    whole = next(p for p in run(made, "--all")["patients"] if p["patient"] == made.whole)
    alone = run(made, "--patient", made.whole)["patients"][0]
    for a, b in zip(whole["numbers"], alone["numbers"], strict=True):
        assert a["value"] == pytest.approx(b["value"], abs=1e-6)


def test_of_several_records_the_latest_is_told(made, change_rows):
    patient = "twice"

    def change(rows):
        row = next(row for row in rows if row["patient_id"] == made.whole) | {"patient_id": patient}
        rows.append(row | {"sample_id": "z-early", "index_time": "2019-01-01T10:00:00"})
        rows.append(row | {"sample_id": "a-late", "index_time": "2021-01-01T10:00:00"})

    change_rows(change)
    (told,) = run(made, "--patient", patient)["patients"]
    assert told["sample"] == "a-late" and [r["sample"] for r in told["other_records"]] == ["z-early"]


def test_a_patient_without_any_input_gets_no_number(made):
    with pytest.raises(ConsiliumError, match="no input that can be read") as caught:
        run(made, "--patient", made.empty)
    assert caught.value.code == ExitCode.DATA
    assert [fault.problem for fault in caught.value.faults] == ["no-modality"]


def test_unknown_patients_are_told_their_nearest(made):
    with pytest.raises(ConsiliumError, match=f"Did you mean '{made.whole}'") as caught:
        run(made, "--patient", f"{made.whole}x")
    assert caught.value.code == ExitCode.USAGE
    with pytest.raises(ConsiliumError, match=r"It names \d+ patients"):
        run(made, "--patient", "nobody at all")


def test_a_damaged_bundle_is_refused(made):
    path = made.bundle / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ConsiliumError, match="does not verify") as caught:
        run(made, "--patient", made.whole)
    assert caught.value.code == ExitCode.CHECKPOINT


def test_another_concept_file_is_refused(made, monkeypatch):
    monkeypatch.setattr("fl_shared.concepts.digest", lambda: "0" * 64)
    with pytest.raises(ConsiliumError, match="concept file"):
        run(made, "--patient", made.whole)


def test_whom_to_trust_must_be_said(made):
    with pytest.raises(ConsiliumError, match="say whom you trust"):
        run(made, "--patient", made.whole, trust=False)
    (made.bundle / "SIGNATURE").unlink()
    body = run(made, "--patient", made.whole, "--unsigned", trust=False)
    assert "UNSIGNED MODEL" in page_of(body) and body["model"]["signer"] is None


def test_a_site_that_maps_nothing_of_the_model(made):
    _replace(made, {"[modalities.": "[modalities.other_"})
    with pytest.raises(ConsiliumError, match="cannot give this model what it reads: 4") as caught:
        run(made, "--patient", made.whole)
    assert caught.value.code == ExitCode.SITE


def test_a_modality_of_another_kind(made):
    _replace(made, {"[modalities.cine]": "[modalities.other]", "[modalities.ehr]": "[modalities.cine]"})
    with pytest.raises(ConsiliumError, match="the model reads 'cine'"):
        run(made, "--patient", made.whole)


def test_a_modality_that_the_site_does_not_map_is_missing_in_everybody(made):
    _replace(made, {"[modalities.text": "[modalities.note"})
    body = run(made, "--patient", made.whole)
    assert body["model"]["not_mapped_here"] == ["text"]
    assert "this hospital does not provide it" in page_of(body)


def test_no_outcome_is_needed(made, change_rows):
    """A hospital of today knows none: without tasks and label columns the numbers are the same."""
    before = run(made, "--patient", made.whole)["patients"][0]["numbers"]
    path = made.folder / HERE / "site.toml"
    kept = [part for part in re.split(r"\n(?=\[)", path.read_text()) if not part.startswith("[tasks")]
    path.write_text("\n".join(kept))
    change_rows(lambda rows: [row.update(death="", death_days="", follow_up="") for row in rows])
    assert run(made, "--patient", made.whole)["patients"][0]["numbers"] == before


def test_a_patient_that_was_trained_on_is_said(made, drawn):
    """The hospital is one of the study's training sites, and its draw held this patient in."""
    opened = made.opened()
    study = opened.bundle.study
    sites = {HERE: study.sites["north"], **study.sites}
    for holdout, trained in ((0.001, True), (0.999, False)):
        evaluation = study.evaluation.model_copy(update={"holdout": holdout})
        changed = study.model_copy(update={"sites": sites, "evaluation": evaluation})
        bundle = opened.bundle.__class__(**{**vars(opened.bundle), "study": changed})
        here = opened.__class__(**{**vars(opened), "bundle": bundle})
        register = pages.Register.of(made.site())
        ward = pages.ward_of(made.site(), here, register, frozenset({made.whole}))
        assert ward.told(made.whole)[0]["trained_on"] is trained


@pytest.mark.parametrize("patient", ["../../etc/passwd", "a/b", ".", "名", "<script>"])
def test_page_names_stay_in_their_folder_and_apart(patient):
    assert re.fullmatch(r"[A-Za-z0-9_-]+-[0-9a-f]{8}\.html", pages.page_name(patient))
    assert pages.page_name("a/b") != pages.page_name("a_b")


def test_an_id_cannot_become_markup(made, change_rows):
    change_rows(lambda rows: rows[0].update(patient_id="<img src=x>"))
    page = page_of(run(made, "--patient", "<img src=x>"))
    assert "<img src=x>" not in page and "&lt;img src=x&gt;" in page


def test_a_folder_of_ones_own(made, tmp_path):
    body = run(made, "--patient", made.whole, "--out", str(tmp_path / "mine"))
    (path,) = (tmp_path / "mine").iterdir()
    assert path.name == body["patients"][0]["page"] and stat.S_IMODE(path.stat().st_mode) == 0o600
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "mine").write_text("a file")
    with pytest.raises(ConsiliumError, match="no folder can be made"):
        run(made, "--patient", made.whole, "--out", str(tmp_path / "mine" / "deeper"))


def _replace(made, words: dict[str, str]) -> None:
    path = made.folder / HERE / "site.toml"
    text = path.read_text()
    for old, new in words.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
