"""Targets of segmentations: real files, and the numbers that a study gets of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from fl_client.data import arrays, drawn
from fl_client.data.check import summary
from fl_client.data.checking.wanted import wanted_by
from fl_client.data.checking.words import label_line
from fl_client.data.cohort import CheckReport, Cohort
from fl_client.data.load import Wanted, read_cohort
from fl_client.training.rows import as_batch
from fl_shared.errors import ConsiliumError
from fl_shared.site import load_site
from fl_shared.study import EvaluationPlan, ModalityPlan, Study, TaskPlan

sys.path.insert(0, str(Path(__file__).parent))
from mr_files import volume, write_cine

SHAPE = (8, 3, 20, 20)  # phases, slices, rows, columns: as many as the study's, so that nothing is resampled
CINE = ModalityPlan(kind="cine", frames=8, slices=3, size=20)
EHR = ModalityPlan(kind="table", fields=("age",))
SCAR = TaskPlan(type="segmentation", modality="cine", labels=("cavity", "scar"))
WALL = TaskPlan(type="segmentation", modality="cine", labels=("cavity", "myocardium"))
CAVITY = TaskPlan(type="segmentation", modality="cine", labels=("cavity",))
SITE = """
schema = 1
name = "drum_tower"
[columns.age]
concept = "age"
[modalities.ehr]
kind = "table"
[modalities.cine]
kind = "cine"
column = "cine_path"
{masks}
[tasks.death]
columns = {{ value = "tot" }}
{tasks}
"""
MASKS = 'mask_column = "mask_path"'
NAMED = '[tasks.drawn]\ntype = "segmentation"\nclasses = { "3" = "scar", "1" = "cavity" }\n'


def labels(seed: int) -> np.ndarray:
    """Numbers 0 to 3 everywhere, but for phase 2, in which nobody drew."""
    found = np.random.default_rng(seed).integers(0, 4, SHAPE).astype(np.uint8)
    found[2] = 0
    return found


def save(path: Path, values: np.ndarray) -> None:
    """(phases, slices, rows, columns) with an affine that leads from base to apex as the reader expects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.transpose(3, 2, 1, 0), np.diag([-1.5, -1.5, 8.0, 1.0])), path)


def hospital(
    root: Path, rows: list[tuple[str, str, str]], *, tasks: str = NAMED, masks: str = MASKS, **plans: TaskPlan
) -> tuple[Cohort | None, CheckReport]:
    """rows: age, cine, masks; the study wants the tasks ``plans`` and death."""
    table = ["patient_id,sample_id,index_time,age,tot,cine_path,mask_path"]
    table += [f"p{k},s{k},2020-01-01 10:00,{age},1,{cine},{mask}" for k, (age, cine, mask) in enumerate(rows)]
    (root / "samples.csv").write_text("\n".join(table) + "\n")
    (root / "site.toml").write_text(SITE.format(masks=masks, tasks=tasks))
    wanted = {"death": TaskPlan(type="binary"), **plans}
    evaluation = EvaluationPlan(salt="salt and pepper")
    plan = Wanted(modalities={"cine": CINE, "ehr": EHR}, tasks=wanted, evaluation=evaluation)
    return read_cohort(load_site(root), plan, workers=1)


def accepted(root: Path, rows: list[tuple[str, str, str]], **how: Any) -> tuple[Cohort, CheckReport]:
    cohort, report = hospital(root, rows, **how)
    assert cohort is not None, report.rejects
    return cohort, report


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Cines whose brightness is their label, so that the pictures themselves tell where each label lies."""
    for name, seed in (("one", 1), ("two", 2)):
        save(tmp_path / f"{name}.nii.gz", 100 * labels(seed).astype(np.int16) + 50)
        save(tmp_path / "masks" / f"{name}.nii.gz", labels(seed))
    return tmp_path


ROWS = [
    ("60", "one.nii.gz", "masks/one.nii.gz"),
    ("", "", "masks/one.nii.gz"),  # nothing at all
    ("61", "two.nii.gz", ""),
    ("62", "", "masks/two.nii.gz"),
    ("63", "two.nii.gz", "masks/two.nii.gz"),
]


def test_a_target_lies_on_the_pictures_of_its_row(root: Path) -> None:
    cohort, report = accepted(root, ROWS, drawn=SCAR)
    assert cohort.sample_ids == ("s0", "s2", "s3", "s4")
    target, mask = cohort.targets["drawn"], cohort.target_mask["drawn"]
    assert (target.shape, target.dtype, mask.shape) == ((4, 8, 3, 20, 20), np.uint8, (4, 8, 3))
    assert mask.any(axis=(1, 2)).tolist() == [True, False, False, True] and not target[1:3].any()
    assert not mask[:, 2].any() and mask[0, [0, 1, 3, 4, 5, 6, 7]].all()
    for row in (0, 3):
        video = cohort.inputs["cine"]["video"][row][mask[row]]
        brightness = {level: number for number, level in enumerate(np.unique(video))}
        assert len(brightness) == 4
        shown = np.vectorize(brightness.get)(video)
        np.testing.assert_array_equal(target[row][mask[row]], np.array([0, 1, 0, 2])[shown])  # as NAMED says
    assert report.repairs["drawn: masks with numbers of no label, taken as background"] == 2
    assert cohort.target_mask["death"].all()


def test_number_k_is_label_k_where_the_site_says_nothing(root: Path) -> None:
    plan = TaskPlan(type="segmentation", modality="cine", labels=("a", "b", "c"))
    cohort, report = accepted(root, ROWS[:1], tasks='[tasks.drawn]\ntype = "segmentation"\n', drawn=plan)
    kept = cohort.target_mask["drawn"][0]
    written = np.asarray(nib.load(root / "masks/one.nii.gz").dataobj).T.astype(np.uint8)
    assert {int(n): int((cohort.targets["drawn"][0][kept] == n).sum()) for n in range(4)} == {
        n: int((np.delete(written, 2, axis=0) == n).sum()) for n in range(4)
    }
    assert not any("no label" in what for what in report.repairs)


def test_several_tasks_share_a_reading_and_the_cache_serves_the_next(root: Path, monkeypatch) -> None:
    read, counted = drawn.read_masks, []

    def counting(*args: Any, **keys: Any) -> Any:
        counted.append(args)
        return read(*args, **keys)

    monkeypatch.setattr(drawn, "read_masks", counting)
    both = NAMED + '[tasks.wall]\ntype = "segmentation"\nclasses = { "1" = "cavity", "2" = "myocardium" }\n'
    first, _ = accepted(root, ROWS, tasks=both, drawn=SCAR, wall=WALL)
    assert len(counted) == 2
    second, _ = accepted(root, ROWS, drawn=SCAR)
    assert len(counted) == 2
    np.testing.assert_array_equal(first.targets["drawn"], second.targets["drawn"])
    scar, wall = first.targets["drawn"], first.targets["wall"]
    np.testing.assert_array_equal(scar == 1, wall == 1)
    assert ((scar == 2) & (wall == 2)).sum() == 0 and (wall == 2).any()


def test_large_targets_lie_in_a_file_and_become_tensors(root: Path, monkeypatch) -> None:
    small, _ = accepted(root, ROWS, drawn=SCAR)
    monkeypatch.setattr(arrays, "IN_MEMORY", 1000)
    large, _ = accepted(root, ROWS, drawn=SCAR)
    assert isinstance(large.targets["drawn"], np.memmap)
    batch = as_batch(large, device=torch.device("cpu"))
    assert (batch.targets["drawn"].dtype, batch.target_mask["drawn"].dtype) == (torch.uint8, torch.bool)
    np.testing.assert_array_equal(batch.targets["drawn"].numpy(), small.targets["drawn"])
    np.testing.assert_array_equal(batch.target_mask["drawn"].numpy(), small.target_mask["drawn"])


def test_an_unusable_mask_is_set_aside_and_its_row_stays(root: Path) -> None:
    (root / "masks" / "bad.nii.gz").write_bytes(b"no label map")
    rows = [
        ROWS[0],
        ("60", "one.nii.gz", "masks/bad.nii.gz"),
        ("60", "one.nii.gz", "../masks"),
        ("60", "none.nii.gz", "masks/one.nii.gz"),  # told once, of the cine
    ]
    cohort, report = accepted(root, rows, drawn=SCAR)
    assert len(cohort) == 4 and cohort.present["cine"].tolist() == [True, True, True, False]
    assert cohort.target_mask["drawn"].any(axis=(1, 2)).tolist() == [True, False, False, False]
    found = [(q.row, q.modality, q.check) for q in report.quarantined]
    assert found[0][:2] == (3, "cine masks")
    assert found[1:] == [(4, "cine masks", "path-outside-root"), (5, "cine", "file-missing")]


@pytest.mark.parametrize(("tasks", "masks"), [("", MASKS), (NAMED, "")])
def test_a_site_without_masks_trains_the_other_tasks(root: Path, tasks: str, masks: str) -> None:
    cohort, report = accepted(root, ROWS, tasks=tasks, masks=masks, drawn=SCAR)
    assert not cohort.target_mask["drawn"].any() and cohort.target_mask["death"].all()
    assert report.repairs["drawn: no masks are mapped at this site, nowhere labelled"] == len(ROWS)


@pytest.mark.parametrize(
    ("tasks", "key", "value"),
    [
        ('type = "segmentation"\nclasses = { "1" = "cavity", "3" = "scarr" }', "classes", "scarr"),
        ('type = "segmentation"\nclasses = { "1" = "cavity" }', "classes", "scar"),
        ('columns = { value = "tot" }', "type", ""),
        ('type = "binary"\ncolumns = { value = "tot" }', "type", "binary"),
    ],
)
def test_what_the_site_maps_wrongly_is_a_reject(root: Path, tasks: str, key: str, value: str) -> None:
    cohort, report = hospital(root, ROWS, tasks=f"[tasks.drawn]\n{tasks}\n", drawn=SCAR)
    assert cohort is None
    assert (f"tasks.drawn.{key}", value) in [(fault.key, fault.value) for fault in report.rejects]


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ('type = "segmentation"\ncolumns = { value = "x" }', "mask_column"),
        ('type = "segmentation"\nclasses = { "0" = "cavity" }', "from 1 to 255"),
        ('type = "segmentation"\nclasses = { "256" = "cavity" }', "from 1 to 255"),
        ('type = "binary"', "needs 'columns'"),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused(root: Path, tasks: str, words: str) -> None:
    with pytest.raises(ConsiliumError) as error:
        hospital(root, ROWS, tasks=f"[tasks.drawn]\n{tasks}\n")
    assert words in str(error.value.faults)


def write_contour(root: Path, phase: int, level: int, structure: str, radius: float) -> Path:
    """On the image that `write_cine` gives this InstanceNumber; pixels count from 1."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    points = np.stack([10.5 + radius * np.cos(angle), 10.5 + radius * np.sin(angle)], axis=1)
    path = root / "c" / f"IM-0001-{(SHAPE[1] - level) * 100 + phase:04d}-{structure}contour-manual.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{x:.2f} {y:.2f}\n" for x, y in points))
    return path


@pytest.fixture
def contoured(tmp_path: Path) -> Path:
    """Drawn: the cavity in phases 0 and 4 of slice 1, the wall around it in phase 0, an epicardium alone in 6."""
    write_cine(tmp_path / "p", volume(*SHAPE))
    for phase in (0, 4):
        write_contour(tmp_path, phase, 1, "i", 4.0)
    for phase in (0, 6):
        write_contour(tmp_path, phase, 1, "o", 7.0)
    return tmp_path


def where(mask: np.ndarray) -> list[tuple[int, int]]:
    return [(int(frame), int(level)) for frame, level in np.argwhere(mask)]


def test_a_frame_with_the_cavity_alone_does_not_say_that_there_is_no_wall(contoured: Path) -> None:
    rows, plain = [("60", "p", "c")], '[tasks.drawn]\ntype = "segmentation"\n'
    cohort, _ = accepted(contoured, rows, tasks=plain, drawn=WALL)
    assert where(cohort.target_mask["drawn"][0]) == [(0, 1)]
    target = cohort.targets["drawn"][0]
    assert {*np.unique(target[0, 1])} == {0, 1, 2} and not np.delete(target, 0, axis=0).any()
    cohort, report = accepted(contoured, rows, tasks=plain, drawn=CAVITY)
    assert where(cohort.target_mask["drawn"][0]) == [(0, 1), (4, 1)]
    assert {*np.unique(cohort.targets["drawn"][0])} == {0, 1}
    assert report.repairs["drawn: masks with numbers of no label, taken as background"] == 1


def test_contours_know_no_scar(contoured: Path) -> None:
    cohort, report = accepted(contoured, [("60", "p", "c")], drawn=SCAR)
    assert not cohort.target_mask["drawn"].any()
    assert report.repairs["drawn: contours know cavity and myocardium only, not labelled"] == 1


def test_a_renamed_contour_moves_in_spite_of_the_cache(contoured: Path) -> None:
    rows, plain = [("60", "p", "c")], '[tasks.drawn]\ntype = "segmentation"\n'
    accepted(contoured, rows, tasks=plain, drawn=CAVITY)
    path = contoured / "c" / f"IM-0001-{(SHAPE[1] - 1) * 100 + 4:04d}-icontour-manual.txt"
    path.rename(path.with_name(path.name.replace("204", "205")))
    cohort, _ = accepted(contoured, rows, tasks=plain, drawn=CAVITY)
    assert where(cohort.target_mask["drawn"][0]) == [(0, 1), (5, 1)]


def test_progress_counts_masks_too(root: Path) -> None:
    hospital(root, ROWS, drawn=SCAR)
    ticks: list[tuple[int, int]] = []
    rows = [*ROWS, ("60", "none.nii.gz", "masks/one.nii.gz")]
    hospital(root, rows)
    evaluation = EvaluationPlan(salt="salt and pepper")
    plan = Wanted(modalities={"cine": CINE}, tasks={"drawn": SCAR}, evaluation=evaluation)
    read_cohort(load_site(root), plan, workers=1, progress=lambda done, total: ticks.append((done, total)))
    assert ticks == [(n, 7) for n in range(1, 8)]  # four cines, three rows with both


def test_the_check_tells_how_often_a_structure_was_drawn(root: Path) -> None:
    """Exactly to the hospital, by the numbers in the files; no small cell to others."""
    quiet = labels(3)
    quiet[quiet == 3] = 2
    save(root / "masks" / "two.nii.gz", quiet)
    cohort, report = accepted(root, ROWS, drawn=SCAR)
    site = load_site(root)
    tasks = {"death": {"type": "binary"}, "drawn": SCAR.model_dump(exclude_unset=True)}
    study = Study.model_validate(
        {
            "schema": 1,
            "name": "prognosis",
            "seed": 1,
            "sites": {"drum_tower": {"role": "train", "patients": 10}},
            "tasks": tasks,
            "modalities": {"cine": CINE.model_dump(exclude_unset=True), "ehr": EHR.model_dump(exclude_unset=True)},
            "training": {"rounds": 1, "steps": 1, "batch": 2},
            "privacy": {"mode": "none"},
            "rounds": {"quorum": 1},
            "evaluation": {"salt": "salt and pepper"},
        }
    )
    found = summary(report, cohort, site=site, study=study, local=True)
    assert found["tasks"]["drawn"]["type"] == "segmentation"
    assert found["labels"]["drawn"] == [
        {"label": "cavity", "labelled": 2, "positive": 2},
        {"label": "scar", "labelled": 2, "positive": 1},
    ]
    assert label_line(found["labels"]["drawn"][1], found["tasks"]["drawn"]) == "1 (50.0 %) show it, of 2 with masks"
    outside = summary(report, cohort, site=site, study=study, local=False)["labels"]["drawn"]
    assert {entry["positive"] for entry in outside} == {"<10"}


def test_without_a_study_the_only_cine_with_masks_is_meant(root: Path) -> None:
    accepted(root, ROWS, drawn=SCAR)
    wanted, left_out = wanted_by(None, load_site(root))
    assert (wanted.tasks["drawn"].modality, wanted.tasks["drawn"].labels) == ("cine", ("scar", "cavity"))
    assert not left_out
    (root / "site.toml").write_text(SITE.format(masks="", tasks=NAMED))
    wanted, left_out = wanted_by(None, load_site(root))
    assert "drawn" not in wanted.tasks and left_out == ("task drawn: not one cine has a 'mask_column': add --study",)
