"""``fl-server privacy plan``: the options, and the plan as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fl_shared.commands import Format, emit
from fl_shared.errors import ConsiliumError, ExitCode

if TYPE_CHECKING:
    from fl_server.privacy_plan import Plan, Size
    from fl_shared.study import Study

app = typer.Typer(help="What a privacy budget means before anything runs.", no_args_is_help=True)
BARS = "▁▂▃▄▅▆▇█"


@app.callback()
def privacy() -> None:
    """What a privacy budget means before anything runs."""


@app.command()
def plan(
    study: Annotated[
        Path | None, typer.Argument(help="A study.toml; options change it.", exists=True, dir_okay=False)
    ] = None,
    epsilon: Annotated[float | None, typer.Option(min=0.0, help="Plan sigma for this epsilon.")] = None,
    delta: Annotated[float | None, typer.Option(min=0.0, max=0.01, help="1e-5 when absent.")] = None,
    patients: Annotated[int | None, typer.Option(min=1, help="Declared training patients of every site.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Expected patients a step.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps a round.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds.")] = None,
    sigma: Annotated[float | None, typer.Option(min=0.0, help="Tell the epsilon of this noise multiplier.")] = None,
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.TEXT,
) -> None:
    """Sigma for an epsilon (or epsilon for a sigma), epsilon over the rounds, and noise against signal at each site.

    Exit code 10 when the study is invalid, 16 when no noise reaches the epsilon.
    """
    from fl_server.privacy_plan import bare, planned

    if epsilon is not None and sigma is not None:
        raise ConsiliumError("--epsilon and --sigma exclude one another: give one", code=ExitCode.USAGE)
    if study is not None:
        given = {"epsilon": epsilon, "delta": delta}, {"batch": batch, "steps": steps, "rounds": rounds}
        made = _changed(study, privacy=given[0], training=given[1], patients=patients, sigma=sigma)
        found = planned(made, size=_size(made), sigma=sigma)
    else:
        needed = {"--patients": patients, "--batch": batch, "--steps": steps, "--rounds": rounds}
        absent = [name for name, value in needed.items() if value is None]
        if epsilon is None and sigma is None:
            absent.append("--epsilon or --sigma")
        if patients is None or batch is None or steps is None or rounds is None or absent:
            raise ConsiliumError(f"without a study, {', '.join(absent)} is needed", code=ExitCode.USAGE)
        found = bare(
            patients=patients, batch=batch, steps=steps, rounds=rounds, delta=1e-5 if delta is None else delta,
            target=epsilon, sigma=sigma,
        )  # fmt: skip
    emit(_body(found), fmt=fmt, text=lambda console: _draw(found, console))


def _changed(
    path: Path,
    *,
    privacy: Mapping[str, float | None],
    training: Mapping[str, int | None],
    patients: int | None,
    sigma: float | None,
) -> Study:
    """The study with what the options say instead; faults name the file."""
    from fl_shared import toml
    from fl_shared.study import Study, load_study

    study = load_study(path)
    if study.judged is not None:
        message = f"study '{study.name}' judges a finished model: nothing is trained, and no privacy to be planned"
        raise ConsiliumError(message, code=ExitCode.STUDY)
    body: dict[str, Any] = study.model_dump(mode="json", by_alias=True)
    changes = {key: value for key, value in training.items() if value is not None}
    if changes.keys() & {"rounds"} and changes["rounds"] != study.training.rounds:
        del body["training"]["phases"]  # the system divides the rounds anew
    body["training"] |= changes
    body["privacy"] |= {key: value for key, value in privacy.items() if value is not None}
    if study.privacy.mode == "none" and (privacy["epsilon"] is not None or sigma is not None):
        body["privacy"] |= {"mode": "patient", "epsilon": privacy["epsilon"] or 1.0}  # of --sigma, any
    if patients is not None:
        for name in study.train_sites:
            body["sites"][name]["patients"] = patients
    return toml.validated(body, Study, path=path, code=ExitCode.STUDY)


def _size(study: Study) -> Size:
    """Counted from the model itself; pretrained weights are not needed for that, their sizes are the encoders' own."""
    from fl_server.privacy_plan import Size
    from fl_shared.models.compose import compose
    from fl_shared.study import Study

    body = study.model_dump(mode="json", by_alias=True)
    for modality in body["modalities"].values():
        modality |= {"weights": None, "weights_sha256": None, "provenance": None}
    model = compose(Study.model_validate(body), {})
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    per_phase = [{n: c for n, c in counts.items() if study.trains_in(n, phase)} for phase in study.training.phases]
    most = max(per_phase, key=lambda part: sum(part.values()))
    kept = sum(count for name, count in most.items() if not name.startswith("encoders.") or ".lora_" in name)
    return Size(noised=sum(most.values()), without_encoders=kept)


def _body(found: Plan) -> dict[str, Any]:
    parts = {name: {"sigma": sigma, "epsilon": epsilon} for name, (sigma, epsilon) in found.parts.items()}
    sites = [asdict(site) | {"rounds": {str(k): e for k, e in site.rounds.items()}} for site in found.sites]
    return asdict(found) | {"parts": parts, "sites": sites, "words": list(found.words)}


def _draw(found: Plan, console: Console) -> None:
    unit = "patient" if found.unit == "patient" else "site"
    title = f"{found.study or 'One site'}: privacy of a {unit}, delta {found.delta:g}, {found.noise} noise"
    table = Table("site", "patients", "q", "sigma", "epsilon (RDP)", "(PLD)", "noise/signal", "in all", title=title)
    for site in found.sites:
        ratios = ["-" if value is None else f"{value:.3g}" for value in (site.ratio, site.in_all)]
        numbers = (f"{site.q:.4g}", f"{site.sigma:.4f}", f"{site.epsilon:.4f}", f"{site.pld:.4f}")
        table.add_row(site.site, f"{site.patients:,}", *numbers, *ratios)
    console.print(table)
    if found.size is not None:
        console.print(f"{found.size.noised:,} parameters under noise, {found.size.without_encoders:,} without encoders")
    for name, (sigma, epsilon) in found.parts.items():
        console.print(f"{name}: sigma {sigma:.4f}, epsilon {epsilon:.4f} by itself")
    costly = max(found.sites, key=lambda site: site.epsilon)
    steps = Table("round", "epsilon", title=f"{costly.site}: epsilon over the rounds  {_spark(costly.rounds)}")
    for number, spent in costly.rounds.items():
        steps.add_row(str(number), f"{spent:.4f}")
    console.print(steps)
    if found.pooled:
        told = ", ".join(f"{value:.3g} under {name} noise" for name, value in found.pooled.items())
        console.print(f"noise/signal of a step in the mean of all sites: {told}", highlight=False)
    console.print("noise/signal: length of a step's noise over the longest possible signal, every gradient at the clip")
    for text in found.words:
        console.print(text, soft_wrap=True, highlight=False)


def _spark(rounds: Mapping[int, float]) -> str:
    top = max(rounds.values())
    return "".join(BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] for value in rounds.values())
