"""Everything registered with ``dp`` gives exact gradients of single patients, on the product's own clipping.

What is registered without is refused, by the study or by the self-test before training, and says why.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from acceptance import Case, cases, phases
from opacus.validators import ModuleValidator
from pydantic import ValidationError
from random_rows import random_rows
from single_patients import gradients_of_single_rows

from fl_client.privacy import clipping
from fl_client.privacy.clipping import GhostClipper
from fl_shared.errors import ConsiliumError
from fl_shared.models.build import build_model
from fl_shared.models.model import CHOOSE, MASKED
from fl_shared.models.registry import DECODERS, ENCODERS, FUSIONS, HEADS
from fl_shared.models.systems import SYSTEMS
from fl_shared.study import Study


def refusal(study: Study) -> str:
    return SYSTEMS[study.model.system].refuses(study)


every_case = pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
claimed = pytest.mark.parametrize(
    "case", [case for case in cases() if case.dp and not refusal(case.study)], ids=lambda case: case.name
)


@claimed
def test_clipped_sums_are_those_of_a_loop_over_single_patients(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "MARGIN", 0.0)  # float64 needs none
    study, model = case.quiet(mode="patient")
    batch = random_rows(study, 2 * len(study.modalities) + 4, dtype=torch.float64)
    for round, phase in phases(study):
        if phase.objective in (CHOOSE, MASKED):  # what is hidden is drawn anew for every pass: see the next test
            continue
        model.enter(round)
        model.train()
        assert ModuleValidator.validate(model) == []
        gradients = gradients_of_single_rows(model, batch)
        norms = torch.stack([torch.stack([g.norm() for g in row.values()]).norm() for row in gradients])
        clip = float(norms[norms > 0].median())  # half of the rows are clipped; one without a label has no gradient
        clipper = GhostClipper(model)
        found = clipper.clipped_sum(batch, clip=clip, micro_batch=64)
        clipper.close()
        for name, total in found.items():
            shares = (clip / norms.clamp(min=clip)).tolist()
            expected = torch.stack([row[name] * share for row, share in zip(gradients, shares, strict=True)]).sum(0)
            torch.testing.assert_close(
                total, expected, rtol=1e-8, atol=1e-12 + 1e-10 * clip, msg=f"{phase.name} {name}"
            )


@claimed
def test_the_product_s_own_test_passes_with_dropout(case: Case) -> None:
    study = case.plan(mode="patient")
    model, batch = build_model(study), random_rows(study, 4)
    for round, phase in phases(study):
        if phase.objective != CHOOSE:
            model.enter(round)
            clipper = GhostClipper(model)
            clipper.self_test(batch)
            clipper.close()


@every_case
def test_what_does_not_claim_it_is_refused(case: Case) -> None:
    if reason := refusal(case.study):
        with pytest.raises(ValidationError, match=reason):
            case.plan(mode="patient")
    elif not case.dp:
        with pytest.raises((ValidationError, ConsiliumError), match="patient"):
            study = case.plan(mode="patient")
            GhostClipper(build_model(study)).self_test(random_rows(study, 8))
    else:
        assert case.plan(mode="patient").privacy.mode == "patient"


def test_what_does_not_claim_it_says_why() -> None:
    silent = [
        entry.name
        for registry in (ENCODERS, FUSIONS, HEADS, DECODERS)
        for entry in registry
        if not entry.dp and "privacy" not in (inspect.getmodule(entry.build).__doc__ or "")
    ]
    assert silent == []
    assert refusal(next(case.study for case in cases() if case.study.model.fusion == "contrastive"))  # so some are
