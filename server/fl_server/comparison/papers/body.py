"""What the papers' comparison files share."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any

from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.metrics.table import metrics_of
from fl_shared.study import Study

Body = dict[str, Any]


def fusion(system: str, name: str, *, title: str, **model: Any) -> Body:
    """A variant that changes the fusion; ``model``: further keys of [model]."""
    return {"title": title, "study": {"model": {"system": system, "fusion": name, **model}}}


def alone(study: Study) -> dict[str, Body]:
    """Each modality by itself."""
    return {f"only_{name}": {"title": f"{name} only", "only": [name]} for name in study.modalities}


def subsets(study: Study) -> dict[str, Body]:
    """Every set of modalities but the whole, the largest first."""
    names = tuple(study.modalities)
    return {
        f"only_{'_'.join(chosen)}": {"title": " + ".join(chosen), "only": list(chosen)}
        for size in range(len(names) - 1, 0, -1)
        for chosen in combinations(names, size)
    }


def of_kind(study: Study, kinds: Iterable[str], *, paper: str, wanted: str) -> list[str]:
    """Modalities of some kinds.

    Raises:
        ConsiliumError: the study has none (exit code 10).
    """
    if found := [name for name, plan in study.modalities.items() if plan.kind in kinds]:
        return found
    problem = f"the tables of {paper} need {wanted}"
    fault = Fault(file="study.toml", key="modalities", problem=problem, mend="Add one, or write a file by hand.")
    raise ConsiliumError(f"study '{study.name}' cannot be told so", code=ExitCode.STUDY, faults=[fault])


def first_metrics(study: Study, many: int) -> list[str]:
    """The first metrics of each type of task: AUROC and AUPRC of an outcome, where two are wanted."""
    return [*dict.fromkeys(name for task in study.tasks.values() for name in metrics_of(task.type)[:many])]


def labelled(study: Study) -> list[str]:
    """Tasks with several labels."""
    return [name for name, task in study.tasks.items() if task.type == "multilabel"]


def table(title: str, **keys: Any) -> Body:
    """A table of a comparison file."""
    return {"title": title, **keys}


def comparison(study: Study, paper: str, *, title: str, tables: list[Body], **parts: Any) -> Body:
    """The file's body; ``parts``: axes, variants, reference."""
    return {"schema": 1, "name": f"{study.name[:30]}_{paper}", "title": title, **parts, "tables": tables}
