"""A model bundle: whatever is changed in it is found, and nobody but the key's holder can make one."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.model_bundle import CONTENT, SUMS, is_bundle, read_bundle, trusted, write_bundle
from fl_shared.model_card import Card, describe, trained_identity
from fl_shared.model_signature import ensure_signing_key, fingerprint
from fl_shared.results import PrivacyResult, Results, StudyResult
from fl_shared.study import Study
from fl_shared.wire import digest

ARRAYS = {
    "fusion.weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
    "heads.mace.steps": np.array([3], dtype=np.int64),
}


def study_of(**changes) -> Study:
    plan = {
        "schema": 1,
        "name": "toy",
        "seed": 7,
        "synthetic": True,
        "sites": {"aarau": {"role": "train", "patients": 100}, "davos": {"role": "external"}},
        "tasks": {"mace": {"type": "binary"}},
        "modalities": {"ecg": {"kind": "waveform", "leads": ["I"], "rate": 100, "seconds": 10}},
        "training": {"rounds": 3, "steps": 1, "batch": 10},
        "privacy": {"mode": "patient", "epsilon": 8.0},
        "rounds": {"quorum": 1},
        "evaluation": {"salt": "saltsalt"},
    }
    return Study.model_validate(plan | changes)


def results_of(study: Study, identity: str) -> Results:
    return Results(
        schema=1,
        study=StudyResult(
            name=study.name,
            hash=identity,
            system="attention",
            synthetic=True,
            tasks={"mace": ("",)},
            types={"mace": "binary"},
            headline={"mace": ("",)},
            modalities=("ecg",),
            leaky=(),
            package="0.1",
        ),
        privacy=PrivacyResult(mode="patient", delta=1e-5, epsilon_budget=8.0, epsilon_spent={"aarau": 6.5}),
        sites={},
        rounds=(),
        notes=("a limit",),
    )


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    """A signed bundle, and the key to trust."""
    private, public = ensure_signing_key(tmp_path / "keys")
    make(tmp_path / "bundle", private)
    return tmp_path / "bundle", public


def make(folder: Path, private: Path | None) -> None:
    study = study_of()
    written = study.model_dump(mode="json", by_alias=True)
    identity, canonical = trained_identity(written, package="0.1")
    results = results_of(study, identity)
    card = describe(study=study, results=results, arrays=ARRAYS, round=3)
    write_bundle(folder, canonical=canonical, arrays=ARRAYS, card=card, results=results, private=private)


def refused(folder: Path, trust: Path | None) -> str:
    with pytest.raises(ConsiliumError) as caught:
        read_bundle(folder, trust=trust)
    assert caught.value.code is ExitCode.CHECKPOINT and caught.value.faults
    return str(caught.value)


def test_a_bundle_is_read_as_it_was_written(made):
    folder, public = made
    found = read_bundle(folder, trust=public)
    assert is_bundle(folder) and found.signer == fingerprint(public) and found.unsigned == ""
    assert digest(found.arrays) == digest(ARRAYS) == found.card.arrays
    assert found.study == study_of() and found.results.notes == found.card.limits == ("a limit",)
    assert found.card.training_sites == {"aarau": 100} and found.card.external_sites == ("davos",)
    assert "SYNTHETIC" in found.card.intended_use and "epsilon 6.5" in found.card.privacy_claim
    lines = (folder / SUMS).read_text().splitlines()  # as sha256sum -c reads them
    assert [line.split("  ")[1] for line in lines] == sorted(CONTENT)
    for line in lines:
        digits, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digits


def test_the_identity_is_the_study_s_own_under_todays_package():
    from importlib.metadata import version

    study = study_of()
    written = study.model_dump(mode="json", by_alias=True)
    assert trained_identity(written, package=version("consilium")) == (study.identity, study.canonical())


@pytest.mark.parametrize("name", [*CONTENT, SUMS, "SIGNATURE"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 0.999])
def test_a_changed_byte_of_any_file_is_found(made, name, place):
    folder, public = made
    content = bytearray((folder / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 0x01
    (folder / name).write_bytes(bytes(content))
    told = refused(folder, public)
    assert name in told or "SIGNATURE" in told


@pytest.mark.parametrize("name", [*CONTENT, SUMS, "SIGNATURE"])
def test_a_missing_shortened_or_linked_file_is_found(made, name):
    folder, public = made
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-7])
    assert name in refused(folder, public)
    (folder / name).unlink()
    assert name in refused(folder, public) or name == "SIGNATURE"
    elsewhere = folder.parent / "elsewhere"
    elsewhere.write_bytes(content)
    (folder / name).symlink_to(elsewhere)
    assert f"{name}: (file): no file of a bundle" in refused(folder, public)


def test_what_does_not_belong_there_is_found(made):
    folder, public = made
    (folder / "model.pkl").write_bytes(b"\x80\x04.")
    assert "model.pkl" in refused(folder, public)
    assert "model.pkl" in refused(folder, None)


def rewritten(folder: Path, name: str, content: bytes) -> None:
    """Change a file, and make its checksum true again: what an attacker without the key can do."""
    (folder / name).write_bytes(content)
    sums = "".join(f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in sorted(CONTENT))
    (folder / SUMS).write_text(sums)


def test_a_file_changed_with_its_checksum_fails_the_signature(made):
    folder, public = made
    card = json.loads((folder / "card.json").read_text())
    rewritten(folder, "card.json", json.dumps(card | {"privacy_claim": "perfect"}).encode())
    assert "signature is not of these files" in refused(folder, public)
    assert read_bundle(folder, trust=None).card.privacy_claim == "perfect"  # nobody was to vouch for it


def test_parts_of_other_models_do_not_pass_even_unsigned(made):
    from safetensors.numpy import save

    folder, _ = made
    rewritten(folder, "model.safetensors", save({**ARRAYS, "fusion.weight": ARRAYS["fusion.weight"] + 1}))
    assert "not the arrays that the card names" in refused(folder, None)
    rewritten(folder, "study.json", (folder / "study.json").read_bytes().replace(b'"seed":7', b'"seed":8'))
    told = refused(folder, None)  # every fault at once
    assert "not the arrays that the card names" in told and "not the study that the card names" in told


@pytest.mark.parametrize(
    "bad", [np.array([np.nan, 1, 2, 3, 4, 5], np.float32), np.arange(6, dtype=np.float64), np.zeros(6, np.float16)]
)
def test_arrays_of_other_types_or_not_finite_are_refused(made, bad):
    from safetensors.numpy import save

    folder, _ = made
    rewritten(folder, "model.safetensors", save({**ARRAYS, "fusion.weight": bad.reshape(2, 3)}))
    assert "model.safetensors" in refused(folder, None)


def test_a_pickle_in_place_of_the_arrays_is_not_loaded(made):
    folder, _ = made
    rewritten(folder, "model.safetensors", b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.")
    assert "unreadable" in refused(folder, None)


def test_another_key_and_no_signature_are_refused(made, tmp_path):
    folder, public = made
    other, other_public = ensure_signing_key(tmp_path / "other")
    told = refused(folder, other_public)
    assert fingerprint(other_public) in told and fingerprint(public) in told  # whose it is, and who is trusted
    make(tmp_path / "unsigned", None)
    assert "it is not signed" in refused(tmp_path / "unsigned", public)
    found = read_bundle(tmp_path / "unsigned", trust=None)
    assert found.signer is None and "UNSIGNED" in found.unsigned
    forged = (folder / "SIGNATURE").read_text().replace(fingerprint(public), fingerprint(other_public))
    (folder / "SIGNATURE").write_text(forged)  # a name is no signature
    assert "signature is not of these files" in refused(folder, other_public)
    assert other != public


def test_a_card_of_another_concept_file_is_refused(made):
    folder, _ = made
    card = json.loads((folder / "card.json").read_text())
    rewritten(folder, "card.json", json.dumps(card | {"concepts": "0" * 64}).encode())
    assert "concept file" in refused(folder, None)


def test_trust_is_asked_for(tmp_path):
    with pytest.raises(ConsiliumError) as caught:
        trusted(None, unsigned=False)
    assert caught.value.code is ExitCode.USAGE
    with pytest.raises(ConsiliumError):
        trusted(tmp_path / "key.pub", unsigned=True)
    assert trusted(None, unsigned=True) is None and trusted(tmp_path / "k", unsigned=False) == tmp_path / "k"
    (tmp_path / "k").write_text("no key")
    with pytest.raises(ConsiliumError, match="not a public key"):
        fingerprint(tmp_path / "k")


def test_an_existing_folder_is_never_replaced_and_a_key_never_made_anew(made, tmp_path):
    folder, public = made
    with pytest.raises(ConsiliumError, match="exists already"):
        make(folder, None)
    before = public.read_bytes()
    private, again = ensure_signing_key(tmp_path / "keys")
    assert again.read_bytes() == before and private.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"[0-9a-f]{64}", fingerprint(public))


def test_no_privacy_is_said():
    study = study_of()
    written = study.model_dump(mode="json", by_alias=True)
    results = results_of(study, trained_identity(written, package="0.1")[0])
    privacy = PrivacyResult(mode="none", delta=1e-5, epsilon_budget=None, epsilon_spent={})
    card = describe(study=study, results=results.model_copy(update={"privacy": privacy}), arrays=ARRAYS, round=3)
    assert card.privacy_claim.startswith("None:") and Card.model_validate_json(card.model_dump_json(by_alias=True))
