"""What does not fit together in how a study is judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fl_shared import concepts
from fl_shared.errors import Fault, misfit, nearest
from fl_shared.models.systems.system import ALONE
from fl_shared.subgroups import AGE, PAIRED, grouped_concept, grouped_fields, headline_modalities

if TYPE_CHECKING:
    from fl_shared.study import Study

MOST = 5  # modalities of which every set is judged


def unfit_evaluation(study: Study) -> Iterator[Fault]:
    """Every fault, as far as the plan alone tells; ``file`` is left empty."""
    plan = study.evaluation
    if plan.subsets == "every" and len(study.modalities) > MOST:
        problem = f"{len(study.modalities)} modalities have too many sets (at most {MOST})"
        yield misfit("evaluation.subsets", problem, "Use 'alone'", value=plan.subsets)
    if plan.every > study.training.rounds:
        problem = f"the study has {study.training.rounds} rounds"
        yield misfit("evaluation.every", problem, "Lower it", value=str(plan.every))
    if plan.hidden and len(study.modalities) < 2:
        yield misfit("evaluation.hidden", "of one modality none can be hidden", "Remove it")
    yield from _hidden(study)
    yield from _unpaired(study)
    yield from _feature_groups(study)
    for name in plan.subgroups:
        if name == "hidden" or (name in concepts.names() and name != AGE and grouped_concept(name) is None):
            problem = "no group can be made of it"
            yield misfit("evaluation.subgroups", problem, "Name 'age' or a categorical concept", value=name)
    if AGE in plan.subgroups and not plan.age_edges:
        yield misfit("evaluation.age_edges", "it is empty, and 'age' is a subgroup", "Write e.g. age_edges = [65]")
    if PAIRED in plan.subgroups and len(headline_modalities(study.modalities)) < 2:
        yield misfit("evaluation.subgroups", "no row lacks one of one modality", "Remove it", value=PAIRED)


def _hidden(study: Study) -> Iterator[Fault]:
    plan, headline = study.evaluation, headline_modalities(study.modalities)
    if plan.hidden_of and not plan.hidden:
        yield misfit("evaluation.hidden_of", "no share of them is hidden", "Write e.g. hidden = [0.5], or remove it")
    for name in plan.hidden_of:
        if name not in headline:
            leaky = name in study.modalities
            problem = "it states the diagnosis: headline results never see it" if leaky else "no modality of this name"
            yield misfit("evaluation.hidden_of", problem, nearest(name, headline), value=name)
    if 1.0 in plan.hidden and set(headline) <= set(plan.hidden_of or headline):
        problem = "it hides every modality but one of each row"
        yield misfit("evaluation.hidden", problem, "Name fewer modalities in hidden_of, or hide less", value="1")


def _unpaired(study: Study) -> Iterator[Fault]:
    share = study.training.unpaired
    if share == 1 or study.judged is not None:
        return
    if len(headline_modalities(study.modalities)) < 2:
        problem = "no row lacks one of one modality"
        yield misfit("training.unpaired", problem, "Remove it", value=f"{share:g}")
    elif all(phase.objective in ALONE for phase in study.training.phases):
        problem = "no phase trains modalities together"
        yield misfit("training.unpaired", problem, "Remove it, or add a phase that does", value=f"{share:g}")


def _feature_groups(study: Study) -> Iterator[Fault]:
    held = grouped_fields(study.modalities)
    known = {field for fields in held.values() for field in fields}
    for group, fields in study.evaluation.feature_groups.items():
        key = f"evaluation.feature_groups.{group}"
        if not fields or len(set(fields)) < len(fields):
            problem = "a field stands twice" if fields else "it has no field"
            yield misfit(key, problem, "Name each field once")
        for field in fields:
            if field not in known:
                problem = "no field of a table or of events that headline results see"
                yield misfit(key, problem, nearest(field, known) if known else "Remove it", value=field)
        for modality, own in held.items():
            if set(own) <= set(fields):
                problem = f"it holds every field of '{modality}', which is that modality"
                yield misfit(key, problem, "Leave one out, or use subsets = 'every'")
