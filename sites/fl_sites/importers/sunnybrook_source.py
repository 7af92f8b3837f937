"""Reads and checks a Sunnybrook cardiac download: images, contours, the table of patients."""

from __future__ import annotations

import lzma
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from fl_shared.errors import Fault
from fl_sites.importers.imported import incomplete, listed, missing

ARCHIVE, FOLDER, CONTOURS, LINK, PATIENTS = "dicoms.tar.xz", "dicoms", "contours", "link.csv", "scd_patientdata.csv"
PATHOLOGIES = {
    "Heart failure with infarct": "infarct",
    "Heart failure without infarct": "no_infarct",
    "Hypertrophy": "hypertrophy",
    "Normal": "normal",
}
"""Pathology as written -> label."""
_COLUMNS = {LINK: ("patient_id", "original_id"), PATIENTS: ("PatientID", "OriginalID", "Gender", "Age", "Pathology")}
# i and o are the walls, p1 and p2 papillary muscles
_CONTOUR = re.compile(r"IM-\d{4}-(?P<image>\d{4,6})-(?:[io]|p\d)contour-manual\.txt")
_ID = re.compile(r"[A-Za-z0-9-]+")  # it becomes the name of a folder
_WHAT = "Sunnybrook cardiac data"
_MEND = "Use the unmodified files of the release."


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checked download.

    patients: index patient id; columns original_id, Gender, Age, Pathology; images, contours: patient id -> files.
    Contours lie anywhere under ``contours/<original id>``; files of other names are left out.
    """

    patients: pd.DataFrame
    images: Mapping[str, list[Path]]
    contours: Mapping[str, list[Path]]


@contextmanager
def opened(source: Path) -> Iterator[Source]:
    """A folder with both tables, ``contours`` and ``dicoms.tar.xz`` (unpacked to a temporary folder) or ``dicoms``.

    Raises:
        ConsiliumError: (exit code 12) everything that is wrong or missing, at once.
    """
    packed = not (source / FOLDER).is_dir()
    mend = "Point --from at the folder that holds link.csv, or download this part again."
    if faults := missing(source, (ARCHIVE if packed else FOLDER, CONTOURS, LINK, PATIENTS), mend=mend):
        raise incomplete(source, _WHAT, faults)
    patients = _patients(source)
    with TemporaryDirectory(prefix="consilium-sunnybrook-") as temporary:
        if packed:
            _unpack(source / ARCHIVE, Path(temporary))
        yield _files(source, Path(temporary) / FOLDER if packed else source / FOLDER, patients)


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive, "r:xz") as packed:
            packed.extractall(folder, filter="data")
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        value = f"{type(error).__name__}: {error}"[:120]
        fault = Fault(file=str(archive), key="(file)", value=value, problem="cannot be unpacked", mend=_MEND)
        raise incomplete(archive.parent, _WHAT, [fault]) from error


def _patients(source: Path) -> pd.DataFrame:
    """The linked patients, with what the table says of them."""
    tables, faults = {}, []
    for name, columns in _COLUMNS.items():
        try:
            tables[name] = pd.read_csv(source / name, dtype=str, encoding="utf-8", keep_default_na=False)
        except ValueError:  # pandas' parser errors and wrong bytes
            tables[name] = pd.DataFrame()
        absent = [column for column in columns if column not in tables[name]]
        faults += [Fault(file=str(source / name), key=c, problem="column missing", mend=_MEND) for c in absent]
    if not faults:
        faults = list(_table_faults(source, tables[LINK], tables[PATIENTS]))
    if faults:
        raise incomplete(source, _WHAT, faults)
    link = tables[LINK].set_index("patient_id")[["original_id"]].sort_index()
    return link.join(tables[PATIENTS].set_index("PatientID")[["Gender", "Age", "Pathology"]])


def _table_faults(source: Path, link: pd.DataFrame, patients: pd.DataFrame) -> Iterator[Fault]:
    for name, ids in ((LINK, link["patient_id"]), (PATIENTS, patients["PatientID"])):
        if ids.duplicated().any() or not len(ids):
            value = listed(sorted(set(ids[ids.duplicated()])))
            problem = "a patient twice" if value else "no patients"
            yield Fault(file=str(source / name), key=str(ids.name), value=value, problem=problem, mend=_MEND)
        if not (good := ids.str.fullmatch(_ID)).all():
            value, problem = listed([f"{cell!r}" for cell in ids[~good]]), "not an id of the release"
            yield Fault(file=str(source / name), key=str(ids.name), value=value, problem=problem, mend=_MEND)
    told = dict(zip(patients["PatientID"], patients["OriginalID"], strict=True))
    other = [p for p, o in zip(link["patient_id"], link["original_id"], strict=True) if told.get(p) != o]
    if other:
        problem = f"{PATIENTS} does not have these pairs of ids"
        yield Fault(file=str(source / LINK), key="original_id", value=listed(other), problem=problem, mend=_MEND)
    for column, good in (
        ("Gender", patients["Gender"].isin(["Male", "Female"])),
        ("Age", patients["Age"].str.fullmatch(r"\d{1,3}")),
        ("Pathology", patients["Pathology"].isin(list(PATHOLOGIES))),
    ):
        if not good.all():
            value = listed([f"{cell!r}" for cell in patients.loc[~good, column].unique()])
            yield Fault(file=str(source / PATIENTS), key=column, value=value, problem="unknown value", mend=_MEND)


def _files(source: Path, dicoms: Path, patients: pd.DataFrame) -> Source:
    """Images and contours of every linked patient; each contour has its image."""
    faults: list[Fault] = []
    images: dict[str, list[Path]] = {}
    contours: dict[str, list[Path]] = {}
    for patient, original in patients["original_id"].items():
        images[str(patient)] = sorted((dicoms / str(patient)).glob("*.dcm"), key=lambda path: (len(path.name), path))
        contours[str(patient)] = sorted(p for p in (source / CONTOURS / original).rglob("*.txt") if _image_of(p))
        faults += _file_faults(source, str(patient), original, images[str(patient)], contours[str(patient)])
    if faults:
        raise incomplete(source, _WHAT, faults)
    return Source(patients=patients, images=images, contours=contours)


def _file_faults(
    source: Path, patient: str, original: str, images: list[Path], contours: list[Path]
) -> Iterator[Fault]:
    mend = "Download this part again."
    if not images:
        yield Fault(file=str(source / FOLDER / patient), key="*.dcm", problem="no images", mend=mend)
    if damaged := [path.name for path in images if not _is_dicom(path)]:
        file, problem = str(source / FOLDER / patient), "no DICOM files"
        yield Fault(file=file, key=f"{len(damaged)} files", value=listed(damaged), problem=problem, mend=mend)
    folder = str(source / CONTOURS / original)
    if not contours:
        yield Fault(file=folder, key="IM-*contour-manual.txt", problem="no contours", mend=mend)
    there = {path.stem for path in images}
    alone = [path.name for path in contours if str(_image_of(path)) not in there]
    if images and alone:
        key, problem = f"{len(alone)} contours", f"their images are not in {FOLDER}/{patient}"
        yield Fault(file=folder, key=key, value=listed(alone), problem=problem, mend=mend)


def _image_of(contour: Path) -> int | None:
    """The number of the image that a contour is drawn on; None for any other file."""
    found = _CONTOUR.fullmatch(contour.name)
    return int(found["image"]) if found else None


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
