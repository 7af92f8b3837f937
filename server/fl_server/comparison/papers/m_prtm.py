"""M-PRTM, Table 1: sets of modalities, and learnt attention beside set shares; what groups of fields contribute."""

from __future__ import annotations

from fl_server.comparison.papers.body import Body, comparison, fusion, subsets, table
from fl_shared.study import Study

HEAVY = 0.5  # share of one modality; the others divide the rest


def body(study: Study) -> Body:
    """Variants: attention over everything, every smaller set, and each modality given half of the weight."""
    names = tuple(study.modalities)
    own = fusion("m_prtm", "modality_attention", title="all, self-attention")
    variants = {"attention": own} | {name: change | {"study": own["study"]} for name, change in subsets(study).items()}
    if len(names) > 1 and study.evaluation.epsilon is None:  # attention is told of every set of inputs
        variants["attention"] = own | {"study": own["study"] | {"evaluation": {"subsets": "every"}}}
    rest = (1 - HEAVY) / max(len(names) - 1, 1)
    for heavy in names if len(names) > 1 else ():
        shares = {name: HEAVY if name == heavy else rest for name in names}
        variants[f"heavy_{heavy}"] = fusion("m_prtm", "fixed_weights", title=f"all, {heavy}-heavy", shares=shares)
    rows = {"rows": ["variant"], "columns": ["task"]}
    return comparison(
        study,
        "m_prtm",
        title="M-PRTM: sets of modalities, and how attention is allocated",
        tables=[
            table("Sets of modalities and attention, external", source="M-PRTM, Table 1", **rows),
            table("The same, internal", source="M-PRTM, Table 1", only={"role": ["train"]}, **rows),
        ],
        variants=variants,
    )
