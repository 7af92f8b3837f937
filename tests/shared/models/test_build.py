"""Names, bits and arrays of a study's model."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model, groups, load, select
from fl_shared.models.registry import ENCODERS, FUSIONS, HEADS
from fl_shared.study import Study
from fl_shared.weights import directory_digest
from fl_shared.wire import digest

Plan = dict[str, object]


def under(*parts: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(tuple(f"{part}." for part in parts))


def test_groups_cover_every_array_once(study: Study) -> None:
    model = build_model(study)
    found = groups(model)
    # width 16: the table and byte encoders are as wide as the fusion and need no adapter
    encoders = {f"encoders.{name}" for name in ("cine", "ecg", "ehr", "series", "text")}
    assert set(found) == encoders | {"adapters.cine", "adapters.ecg", "adapters.series", "fusion", "heads"}
    assert sorted(n for names in found.values() for n in names) == sorted(model.state_dict())
    assert all(n.startswith(f"{group}.") for group, names in found.items() for n in names)


def test_same_study_same_bits_in_another_process(study: Study, tmp_path: Path) -> None:
    here = digest(select(build_model(study)))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert digest(select(build_model(study))) == here
    assert torch.equal(torch.get_rng_state(), before)
    (tmp_path / "study.json").write_text(study.model_dump_json(by_alias=True))
    code = (
        "import sys, torch; from pathlib import Path; from fl_shared.study import Study;"
        "from fl_shared.wire import digest;"
        "from fl_shared.models.build import build_model, select; torch.randn(7);"
        "m = build_model(Study.model_validate_json(Path(sys.argv[1]).read_text()));"
        "print(digest(select(m)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "study.json")], capture_output=True, check=True)
    assert done.stdout.decode().strip() == here
    other = build_model(study.model_copy(update={"seed": 8}))
    assert digest(select(other)) != here


def test_a_group_starts_alike_whatever_else_the_study_holds(plan: Plan) -> None:
    with_text = build_model(Study.model_validate(plan))
    without = copy.deepcopy(plan)
    del without["modalities"]["text"]  # type: ignore[attr-defined]
    other = build_model(Study.model_validate(without))
    assert digest(select(with_text, under("encoders.ecg"))) == digest(select(other, under("encoders.ecg")))


def test_select_and_load_go_round(study: Study) -> None:
    source, target = build_model(study), build_model(study.model_copy(update={"seed": 9}))
    before = select(target, under("encoders"))
    load(target, select(source, under("fusion", "heads")))
    assert digest(select(target, under("fusion", "heads"))) == digest(select(source, under("fusion", "heads")))
    assert digest(select(target, under("encoders"))) == digest(before)
    assert set(select(source, under("encoders.ec"))) == set()
    taken = select(source, under("heads"))
    source.heads["death"].linear.weight.data.zero_()  # type: ignore[union-attr]
    assert np.any(taken["heads.death.linear.weight"] != 0)


def test_load_is_strict_and_all_or_nothing(study: Study) -> None:
    model = build_model(study)
    right = select(model, under("heads"))
    name = "heads.death.linear.weight"
    for wrong in (
        {**right, "heads.other": right[name]},
        {**right, name: right[name].T},
        {**right, name: right[name].astype(np.float64)},
    ):
        zeros = {k: np.zeros_like(v) if k != name else v for k, v in wrong.items()}
        with pytest.raises(ValueError, match="do not fit"):
            load(model, zeros)
        assert digest(select(model, under("heads"))) == digest(right)


def test_unknown_names_name_the_nearest(plan: Plan) -> None:
    plan["model"] = {"system": "atention", "width": 16}
    with pytest.raises(ValueError, match="Did you mean 'attention'"):
        Study.model_validate(plan)
    plan["model"] = {"width": 16}
    modalities = copy.deepcopy(plan["modalities"])
    assert isinstance(modalities, dict)
    modalities["ecg"]["encoder"] = "ehr_mlp"
    with pytest.raises(ConsiliumError, match=r"modalities.ecg.encoder = ehr_mlp: no encoder .* 'waveform'") as caught:
        build_model(Study.model_validate({**plan, "modalities": modalities}))
    assert caught.value.code == ExitCode.STUDY


def test_reserved_names_are_refused(plan: Plan) -> None:
    plan["tasks"] = {"values": {"type": "binary"}}
    with pytest.raises(ConsiliumError, match=r"tasks.values: this name is reserved"):
        build_model(Study.model_validate(plan))


def test_every_entry_says_what_it_is() -> None:
    entries = [e for registry in (ENCODERS, FUSIONS, HEADS) for e in registry]
    assert {e.name for e in entries} >= {"ecg_resnet", "ehr_mlp", "text_bert", "self_attention", "binary", "multilabel"}
    assert all(e.source for e in entries)
    with pytest.raises(ValueError, match="twice"):
        HEADS.register("binary", source="again")(next(iter(HEADS)).build)


def test_pretrained_weights_of_a_bundle(plan: Plan, tmp_path: Path) -> None:
    donor = build_model(Study.model_validate({**plan, "seed": 99}))
    save_file(donor.encoders["ecg"].state_dict(), tmp_path / "model.safetensors")
    right = directory_digest(tmp_path)
    modalities = copy.deepcopy(plan["modalities"])
    assert isinstance(modalities, dict)
    modalities["ecg"] |= {"weights": "bundle", "weights_sha256": right}
    study = Study.model_validate({**plan, "modalities": modalities})
    model = build_model(study, weights={"bundle": tmp_path})
    assert digest(select(model, under("encoders.ecg"))) == digest(select(donor, under("encoders.ecg")))
    with pytest.raises(ConsiliumError, match="the study needs these weights"):
        build_model(study)
    modalities["ecg"]["weights_sha256"] = "0" * 64
    with pytest.raises(ConsiliumError, match="differs from what the study pinned"):
        build_model(Study.model_validate({**plan, "modalities": modalities}), weights={"bundle": tmp_path})
    modalities["ehr"] |= {"weights": "bundle", "weights_sha256": right}
    modalities["ecg"]["weights_sha256"] = right
    with pytest.raises(ConsiliumError, match="does not fit"):
        build_model(Study.model_validate({**plan, "modalities": modalities}), weights={"bundle": tmp_path})
