"""A patient as one offline HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from fl_client.bedside import explain, pictures
from fl_client.bedside.case import Case
from fl_client.bedside.pictures import Tile
from fl_client.bedside.targets import Target, main_target
from fl_client.bedside.words import Word, words_of
from fl_client.data.checking.words import number as plain
from fl_client.data.checking.words import unit
from fl_shared.concepts import concept, unscale
from fl_shared.page import environment
from fl_shared.site import Site

STRONG_WORDS = 6
MOST_WORDS = 4000  # shown of a note


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page shows of one present modality; only what its kind has is filled."""

    name: str
    kind: str
    note: str
    tiles: Sequence[Tile] = ()
    strips: Sequence[tuple[str, Markup | None]] = ()
    words: Sequence[Word] = ()
    strongest: float = 0.0
    fields: Sequence[Mapping[str, Any]] = ()
    lacking: Sequence[str] = ()


def render(told: Mapping[str, Any], shown: Sequence[Shown], site: Site, *, index: bool) -> str:
    """The page; it needs no network, no script and no other file. ``index``: whether a table of all lies beside it."""
    template = _templates().get_template("bedside/patient.html.j2")
    return template.render(told=told, shown=shown, site=site, index=index, **stamp())


def render_index(listing: Mapping[str, Any], site: Site) -> str:
    """The table of all patients."""
    return _templates().get_template("bedside/index.html.j2").render(listing=listing, site=site, **stamp())


def shown_of(case: Case, site: Site) -> tuple[Shown, ...]:
    """What each present modality shows, explained for the study's first number."""
    target = main_target(case.study)
    drawn = explain.drawn(case)
    return tuple(_shown(case, target, name, drawn, site) for name in case.present)


def stamp() -> dict[str, str]:
    """Version and time, for the foot of a page."""
    return {"version": version("consilium"), "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}


def _shown(case: Case, target: Target, name: str, drawn: Mapping[str, Any], site: Site) -> Shown:
    match case.study.modalities[name].kind:
        case "cine" | "image":
            return _heart(case, target, name, drawn)
        case "waveform":
            return _ecg(case, target, name)
        case "text":
            return _note(case, target, name, site)
        case "table" | "events":
            return _fields(case, target, name)
        case kind:
            note = "Vectors that another model computed: there is nothing to show. Their part is told above."
            return Shown(name=name, kind=kind, note=note)


def _heart(case: Case, target: Target, name: str, drawn: Mapping[str, Any]) -> Shown:
    plan, inputs = case.study.modalities[name], case.inputs(name)
    heat = explain.of_images(case, target, name).numpy()
    labels = {
        task: (numbers.numpy(), case.study.tasks[task].labels)
        for task, numbers in drawn.items()
        if case.model.drawn[task] == name
    }
    video = inputs["video"][0].float().numpy() if "video" in inputs else inputs["pixels"][None, 0].float().numpy()
    frames, slices = (
        (inputs[key][0].numpy() if key in inputs else np.ones(1, dtype=bool)) for key in ("frame_mask", "slice_mask")
    )
    tiles = pictures.heart(video, frames, slices, labels=labels, heat=heat)
    spread = "; ".join(_spread(task, numbers, names, frames, slices) for task, (numbers, names) in labels.items())
    nowhere = " No place raises the number: there is no Grad-CAM picture." if not heat.any() else ""
    note = (
        "The middle phase. Grad-CAM shows where features of the encoder's last and coarsest map raise the number; its "
        f"colours are scaled by the greatest value of this record, whatever its size.{nowhere}"
    )
    return Shown(name=name, kind=plan.kind, note=f"{note} {spread}".strip(), tiles=tiles)


def _spread(task: str, numbers: Any, names: Sequence[str], frames: Any, slices: Any) -> str:
    shares = pictures.structure_shares(numbers, frames, slices)
    if not shares:
        return f"The model draws nothing of {task.replace('_', ' ')} on this record."
    said = ", ".join(f"{names[k - 1]} {share:.0%}" for k, share in shares.items())
    return f"Of all that the model draws on this record ({task.replace('_', ' ')}): {said}."


def _ecg(case: Case, target: Target, name: str) -> Shown:
    plan, inputs = case.study.modalities[name], case.inputs(name)
    found = explain.of_signal(case, target, name)
    signal, there, values = inputs["signal"][0].numpy(), inputs["lead_mask"][0].numpy(), found.values[0].numpy()
    strongest, reach = pictures.strongest_part(values), max(float(np.abs(signal).max()), 1e-9)
    strips = [
        (lead, _strip(lead, signal[k], values[k], strongest, reach) if there[k] else None)
        for k, lead in enumerate(plan.leads)
    ]
    seconds = signal.shape[1] / (plan.rate or 1.0)
    note = (
        f"{seconds:g} seconds a lead as the model sees it, filtered; a strip is {2 * reach:.2g} mV high. "
        f"{_path(found, target, 'a flat line in every lead')} The strongest coloured part is worth {strongest:.2g}."
    )
    return Shown(name=name, kind=plan.kind, note=note, strips=strips, strongest=strongest)


def _strip(lead: str, signal: Any, values: Any, strongest: float, reach: float) -> Markup:
    side = "raises" if values.sum() > 0 else "lowers"
    label = f"Lead {lead}: as a whole it {side} the number, by {abs(values.sum()):.2f}."
    return pictures.lead_strip(signal, values, strongest=strongest, reach=reach, label=label)


def _note(case: Case, target: Target, name: str, site: Site) -> Shown:
    plan, inputs = case.study.modalities[name], case.inputs(name)
    found = explain.of_text(case, target, name)
    values = inputs["mask"].double() * 0 if found is None else found.values
    words = words_of(inputs["ids"][0], inputs["mask"][0], values[0], plan=plan, site=site)
    note = "This encoder has no word embeddings: its words cannot be coloured."
    if found is not None:
        note = _path(found, target, "vectors of zeros in place of the words'")
    strongest = max((abs(word.value) for word in words), default=0.0)
    return Shown(name=name, kind=plan.kind, note=note, words=words[:MOST_WORDS], strongest=strongest)


def _path(found: Any, target: Target, baseline: str) -> str:
    what = "log-odds" if target.kind == "risk" else "the number"
    return (
        f"Coloured by integrated gradients against {baseline}: all parts together add {signed(found.total)} to {what} "
        f"(numerical error {found.gap:.2g})."
    )


def _fields(case: Case, target: Target, name: str) -> Shown:
    plan = case.study.modalities[name]
    found = explain.of_fields(case, target, name)
    there = sorted((f for f in found if f.effect is not None), key=lambda f: -abs(f.effect or 0.0))
    fields = [
        {"title": concept(f.name).title, "value": _value(f.name, f.value or 0.0), "effect": f.effect} for f in there
    ]
    lacking = [concept(f.name).title for f in found if f.effect is None]
    last = ", the last value of the series" if plan.kind == "events" else ""
    what = "log-odds" if target.kind == "risk" else "the number"
    note = f"Effect: {what} as they are, less what they would be had this field not been observed{last}."
    strongest = max((abs(f.effect or 0.0) for f in there), default=0.0)
    return Shown(name=name, kind=plan.kind, note=note, fields=fields, lacking=lacking, strongest=strongest)


def _value(name: str, scaled: float) -> str:
    """In the concept's own unit, or the word of its code."""
    what = concept(name)
    value = float(unscale(np.array([scaled]), by=what)[0])
    if what.codes:
        word = min(what.codes, key=lambda code: abs(what.codes[code] - value))
        return word.replace("_", " ")
    return f"{plain(float(f'{value:.4g}'))} {unit(what.unit)}".strip()


def _templates() -> Environment:
    found = environment("fl_client")
    found.filters |= {
        "percent": percent,
        "signed": signed,
        "times": times,
        "words": lambda text: text.replace("_", " "),
    }
    return found


def percent(share: float) -> str:
    """``34 %``; below 10 with a decimal. What is nearly 0 or 1 is no certainty; a share of nobody or of all is."""
    value = 100 * share
    if value < 1e-9 or value > 100 - 1e-9:
        return "0 %" if value < 1e-9 else "100 %"
    if value < 0.1:
        return "< 0.1 %"
    if value > 99.9:
        return "> 99.9 %"
    return f"{value:.1f} %" if value < 10 or value > 99 else f"{value:.0f} %"


def signed(value: float) -> str:
    """``+0.31``, with a true minus; what rounds to nothing has no sign."""
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0.00"


def times(value: float) -> str:
    """A part of the log-odds as what it multiplies the odds by: ``× 1.4``."""
    return f"× {math.exp(max(min(value, 9.0), -9.0)):.2g}"
