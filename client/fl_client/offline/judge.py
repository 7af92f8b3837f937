"""A hospital judges a model bundle on its own patients, in the form in which results may be shown to others."""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path

from fl_client.approval import audit_log, fits, user
from fl_client.egress import Egress, EgressRefusedError
from fl_client.files import private_dir, write_private
from fl_client.training.actors import LocalPool
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.judged import Finished, judging_study
from fl_shared.model_bundle import ModelBundle
from fl_shared.results import Results, SiteResult
from fl_shared.site import Site
from fl_shared.study import Study

FOLDER = "evaluations"  # of the site's state


def judge_offline(site: Site, bundle: ModelBundle, *, file: str) -> tuple[Results, Path]:
    """Results of a model on all of this site's patients, and where they are kept.

    They obey the rules for what leaves a site (no cell of fewer than 10 patients, told or by subtraction), but nothing
    leaves. Of a study whose metrics are noised they are exact all the same, and say so.

    Args:
        site: this hospital; it must not have trained the model.
        bundle: the model.
        file: named in faults.

    Raises:
        ConsiliumError: the model does not fit this site (exit code 13) or was trained here (10, 13), the data are
            rejected, or nothing may be told of so few patients (12).
    """
    model = Finished(study=bundle.study, identity=bundle.card.study, arrays=bundle.arrays, model=bundle.card.model)
    study = judging_study(model, sites=[site.name])
    fits(site, study, file=file)
    exact = _exact(study)
    pool = LocalPool(site, device="cuda" if site.resources.gpus else "cpu")
    found = pool.evaluate(exact, arrays=bundle.arrays, deadline=math.inf)
    smallest = max(exact.evaluation.min_patients, site.privacy.min_patients)
    try:
        Egress(site).check_findings(found, study=exact, min_patients=smallest)
    except EgressRefusedError as error:
        raise ConsiliumError(f"nothing of this judgement may be shown: {error}", code=ExitCode.DATA) from error
    results = Results(
        **dict(found),
        schema=1,
        study=bundle.results.study.model_copy(
            update={
                "name": study.name,
                "hash": study.identity,
                "package": version("consilium"),
                "judged": bundle.card.study,
            }
        ),
        privacy=bundle.card.privacy,
        sites={site.name: SiteResult(role="external", declared_patients=0)},
        rounds=(),
        notes=tuple(_notes(bundle, noised=exact is not study)),
    )
    audit_log(site).append(user(), "evaluate-offline", study=bundle.card.study, model=bundle.card.arrays)
    return results, _kept(site, bundle, results)


def _exact(study: Study) -> Study:
    if study.evaluation.epsilon is None:
        return study
    return study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"epsilon": None})})


def _notes(bundle: ModelBundle, *, noised: bool) -> list[str]:
    card = bundle.card
    told = [
        bundle.unsigned,
        f"Judged offline at one site: the model {card.arrays[:12]} of study '{card.name}' ({card.study[:12]}), trained "
        f"by {', '.join(card.training_sites)}. Nothing was sent.",
        "These metrics are exact, where the study would have noised them before they leave." if noised else "",
    ]
    return [text for text in told if text]


def _kept(site: Site, bundle: ModelBundle, results: Results) -> Path:
    path = private_dir(site.state_dir / FOLDER) / f"{bundle.card.arrays[:16]}.json"
    write_private(path, results.model_dump_json(by_alias=True, indent=2).encode())
    return path
