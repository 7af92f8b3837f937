"""Pretraining of encoders at this site: a federation of one, whose end is a bundle and not a release.

It runs through the site's own service, so that approval, ledger and outbox hold as in any study, and a run that was
stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from fl_client.approval import audit_log, fits
from fl_client.bundles import check_place, write_bundle
from fl_client.inbound import read_arrays
from fl_client.service import SiteService
from fl_client.training.actors import LocalPool
from fl_shared import toml
from fl_shared.bundle import Bundle, origins_of
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.judged import OF_INPUTS
from fl_shared.models.build import build_model, select
from fl_shared.site import Site
from fl_shared.study import Provenance, Study
from fl_shared.wire import Arrays, Code, Reply, Request, digest, to_npy

Objective = Literal["supervised", "masked", "segmentation", "contrastive"]
PHASES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "supervised": ("unimodal", ("encoders", "adapters", "heads")),
    "masked": ("masked", ("encoders", "heads")),
    "segmentation": ("segmentation", ("encoders", "heads")),
    "contrastive": ("contrastive", ("encoders", "adapters", "fusion")),
}
"""What is learned -> objective of the model, and what it trains."""

WEEK = 7 * 24 * 3600.0  # nobody waits for an answer here: reading the data may take longer than a study's deadline
_CODES = {Code.BUDGET: ExitCode.PRIVACY, Code.LEDGER: ExitCode.PRIVACY, Code.DATA: ExitCode.DATA}


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """What is pretrained, how, and where the patients come from.

    provenance: ``public`` and ``disjoint`` are the caller's word on this site's patients; under privacy it is ``dp``.
    """

    modalities: tuple[str, ...]
    objective: Objective
    rounds: int
    provenance: Provenance


def pretraining_study(study: Study, site: str, plan: Pretraining) -> Study:
    """The study of one site that pretrains encoders of ``study``: same modalities, sizes, privacy, patients.

    Raises:
        ConsiliumError: a modality is not the study's, the objective does not fit it, or forbids privacy (exit code 10).
    """
    chosen = {name: study.modalities[name] for name in plan.modalities if name in study.modalities}
    drawn = plan.objective == "segmentation"
    tasks = {n: t for n, t in study.tasks.items() if (t.modality in chosen if drawn else t.modality is None)}
    wrong = _wrong(study, site, plan, tasks=bool(tasks))
    if wrong:
        raise ConsiliumError(f"nothing to pretrain: {wrong}", code=ExitCode.STUDY)
    objective, trains = PHASES[plan.objective]
    contrastive = {"system": "tte_alignment", "fusion": "contrastive"}
    system = contrastive if plan.objective == "contrastive" else {"system": "attention", "fusion": "self_attention"}
    phase = {"name": plan.objective, "rounds": plan.rounds, "objective": objective, "trains": list(trains)}
    body = study.model_dump(mode="json", by_alias=True)
    model = {key: value for key, value in body["model"].items() if key not in ("guide", "shares", "levels")}
    return toml.validated(
        {
            **body,
            "name": f"{study.name}_pretraining"[:48],
            "sites": {site: body["sites"][site] | {"role": "train"}},
            "tasks": {name: body["tasks"][name] for name in tasks},
            "modalities": {name: body["modalities"][name] for name in chosen},
            "model": model | system,
            "training": body["training"]
            | {
                "rounds": plan.rounds,
                "phases": [phase],
                "encoders": "shared",
                "local": [],
                "finetune": 0,
                "unpaired": 1.0,
            },
            "privacy": body["privacy"] | {"aggregation": "plain", "noise": "local"},
            "rounds": body["rounds"] | {"quorum": 1, "deadline": WEEK},
            "evaluation": {key: value for key, value in body["evaluation"].items() if key not in OF_INPUTS}
            | {"epsilon": None, "recalibrate": False, "recalibrate_epsilon": None, "every": 0},
            "statistics": None,
        },
        Study,
        path=Path("study.toml"),
        code=ExitCode.STUDY,
    )


def _wrong(study: Study, site: str, plan: Pretraining, *, tasks: bool) -> str:
    if strange := sorted(set(plan.modalities) - set(study.modalities)):
        return f"the study has no modality {', '.join(strange)} (it has {', '.join(study.modalities)})"
    if site not in study.sites:
        return f"the study has no site {site} (it has {', '.join(study.sites)})"
    if study.sites[site].role == "external":
        return (
            f"{site} is external in this study: an encoder that learned from its patients could not be judged by them"
        )
    if plan.objective == "contrastive" and len(plan.modalities) < 2:
        return "contrastive pretraining aligns at least two modalities"
    kinds = {study.modalities[name].kind for name in plan.modalities}
    if plan.objective == "masked" and kinds - {"waveform", "events"}:
        return "masked modelling is for series: waveform and events"
    return "" if tasks else f"the study has no task for '{plan.objective}' pretraining of these modalities"


def pretrain(
    site: Site, study: Study, plan: Pretraining, *, out: Path, done: Callable[[int], None] = lambda _: None
) -> dict[str, tuple[Path, str]]:
    """Train, and write one bundle a modality: ``out/<modality>``.

    Args:
        site: where the patients are.
        study: gives modalities, tasks, sizes and privacy.
        plan: what is pretrained.
        out: folder of the bundles; a bundle that exists is replaced, anything else is left alone.
        done: called with the number of each finished round.

    Returns:
        Modality -> its bundle and the digest that a study pins.

    Raises:
        ConsiliumError: ``out`` cannot be written to (2); the study does not fit (10, 13); the data are rejected, or
            nobody has the modality (12); privacy forbids it (16); the trainer failed (1, see state/log.jsonl).
    """
    made = pretraining_study(study, site.name, plan)
    fits(site, made, file="study.toml")
    check_place(out, plan.modalities)
    pool = LocalPool(site, device="cuda" if site.resources.gpus else "cpu")
    service = SiteService(site, pool, only=made)  # no approval is stored: nobody else may ask for these rounds
    pool.load(made)
    if lacking := sorted(set(plan.modalities) - pool.trained_on(made)):
        problem = f"no training patient of {site.name} has {', '.join(lacking)}: there is nothing to learn from"
        raise ConsiliumError(f"nothing to pretrain: {problem}", code=ExitCode.DATA)
    audit_log(site).append("operator", "pretrain", study=made.identity, rounds=plan.rounds)
    weights = {name: site.folder / where for name, where in site.weights.items()}
    model = select(build_model(made, weights=weights))
    initial = digest(model)
    reply: Reply | None = None
    for number in range(1, plan.rounds + 1):
        request = Request(kind="train", study=made.identity, round=number, base=digest(model), initial=initial)
        reply, update = _ask(service, request, model)
        model = {**model, **update}
        done(number)
    private = made.privacy.mode != "none"
    started = {m: (start, weights[start.weights]) for m, start in made.modalities.items() if start.weights}
    upstream = dict.fromkeys(origin for start, folder in started.values() for origin in origins_of(start, folder))
    found = {}
    for name in plan.modalities:
        bundle = Bundle(
            encoder=str(made.modalities[name].encoder),
            modality=made.modalities[name],
            model=made.model,
            provenance="dp" if private else plan.provenance,
            objective=plan.objective,
            cohort=site.name,
            patients=made.sites[site.name].patients,
            rounds=plan.rounds,
            steps=made.training.steps,
            epsilon=reply.epsilon if reply is not None and private else None,
            delta=made.privacy.delta if private else None,
            synthetic=site.synthetic,
            study=made.identity,
            split=made.evaluation.split,
            upstream=tuple(upstream),
            package=version("consilium"),
        )
        source = weights.get(made.modalities[name].weights or "")
        found[name] = write_bundle(out / name, bundle, model, modality=name, source=source)
    return found


def _ask(service: SiteService, request: Request, model: Arrays) -> tuple[Reply, dict[str, Any]]:
    text, out = service.handle(request.model_dump_json(), {name: to_npy(array) for name, array in model.items()})
    reply = Reply.model_validate_json(text)
    if reply.status != "ok":
        code = ExitCode.FAILED if reply.code is None else _CODES.get(reply.code, ExitCode.FAILED)
        why = f"round {request.round} of the pretraining was refused: {reply.code}"
        mend = f"See {service.site.state_dir / 'log.jsonl'}; finished rounds are kept for the next try."
        raise ConsiliumError(f"{why}. {mend}", code=code)
    return reply, dict(read_arrays(out, {n: (model[n].shape, str(model[n].dtype)) for n in out}))
