"""Sunnybrook, leave one patient out: the endocardium drawn by networks that learned it on the two other patients.

    python tests/benchmarks/sunnybrook_lopo.py --from ../shared/data/sunnybrook-cine --pictures runs/sunnybrook_lopo

The importer's site folder, its endocardial contours at end diastole and end systole (9 slices each), 20 phases as they
are, 192 mm about the centre on 96 x 96 pixels. A study whose phases have the objective ``segmentation``, trained by
the site's `Trainer`. Ours for this table: images on which nobody drew are left out (DAE-Former reads every image by
itself, so that they change nothing; cine_cnn thereby sees two frames, and its nine channels are slices from base to
apex), and each training patient is there in further copies, randomly turned, sized, shifted and contrasted: the trainer
draws one record of a patient a step. Settings were fixed beforehand; nothing was chosen by a judged patient.

Dice and HD95 as the product judges: Dice of all drawn images of the patient together, HD95 of the volume of the nine
slices at each phase, mean of both phases; a volume that is predicted empty counts as far away as its diagonal. The
pictures show patients: they are for the folder given, never for the repository.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from targets import Figure, keep
from torch.nn.functional import affine_grid, grid_sample

from fl_client.data.cohort import Cohort
from fl_client.data.load import load_cohort
from fl_client.training.judge import voxels
from fl_client.training.loop import Trainer
from fl_client.training.rows import as_batch
from fl_shared.metrics.segmentation import hausdorff_95
from fl_shared.models.build import build_model, load, select
from fl_shared.models.interface import take
from fl_shared.site import Site, load_site
from fl_shared.study import Study, load_study
from fl_sites.importers.sunnybrook import SITE, import_sunnybrook

TASK, LABEL = "left_ventricle", "cavity"
PHASES, SLICES = 20, 16  # of the release: as many, and more than it has
DRAWN_FRAMES, DRAWN_SLICES = 2, 9
SIZE, FIELD = 96, 192.0
ENCODERS = ("dae_former", "cine_cnn")
ROUNDS, STEPS = (4, 1), 60  # rounds at each of RATES
RATES = (2e-3, 5e-4)
COPIES = 40
TURN, GROW, SHIFT, CONTRAST = 45.0, 0.25, 0.1, 0.3  # degrees; shares of size, of the field, of the values
TITLE = "Sunnybrook, endocardium of each of three patients by networks of the two others; 18 images, 2 mm, one seed"
FRAMES = ("end systole", "end diastole")  # in the order of the release's phases

Labels = NDArray[np.uint8]


def study_of(written: Study, *, encoder: str, seed: int) -> Study:
    """The importer's study with the endocardium as its only task, on the drawn images."""
    phases = [
        {"name": f"drawing{k}", "rounds": rounds, "objective": "segmentation", "learning_rate": rate}
        | {"trains": ["encoders.cine", f"heads.{TASK}"]}
        for k, (rounds, rate) in enumerate(zip(ROUNDS, RATES, strict=True))
    ]
    cine = {"kind": "cine", "encoder": encoder, "size": SIZE, "field_of_view": FIELD}
    body = written.model_dump(mode="json", by_alias=True, exclude_none=True) | {
        "seed": seed,
        "tasks": {TASK: {"type": "segmentation", "modality": "cine", "labels": [LABEL]}},
        "modalities": {"cine": cine | {"frames": DRAWN_FRAMES, "slices": DRAWN_SLICES}},
        "model": {"system": "attention", "preset": "small"},
        "training": {"rounds": sum(ROUNDS), "steps": STEPS, "batch": 2, "encoders": "shared", "phases": phases},
        "sites": {SITE: {"role": "train", "patients": 2}},
    }
    return Study.model_validate(body)


def read_drawn(folder: Path, study: Study) -> Cohort:
    """The three patients, only what somebody drew on: 2 frames x 9 slices."""
    site = load_site(folder / SITE)
    drawn = site.tasks[TASK].model_copy(update={"classes": {"1": LABEL}})  # the endocardium encloses the cavity
    site = site.model_copy(update={"tasks": {TASK: drawn}})
    cine = study.modalities["cine"].model_copy(update={"frames": PHASES, "slices": SLICES})
    whole, _ = load_cohort(site, study.model_copy(update={"modalities": {"cine": cine}}), workers=1)
    mask = whole.target_mask[TASK]
    places = [np.ix_(m.any(1).nonzero()[0], m.any(0).nonzero()[0]) for m in mask]
    if any(m[p].shape != (DRAWN_FRAMES, DRAWN_SLICES) or not m[p].all() for m, p in zip(mask, places, strict=True)):
        raise ValueError("the contours are not those of two phases and nine slices each")
    inputs = whole.inputs["cine"]

    def cut(array: NDArray[Any]) -> NDArray[Any]:
        return np.stack([each[place] for each, place in zip(array, places, strict=True)])

    video = {"video": cut(inputs["video"]), "spacing": inputs["spacing"]}
    masks = {"frame_mask": np.ones((3, DRAWN_FRAMES), bool), "slice_mask": np.ones((3, DRAWN_SLICES), bool)}
    target, known = cut(whole.targets[TASK]), cut(mask)
    return replace(whole, inputs={"cine": video | masks}, targets={TASK: target}, target_mask={TASK: known})


def with_copies(cohort: Cohort, *, held_out: int, seed: int) -> Cohort:
    """One patient held out, and further rows of the others: the same images, changed at random."""
    draw = np.random.default_rng(seed)
    here = np.flatnonzero(cohort.patient != held_out)
    source = np.concatenate([np.arange(len(cohort)), np.repeat(here, COPIES)])
    inputs = {name: array[source] for name, array in cohort.inputs["cine"].items()}
    target = cohort.targets[TASK][source]
    for row in range(len(cohort), len(source)):
        inputs["video"][row], target[row] = changed(inputs["video"][row], target[row], draw)
    return replace(
        cohort,
        sample_ids=tuple(f"{cohort.sample_ids[s]}/{row}" for row, s in enumerate(source)),
        patient=cohort.patient[source],
        held_out=np.arange(len(cohort.patient_ids)) == held_out,
        inputs={"cine": inputs},
        present={"cine": cohort.present["cine"][source]},
        targets={TASK: target},
        target_mask={TASK: cohort.target_mask[TASK][source]},
    )


def changed(video: NDArray[Any], labels: Labels, draw: np.random.Generator) -> tuple[NDArray[Any], Labels]:
    """Images (…, size, size) turned, sized, perhaps mirrored and shifted alike, and their contrast changed."""
    angle, grow = np.radians(draw.uniform(-TURN, TURN)), np.exp(draw.uniform(-GROW, GROW))
    mirror, (across, down) = draw.choice([-1.0, 1.0]), draw.uniform(-2 * SHIFT, 2 * SHIFT, 2)  # the grid is 2 wide
    cos, sin = np.cos(angle) / grow, np.sin(angle) / grow
    theta = torch.tensor([[[mirror * cos, -sin, across], [mirror * sin, cos, down]]], dtype=torch.float32)
    images = torch.from_numpy(video.astype(np.float32)).flatten(0, 1)[None]
    contours = torch.from_numpy(labels.astype(np.float32)).flatten(0, 1)[None]
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    moved = grid_sample(images, grid, padding_mode="border", align_corners=False)[0].numpy()
    drawn = grid_sample(contours, grid, mode="nearest", align_corners=False)[0].numpy()
    bright, gain = draw.uniform(-CONTRAST, CONTRAST), np.exp(draw.uniform(-CONTRAST, CONTRAST))
    return (gain * moved + bright).reshape(video.shape).astype(video.dtype), drawn.reshape(labels.shape).astype("uint8")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Of the patient that was left out; predicted: (frames, slices, size, size)."""

    dice: float
    hd95: float
    missed: int  # drawn images on which nothing was predicted
    predicted: Labels


def left_out(study: Study, site: Site, cohort: Cohort, *, patient: int) -> Judged:
    """Train on the other patients, judge this one."""
    rows = with_copies(cohort, held_out=patient, seed=study.seed)
    trainer = Trainer(study=study, site=site, cohort=rows)
    model = build_model(study)
    arrays = select(model)
    for number in range(1, study.training.rounds + 1):
        arrays |= trainer.train(round=number, base=arrays, sigma=None)
    load(model, arrays)
    model.eval()
    batch = take(as_batch(cohort, device=torch.device("cpu")), np.array([patient]))
    with torch.no_grad():
        labels = model.predict(model.segment(batch))[TASK]
    counts = voxels(labels, batch.targets[TASK], batch.target_mask[TASK], structures=1)[0, 0]
    guess, both, truth = (float(count) for count in counts)
    drawn, predicted = cohort.targets[TASK][patient], labels[0].numpy()
    spacing = cohort.inputs["cine"]["spacing"][patient]
    distances = [hausdorff_95(p, d, spacing[[2, 0, 1]]) for p, d in zip(predicted, drawn, strict=True)]
    missed = int((drawn.any((2, 3)) & ~predicted.any((2, 3))).sum())
    return Judged(dice=2 * both / (guess + truth), hd95=float(np.mean(distances)), missed=missed, predicted=predicted)


def picture(path: Path, cohort: Cohort, patient: int, found: Mapping[str, Judged]) -> None:
    """Every drawn image of a patient: the contour as drawn, and as each network draws it."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    colours = {"drawn": "lime", "dae_former": "red", "cine_cnn": "deepskyblue"}
    masks = {"drawn": cohort.targets[TASK][patient], **{name: judged.predicted for name, judged in found.items()}}
    figure, axes = pyplot.subplots(DRAWN_FRAMES, DRAWN_SLICES, figsize=(2 * DRAWN_SLICES, 4.6), squeeze=False)
    for frame, line in enumerate(axes):
        for level, axis in enumerate(line):
            image = cohort.inputs["cine"]["video"][patient, frame, level].astype(np.float32)
            axis.imshow(image, cmap="gray", interpolation="nearest")
            for name, mask in masks.items():
                if mask[frame, level].any():
                    axis.contour(mask[frame, level], levels=[0.5], colors=[colours[name]], linewidths=1)
            axis.set_title(f"{FRAMES[frame]}, slice {level + 1}", fontsize=7)
            axis.axis("off")
    said = ", ".join(f"{n} ({colours[n]}) Dice {j.dice:.3f}, HD95 {j.hd95:.1f} mm" for n, j in found.items())
    figure.suptitle(f"{cohort.patient_ids[patient]}, left out of training: drawn by hand (lime), {said}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def figures_of(found: Mapping[str, Mapping[str, tuple[float, float, int]]]) -> list[Figure]:
    """Of encoder -> patient -> Dice, HD95 in mm, drawn images without a predicted pixel."""
    figures = []
    for encoder, patients in found.items():
        means = tuple(float(np.mean([each[k] for each in patients.values()])) for k in (0, 1))
        for named, (dice, far, *missed) in {**patients, "mean of the three": means}.items():
            note = f"{missed[0]} of 18 drawn images without a predicted pixel" if missed else ""
            figures.append(Figure(what=f"{encoder}, {named}, Dice", value=dice, note=note))
            figures.append(Figure(what=f"{encoder}, {named}, HD95 in mm", value=far, better="lower"))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, default=Path("runs/sunnybrook_lopo"), help="folder; not for commits")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    found: dict[str, dict[str, Judged]] = {encoder: {} for encoder in ENCODERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = load_study(import_sunnybrook(args.source, folder).study)
        studies = {encoder: study_of(written, encoder=encoder, seed=args.seed) for encoder in ENCODERS}
        cohort = read_drawn(folder, studies[ENCODERS[0]])
        for encoder, study in studies.items():
            for patient, named in enumerate(cohort.patient_ids):
                began = time.monotonic()
                site = load_site(folder / SITE).model_copy(update={"state": folder / f"{encoder}-{patient}"})
                judged = found[encoder][named] = left_out(study, site, cohort, patient=patient)
                told = f"Dice {judged.dice:.3f}, HD95 {judged.hd95:.1f} mm, {judged.missed} of 18 images without"
                print(f"{encoder:12} {named} {told} {time.monotonic() - began:4.0f} s", flush=True)
    args.pictures.mkdir(parents=True, exist_ok=True)
    for patient, named in enumerate(cohort.patient_ids):
        picture(args.pictures / f"{named}.png", cohort, patient, {e: found[e][named] for e in ENCODERS})
    keep(
        "sunnybrook_lopo",
        title=TITLE,
        command="python tests/benchmarks/sunnybrook_lopo.py --from ../shared/data/sunnybrook-cine",
        figures=figures_of({e: {n: (j.dice, j.hd95, j.missed) for n, j in f.items()} for e, f in found.items()}),
    )


if __name__ == "__main__":
    main()
