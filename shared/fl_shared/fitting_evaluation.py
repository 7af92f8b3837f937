"""What does not fit together in how a study is judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fl_shared import concepts
from fl_shared.errors import Fault, misfit
from fl_shared.subgroups import AGE, grouped_concept

if TYPE_CHECKING:
    from fl_shared.study import Study

MOST = 5  # modalities of which every set is judged


def unfit_evaluation(study: Study) -> Iterator[Fault]:
    """Every fault, as far as the plan alone tells; ``file`` is left empty."""
    plan = study.evaluation
    if plan.subsets == "every" and len(study.modalities) > MOST:
        problem = f"{len(study.modalities)} modalities have too many sets (at most {MOST})"
        yield misfit("evaluation.subsets", problem, "Use 'alone'", value=plan.subsets)
    if plan.hidden and len(study.modalities) < 2:
        yield misfit("evaluation.hidden", "of one modality none can be hidden", "Remove it")
    for name in plan.subgroups:
        if name == "hidden" or (name in concepts.names() and name != AGE and grouped_concept(name) is None):
            problem = "no group can be made of it"
            yield misfit("evaluation.subgroups", problem, "Name 'age' or a categorical concept", value=name)
    if AGE in plan.subgroups and not plan.age_edges:
        yield misfit("evaluation.age_edges", "it is empty, and 'age' is a subgroup", "Write e.g. age_edges = [65]")
