"""MedM2T: tasks by modalities, each alone and together."""

from __future__ import annotations

from fl_server.comparison.papers.body import Body, comparison, first_metrics, fusion, subsets, table
from fl_shared.study import Study


def body(study: Study) -> Body:
    """Variants: all modalities, and every smaller set, each trained by itself on all tasks."""
    own = fusion("medm2t", "bimodal_attention", title="all modalities")
    variants = {"all_together": own} | {
        name: change | {"study": own["study"]} for name, change in subsets(study).items()
    }
    return comparison(
        study,
        "medm2t",
        title="MedM2T: tasks by modalities",
        tables=[
            table(
                "Tasks by modalities",
                source="MedM2T, results",
                rows=["variant"],
                columns=["task", "metric"],
                only={"metric": first_metrics(study, 2)},
            ),
            table("Internal", rows=["variant"], columns=["task"], only={"role": ["train"]}),
        ],
        variants=variants,
    )
