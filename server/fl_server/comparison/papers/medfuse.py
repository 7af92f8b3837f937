"""MedFuse (Hayat et al. 2022), Tables 1-5 and its missing-rate figures.

Uni- and multimodal baselines, paired and unpaired patients, single labels, age groups, and inputs that are missing.
"""

from __future__ import annotations

from fl_server.comparison.papers.body import Body, alone, comparison, first_metrics, fusion, labelled, table
from fl_shared.study import Study
from fl_shared.subgroups import age_groups, hidden_name

UNPAIRED = (0.0, 0.1, 0.2)  # shares of the patients lacking a modality: the paper's best are .1 and .2
RATES = (0.25, 0.5, 0.75)
BASELINES = {
    "early": "early fusion",
    "joint": "joint fusion",
    "mmtm": "MMTM",
    "daft": "DAFT",
    "unified": "Unified",
    "lstm_ensemble": "ensemble of two",
}


def body(study: Study) -> Body:
    """Reference: MedFuse itself, pretrained modality by modality, on all patients."""
    judged = {"subgroups": ["paired", *(["age"] if "age" in _fields(study) else [])], "hidden": list(RATES)}
    own = fusion("medfuse", "lstm", title="MedFuse")
    variants = {"medfuse": own}
    end_to_end = {"training": {"phases": [{"name": "together", "rounds": study.training.rounds}]}}
    variants["random_start"] = {"title": "MedFuse, random start", "study": own["study"] | end_to_end}
    for share in UNPAIRED:
        name = f"unpaired_{round(100 * share)}"
        title = "MedFuse, paired patients" if not share else f"MedFuse, {share:.0%} of the unpaired"
        variants[name] = {"title": title, "study": own["study"] | {"training": {"unpaired": share}}}
    variants |= {name: fusion("baselines", name, title=title) for name, title in BASELINES.items()}
    variants |= alone(study)
    for name, change in variants.items():
        asked = {"subgroups": judged["subgroups"]} if name.startswith("only_") else judged
        change["study"] = change.get("study", {}) | {"evaluation": asked}
    return comparison(study, "medfuse", title="MedFuse and its baselines", tables=_tables(study), variants=variants)


def _tables(study: Study) -> list[Body]:
    fused = ["medfuse", *BASELINES]
    first = next(iter(study.tasks))
    overall = {"rows": ["variant"], "columns": ["task", "metric"]}
    told = {"metric": first_metrics(study, 2)}
    paired = told | {"subgroup": ["paired=yes"]}
    tables = [
        table("All patients", source="Hayat et al. 2022, Tables 2 and 3", only=told, **overall),
        table("Paired patients", source="Tables 2 and 3", only=paired, **overall),
        table(
            "Inputs that are missing",
            source="Missing-rate figures",
            rows=["subgroup"],
            columns=["variant"],
            only={"task": [first], "variant": fused, "subgroup": ["", *map(hidden_name, RATES)]},
            picture="lines",
        ),
    ]
    if "age" in _fields(study):
        groups = [f"age={group}" for group in age_groups(study.evaluation.age_edges)]
        only = {"task": [first], "variant": fused, "subgroup": groups}
        tables.append(table("Age groups", source="Table 5", rows=["subgroup"], columns=["variant"], only=only))
    for task in labelled(study):
        only = {"task": [task], "variant": ["medfuse", "joint"]}
        tables.append(table(f"Labels of {task}", source="Table 4", rows=["label"], columns=["variant"], only=only))
    return tables


def _fields(study: Study) -> set[str]:
    return {field for plan in study.modalities.values() for field in plan.fields}
