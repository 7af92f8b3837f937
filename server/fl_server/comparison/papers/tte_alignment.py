"""Cross-modal alignment for time-to-event, Table 1: unimodal, four fusions, two EHR representations, both cohorts."""

from __future__ import annotations

from fl_server.comparison.papers.body import Body, alone, comparison, fusion, of_kind, table
from fl_shared.study import Study

IMAGES = ("cine", "image", "waveform")
RECORDS = ("table", "events", "embedding", "text")


def body(study: Study) -> Body:
    """Each fusion of the first image-like modality with each representation of the record in turn."""
    images = of_kind(study, IMAGES, paper="cross-modal alignment", wanted="an image, a cine or a waveform")
    image = images[0]
    records = of_kind(study, RECORDS, paper="cross-modal alignment", wanted="a table, events, an embedding or a text")
    system = "tte_alignment"
    variants = alone(study)
    for record in records:
        forms = {
            "concat": fusion(system, "concat", title="concatenation"),
            "contrastive": fusion(system, "contrastive", title="contrastive"),
            "cross": fusion(system, "cross_attention", title="cross-attention"),
            "co_image": fusion(system, "co_attention", title=f"co-attention, {image} asks", guide=image),
            "co_record": fusion(system, "co_attention", title=f"co-attention, {record} asks", guide=record),
        }
        for name, change in forms.items():
            title = f"{image} + {record}: {change['title']}"
            variants[f"{name}_{record}"] = change | {"title": title, "only": [image, record]}
    return comparison(
        study,
        "alignment",
        title="Cross-modal alignment: fusions and representations of the record",
        tables=[table("Internal and external", source="Table 1", rows=["variant"], columns=["task", "role"])],
        reference=f"only_{image}",
        variants=variants,
    )
