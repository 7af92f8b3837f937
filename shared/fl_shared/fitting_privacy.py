"""What does not fit together under a privacy promise, with the reason: told before any training.

A combination is refused where it would make the promise untrue, or cost privacy for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fl_shared.errors import Fault, misfit
from fl_shared.fitting_secure import ROBUST, unfit_secure
from fl_shared.models.systems import SYSTEMS
from fl_shared.models.systems.system import CHOOSE

if TYPE_CHECKING:
    from fl_shared.study import Study


def unfit_privacy(study: Study) -> Iterator[Fault]:
    """Every fault of a study's privacy, as far as the plan alone tells; ``file`` is left empty."""
    yield from _parts(study)
    yield from unfit_secure(study)
    if study.privacy.mode == "none":
        return
    yield from _delta(study)
    mode = study.privacy.mode
    for reason in (*_unprotected(study), *(_coupled(study) if mode == "patient" else ())):
        yield misfit("privacy.mode", reason, "Change this, or use privacy mode 'none'", value=mode)


def _parts(study: Study) -> Iterator[Fault]:
    """The parts of epsilon: given exactly where something is to be paid, and together below the whole."""
    plan, private = study.evaluation, study.privacy.mode != "none"
    parts = {
        "statistics.epsilon": (study.statistics is not None, study.statistics.epsilon if study.statistics else None),
        "evaluation.recalibrate_epsilon": (plan.recalibrate, plan.recalibrate_epsilon),
    }
    for key, (asked, epsilon) in parts.items():
        if epsilon is None:
            if asked and private:
                mend = "Give it a part of privacy.epsilon, e.g. a tenth"
                yield misfit(key, "missing: these counts concern training patients, so they are paid for", mend)
        elif not private:
            problem = "privacy mode 'none' pays for nothing"
            yield misfit(key, problem, "Remove it, or use mode 'patient'", value=f"{epsilon:g}")
        elif not asked:
            yield misfit(key, "nothing is released for it", "Set evaluation.recalibrate = true", value=f"{epsilon:g}")
    total = sum(epsilon for _, epsilon in parts.values() if epsilon is not None)
    if study.privacy.epsilon is not None and total >= study.privacy.epsilon:
        problem = f"its parts ({' + '.join(key for key, (_, e) in parts.items() if e is not None)}) sum to {total:g}"
        mend = "Raise it, or lower the parts: what is left trains the model"
        yield misfit("privacy.epsilon", problem, mend, value=f"{study.privacy.epsilon:g}")


def _delta(study: Study) -> Iterator[Fault]:
    """A delta of 1/n or more allows to publish one patient whole."""
    most = max((study.sites[name].patients for name in study.train_sites), default=0)
    if study.privacy.mode == "patient" and most and study.privacy.delta * most >= 1:
        problem = f"not below 1 / {most} patients: a mechanism that publishes one of them whole would keep it"
        yield misfit("privacy.delta", problem, "Lower it, e.g. to 1e-5", value=f"{study.privacy.delta:g}")


def _unprotected(study: Study) -> Iterator[str]:
    """Why releases would depend on training patients past the noise, whoever is protected."""
    if study.training.strategy in ROBUST:
        yield f"{study.training.strategy} is not the mean that the privacy accounting assumes"
    if study.training.finetune:
        yield "fine-tuning after the last round is not noised, and its metrics would be released"
    refused = study.privacy.mode == "patient" and SYSTEMS[study.model.system].refuses(study)  # told by `_coupled`
    if not refused and any(phase.objective == CHOOSE for phase in study.training.phases):
        yield "a phase with objective 'choose' releases a function of the patients without noise"
    for name, plan in study.modalities.items():
        if plan.weights is not None and plan.provenance in (None, "local"):
            local = "locally without DP on this cohort" if plan.provenance else "without a provenance"
            yield f"encoders.{name}: pretrained {local}, so that releases would depend on training patients unprotected"


def _coupled(study: Study) -> Iterator[str]:
    """Why no gradient of a single patient exists."""
    if cox := [name for name, task in study.tasks.items() if task.head == "survival_cox"]:
        yield f"the Cox loss of task '{cox[0]}' couples patients (survival_model 'hazard' and 'weibull' do not)"
    if reason := SYSTEMS[study.model.system].refuses(study):
        yield reason
