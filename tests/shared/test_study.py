from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.systems import SYSTEMS, opened
from fl_shared.site import load_site
from fl_shared.study import PARTS, EvaluationPlan, Study, is_held_out, load_study

STUDY = """
schema = 1
name = "x"
seed = 1
[sites.a]
role = "train"
patients = 40
[sites.b]
role = "external"
[tasks.mi]
type = "binary"
[modalities.ehr]
kind = "table"
fields = ["age"]
[training]
rounds = 2
steps = 3
batch = 4
[privacy]
mode = "none"
[rounds]
quorum = 1
[evaluation]
salt = "12345678"
"""
BINARY = {"type": "binary"}
TABLE = {"kind": "table", "fields": ["age"]}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_every_fault_at_once_with_its_mend(tmp_path: Path) -> None:
    text = STUDY.replace('fields = ["age"]', 'fields = ["age"]\nfeilds = 1').replace(
        "steps = 3", "stepps = 3\nbatch2 = 1"
    )
    with pytest.raises(ConsiliumError) as caught:
        load_study(write(tmp_path / "study.toml", text))
    assert caught.value.code == ExitCode.STUDY
    found = {fault.key: fault for fault in caught.value.faults}
    assert "Did you mean 'fields'?" in found["modalities.ehr.feilds"].mend
    assert "Did you mean 'steps'?" in found["training.stepps"].mend
    assert found["training.steps"].problem == "missing"
    assert "training.batch2" in found


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("quorum = 1", "quorum = 2", "exceeds the 1 training sites"),
        ('mode = "none"', 'mode = "patient"', "needs 'epsilon'"),
        ('mode = "none"', 'mode = "none"\nepsilon = 3.0', "has no epsilon"),
        ("patients = 40", "", "declares no patients"),
        ('type = "binary"', 'type = "multilabel"', "at least two labels"),
        ("batch = 4", 'batch = 4\nlearning_rate = "fast"', "valid number"),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(ConsiliumError, match=says):
        load_study(write(tmp_path / "study.toml", STUDY.replace(old, new)))


def test_identity_is_stable_and_sees_every_change(tmp_path: Path) -> None:
    study = load_study(write(tmp_path / "study.toml", STUDY))
    path = str(tmp_path / "study.toml")
    code = f"import pathlib, fl_shared.study as s; print(s.load_study(pathlib.Path({path!r})).identity)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    assert study.identity == other
    changes = [("seed = 1", "seed = 2"), ("patients = 40", "patients = 41"), ("12345678", "12345679"), ('"x"', '"y"')]
    identities = {load_study(write(tmp_path / "o.toml", STUDY.replace(*change))).identity for change in changes}
    assert len(identities | {study.identity}) == 5
    assert load_study(write(tmp_path / "o.toml", STUDY + "\n# a comment\n")).identity == study.identity


def test_held_out_patients_depend_on_the_salt_alone() -> None:
    plan = EvaluationPlan(salt="one salt", holdout=0.2)
    chosen = [is_held_out(str(i), site="a", plan=plan) for i in range(5000)]
    assert abs(sum(chosen) / 5000 - 0.2) < 0.02
    other = EvaluationPlan(salt="two salt", holdout=0.2)
    assert chosen != [is_held_out(str(i), site="a", plan=other) for i in range(5000)]


def test_missing_paths_and_unknown_keys_of_a_site(tmp_path: Path) -> None:
    with pytest.raises(ConsiliumError) as caught:
        load_site(write(tmp_path / "site.toml", 'schema = 1\nname = "a"\nsampels = "x.csv"\ntimezone = "Mars/Base"\n'))
    assert {fault.key for fault in caught.value.faults} == {"sampels", "timezone"}
    assert caught.value.code == ExitCode.SITE
    with pytest.raises(ConsiliumError) as caught:
        load_site(
            write(tmp_path / "site.toml", 'schema = 1\nname = "a"\nsamples = "none.csv"\n[weights]\nbert = "no"\n')
        )
    assert {fault.key for fault in caught.value.faults} == {"samples", "weights.bert"}


# --- systems fill in what is left open


def raw(**changes: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {**tomllib.loads(STUDY)}
    for key, value in changes.items():
        made[key] = {**made.get(key, {}), **value}
    return made


def test_a_study_without_model_and_phases_still_loads() -> None:
    study = Study.model_validate(raw())
    assert (study.model.system, study.model.fusion, study.model.width) == ("attention", "self_attention", 64)
    assert study.modalities["ehr"].encoder == "ehr_mlp"
    (phase,) = study.training.phases
    assert (phase.rounds, phase.objective, phase.trains, phase.patients) == (2, "tasks", PARTS, "all")


@pytest.mark.parametrize(
    ("system", "width", "paper", "events"),
    [
        ("attention", 64, 256, "events_cnn"),
        ("m_prtm", 32, 256, "events_cnn"),
        ("medm2t", 32, 512, "sparse_series"),
        ("tte_alignment", 32, 256, "events_cnn"),
        ("medfuse", 32, 256, "events_lstm"),
        ("lemof", 32, 128, "events_cnn"),
        ("baselines", 32, 256, "events_cnn"),
    ],
)
def test_a_system_gives_what_is_not_written_and_nothing_else(system: str, width: int, paper: int, events: str) -> None:
    series = {"series": {"kind": "events", "fields": ["sbp"], "hours": 48.0}}

    def made(**model: Any) -> Study:
        return Study.model_validate(
            raw(model={"system": system, **model}, modalities=series, training={"rounds": 10}, tasks={"t": BINARY})
        )

    small, published, own = made(), made(preset="paper"), made(preset="paper", width=paper * 2, dropout=0.33)
    assert (small.model.width, published.model.width) == (width, paper)
    assert (own.model.width, own.model.dropout, own.model.heads) == (paper * 2, 0.33, published.model.heads)
    assert small.modalities["series"].encoder == events
    assert small.model.fusion == SYSTEMS[system].fusions[0]
    assert len({small.identity, published.identity, own.identity}) == 3


def test_rounds_go_to_phases_by_share_and_each_has_one() -> None:
    def rounds(total: int) -> list[int]:
        body = raw(model={"system": "lemof"}, training={"rounds": total}, modalities={"two": TABLE})
        return [phase.rounds for phase in Study.model_validate(body).training.phases]

    assert rounds(5) == [1, 1, 1, 1, 1]
    assert rounds(25) == [9, 3, 1, 7, 5]  # 20 free ones, by 4 : 1 : 0 : 3 : 2
    assert all(sum(rounds(total)) == total for total in range(5, 60))


def test_rounds_and_their_phases() -> None:
    phases = [{"name": name, "rounds": n} for name, n in (("a", 2), ("b", 1), ("c", 3))]
    study = Study.model_validate(raw(training={"rounds": 6, "phases": phases}))
    found = [(study.phase(k).name, study.phase_round(k)) for k in range(1, 8)]
    assert found == [("a", 1), ("a", 2), ("b", 1), ("c", 1), ("c", 2), ("c", 3), ("c", 4)]


CHANGES: dict[str, dict[str, Any]] = {
    "modalities": {"ehr": {"kind": "table", "fields": ["age"], "leaky": True}},
    "tasks": {"mi": {"type": "binary", "weight": 2.0}},
    "model": {"width": 32},
    "training": {"phases": [{"name": "p", "rounds": 2}]},
    "privacy": {"clip": 2.0},
    "rounds": {"max_norm": 10.0},
    "evaluation": {"bootstrap": 200},
}
FIELDS = [
    ("training", key, value)
    for key, value in {
        "encoders": "shared", "final_encoders": "initial", "proximal": 0.1, "local": ["norms"], "finetune": 2,
        "strategy": "fedadam", "optimizer": "sgd", "weight_decay": 0.1,
    }.items()
] + [
    ("model", key, value)
    for key, value in {
        "system": "m_prtm", "preset": "paper", "depth": 2, "heads": 8, "dropout": 0.3, "modality_dropout": 0.3,
        "head": "mlp", "missing": "zeros", "guide": "ehr", "shares": {"ehr": 1.0}, "levels": {"ehr": 1}, "lora_rank": 4,
    }.items()
]  # fmt: skip


@pytest.mark.parametrize(("table", "key", "value"), [*FIELDS, *((t, "", v) for t, v in CHANGES.items())])
def test_identity_changes_with_every_setting(table: str, key: str, value: Any) -> None:
    other = Study.model_validate(raw(**{table: {key: value} if key else value}))
    assert other.identity != Study.model_validate(raw()).identity


def test_identity_changes_with_every_setting_of_a_phase() -> None:
    def identity(**phase: Any) -> str:
        plan = {"name": "p", "rounds": 2, **phase}
        return Study.model_validate(raw(training={"phases": [plan]})).identity

    others = [{"name": "q"}, {"objective": "unimodal"}, {"trains": ["fusion", "heads"]}, {"patients": "fit"}]
    assert len({identity(), identity(learning_rate=0.1), *(identity(**other) for other in others)}) == 6


MODALITIES = {
    "ehr": {"kind": "table", "fields": ["age"]},
    "cine": {"kind": "cine"},
    "ecg": {"kind": "waveform", "leads": ["I"], "rate": 50.0, "seconds": 2.0},
    "text": {"kind": "text", "weights": "bert", "weights_sha256": "0" * 64},
    "series": {"kind": "events", "fields": ["sbp"], "hours": 48.0, "encoder": "events_cnn"},
}
OWN = st.fixed_dictionaries(
    {"system": st.sampled_from(sorted(SYSTEMS))},
    optional={
        "preset": st.sampled_from(["small", "paper"]),
        "width": st.sampled_from([64, 128, 256, 512]),
        "depth": st.integers(1, 3),
        "dropout": st.sampled_from([0.0, 0.1, 0.2]),
        "head": st.sampled_from(["linear", "mlp"]),
    },
)


@settings(max_examples=150, deadline=None)
@given(
    model=OWN,
    fusion=st.integers(0, 3) | st.none(),
    names=st.sets(st.sampled_from(sorted(MODALITIES)), min_size=1),
    fixed=st.booleans(),
    drawn=st.booleans(),
    rounds=st.integers(5, 40),
    by_hand=st.booleans(),
)
def test_opening_is_the_inverse_of_resolving(
    model: dict[str, Any], fusion: int | None, names: set[str], fixed: bool, drawn: bool, rounds: int, by_hand: bool
) -> None:
    """What a person would write gives the same study; nothing that it leaves out is missed, and twice is once."""
    fusions = SYSTEMS[model["system"]].fusions
    body = raw(training={"rounds": rounds})
    body["model"] = model | ({} if fusion is None else {"fusion": fusions[fusion % len(fusions)]})
    body["modalities"] = {name: MODALITIES[name] for name in names}
    if fixed:
        body["model"]["levels"] = dict.fromkeys(names, 1)
    if drawn and "cine" in names and model["system"] in ("attention", "m_prtm"):
        body["tasks"] = {**body["tasks"], "scar": {"type": "segmentation", "labels": ["scar"], "modality": "cine"}}
    if by_hand:
        trains = ["encoders", "fusion", "heads"]
        body["training"]["phases"] = [{"name": "mine", "rounds": rounds, "trains": trains}]
    study = Study.model_validate(body)
    dumped = study.model_dump(mode="json", by_alias=True)
    bare = opened(dumped)
    assert Study.model_validate(bare).identity == study.identity
    assert Study.model_validate(dumped).identity == study.identity
    again = Study.model_validate(bare).model_dump(mode="json", by_alias=True)
    assert opened(again) == bare
    assert ("phases" in bare["training"]) == (by_hand and dumped["training"] != defaults(body)["training"])


def defaults(body: dict[str, Any]) -> dict[str, Any]:
    free = {**body, "training": {k: v for k, v in body["training"].items() if k != "phases"}}
    return Study.model_validate(free).model_dump(mode="json", by_alias=True)


def test_the_order_of_modalities_in_a_file_means_nothing() -> None:
    """Sites read the sorted text: what depends on the first one would differ from the coordinator's."""
    body = raw(model={"system": "tte_alignment", "fusion": "co_attention"})
    studies = []
    for names in (["ehr", "cine", "ecg"], ["cine", "ecg", "ehr"]):
        body["modalities"] = {name: MODALITIES[name] for name in names}
        studies.append(Study.model_validate(body))
    read = Study.model_validate(json.loads(studies[0].canonical())["study"])
    assert {study.identity for study in (*studies, read)} == {read.identity}
    assert [list(study.modalities) for study in (*studies, read)] == [["cine", "ecg", "ehr"]] * 3


# --- what is allowed and seldom wise


def test_warnings() -> None:
    def said(**training: Any) -> str:
        return " ".join(Study.model_validate(raw(training=training)).warnings())

    assert "encoders of ehr start at random and drift apart" in said(encoders="local")
    assert "stay as they were drawn" in said(encoders="frozen") and "stay as they were drawn" in said(
        encoders="adapters"
    )
    assert said(encoders="shared") == said(encoders="shared", local=["heads"]) == ""
    assert "heads that nobody trained" in said(encoders="shared", local=["heads"], final_encoders="initial")


@pytest.mark.parametrize("provenance", [None, "local", "public", "disjoint", "dp"])
def test_provenance_decides_over_privacy(provenance: str | None) -> None:
    ehr = {**TABLE, "weights": "w", "weights_sha256": "0" * 64, "provenance": provenance}
    body = raw(modalities={"ehr": ehr}, privacy={"mode": "patient", "epsilon": 8.0})
    if provenance in (None, "local"):
        with pytest.raises(ValueError, match=r"encoders.ehr: pretrained"):
            Study.model_validate(body)
    else:
        assert Study.model_validate(body)
    assert Study.model_validate(raw(modalities={"ehr": ehr}))


# --- what is shared, what is a site's own


@pytest.mark.parametrize(
    ("training", "shared", "local"),
    [
        ({"encoders": "frozen"}, "fusion.w heads.mi.w heads.mi@ehr.w adapters.ehr.w", ""),
        (
            {"encoders": "local"},
            "fusion.w heads.mi.w heads.mi@ehr.w",
            "encoders.ehr.w encoders.ehr.norm1.w adapters.ehr.w",
        ),
        (
            {"encoders": "shared", "local": ["norms", "heads"]},
            "fusion.w adapters.ehr.w encoders.ehr.w",
            "heads.mi.w heads.mi@ehr.w encoders.ehr.norm1.w",
        ),
        ({"encoders": "frozen", "local": ["norms"]}, "fusion.w heads.mi.w heads.mi@ehr.w adapters.ehr.w", ""),
        (
            {"encoders": "adapters", "local": ["heads"]},
            "fusion.w adapters.ehr.w encoders.ehr.q.lora_A.default.weight",
            "heads.mi.w heads.mi@ehr.w",
        ),
    ],
)
def test_every_array_is_shared_or_local_or_never_changes(training: dict[str, Any], shared: str, local: str) -> None:
    study = Study.model_validate(raw(training=training))
    names = ["fusion.w", "heads.mi.w", "heads.mi@ehr.w", "adapters.ehr.w", "encoders.ehr.w", "encoders.ehr.norm1.w"]
    names += ["encoders.ehr.q.lora_A.default.weight"] if training["encoders"] == "adapters" else []
    assert {name for name in names if study.is_shared(name)} == set(shared.split())
    assert {name for name in names if study.is_local(name)} == set(local.split())
