"""The site file: where a hospital's data lie, what its columns mean, what the site allows.

Paths are relative to the folder of ``site.toml``. Units are UCUM codes. One row of the samples table is one sample;
the required columns are ``patient_id``, ``sample_id`` and ``index_time``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, PrivateAttr, StringConstraints, field_validator, model_validator

from fl_shared import concepts, toml
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.study import TaskType
from fl_shared.subgroups import GROUP_NAME, RESERVED
from fl_shared.toml import Name, Section

Port = Annotated[int, Field(ge=0, le=65535)]
GroupName = Annotated[str, StringConstraints(pattern=rf"^{GROUP_NAME.pattern}$")]


def known_encoding(value: str) -> str:
    """The name of an encoding that Python reads.

    Raises:
        ValueError: it is none.
    """
    try:
        "".encode(value)
    except LookupError as error:
        raise ValueError("unknown encoding. Use e.g. 'utf-8' or 'gb18030'.") from error
    return value


class ColumnMap(Section):
    """A column of the samples table and the concept (``fl_shared.concepts``) that it holds."""

    concept: Name
    unit: str | None = Field(default=None, description="UCUM code of the column; the concept's own when absent")
    codes: dict[str, float] = Field(default={}, description="text code in the file -> number of the concept")


class FileModality(Section):
    """A modality whose samples are files: the column of their paths, relative to the data root."""

    column: str


class WaveformFiles(FileModality):
    """ECG records: WFDB, EDF or DICOM."""

    kind: Literal["waveform"]
    aliases: dict[str, str] = Field(default={}, description="lead name in the file -> standard lead name")
    unit: Literal["uV", "mV", "V"] | None = Field(default=None, description="overrides the unit in the file header")


class CineFiles(FileModality):
    """Short-axis cine CMR: a folder of DICOM files, a multi-frame DICOM file or a NIfTI file a sample."""

    kind: Literal["cine"]
    series: str | None = Field(default=None, description="regular expression: only series with such a description")
    mask_column: str | None = Field(default=None, description="column of mask files (NIfTI) or contour folders")


class ImageFiles(FileModality):
    """A single image a sample: a DICOM file or folder of which one image is taken (late enhancement, X-ray)."""

    kind: Literal["image"]
    sequence: Literal["lge", "perfusion", "radiograph", "any"] = Field(
        default="any", description="what the image must be; other series of the folder are left out"
    )
    series: str | None = Field(default=None, description="regular expression: only series with such a description")


class EmbeddingFiles(FileModality):
    """Vectors that another model computed: one ``.npy`` or ``.safetensors`` file a sample."""

    kind: Literal["embedding"]


class MedicationTable(Section):
    """Prescriptions, told to the text encoder as sentences: rows of a table, each in a column named here."""

    file: Path = Field(description="CSV or parquet, relative to the folder of site.toml")
    subject: str = "subject_id"
    time: str = "time"
    drug: str = "drug"
    dose: str | None = "dose"
    unit: str | None = "unit"
    route: str | None = "route"
    frequency: str | None = "frequency"


class TextFiles(FileModality):
    """Notes, one file a sample."""

    kind: Literal["text"]
    encoding: str | None = Field(default=None, description="of the notes; the site's when absent")
    time_column: str | None = Field(default=None, description="when the note was written: later ones are set aside")
    medications: MedicationTable | None = None
    leakage_words: tuple[str, ...] = Field(default=(), description="words of an outcome: such notes are set aside")

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str | None) -> str | None:
        return None if value is None else known_encoding(value)


class EventTable(Section):
    """Irregular measurements in MEDS columns (subject_id, time, code, numeric_value, text_value)."""

    kind: Literal["events"]
    file: Path = Field(default=Path("events.parquet"), description="parquet or CSV, beside site.toml")
    codes: dict[str, ColumnMap] = Field(default={}, description="code in the file -> concept and unit")


class TableModality(Section):
    """A modality made of mapped columns: all of ``[columns]``."""

    kind: Literal["table"]


Modality = Annotated[
    WaveformFiles | CineFiles | ImageFiles | EmbeddingFiles | TextFiles | EventTable | TableModality,
    Field(discriminator="kind"),
]


class TaskMap(Section):
    """Columns that hold a task's labels, or what the numbers in its masks mean.

    binary: ``value``; multilabel: one column a label; multiclass: ``value``, codes to label names; regression:
    ``value`` and its unit; survival: ``time`` since the index time, its unit, and ``event`` (1: it happened);
    competing: ``time``, its unit, and ``cause``, codes to label names, where ``none`` or an empty cell is censored.
    segmentation: no columns, the masks are those of the cine (``mask_column``); ``classes`` names their numbers, number
    k is label k without it, and what is not named is background.
    """

    type: TaskType | None = Field(default=None, description="found from the columns when absent")
    columns: dict[str, str] = Field(default={}, description="label (or value, time, event, cause) -> column")
    codes: dict[str, Literal[0, 1]] = Field(default={"0": 0, "1": 1}, description="code -> 0 or 1")
    classes: dict[str, str] = Field(
        default={}, description="code (or number in the masks) -> label of a task with classes; itself when absent"
    )
    unit: str | None = Field(default=None, description="UCUM unit of times (d, wk, mo, a, h) or of the value")

    @model_validator(mode="after")
    def _columns_or_masks(self) -> Self:
        if self.type != "segmentation":
            if not self.columns:
                raise ValueError("a task needs 'columns'. Name at least one.")
            return self
        if self.columns:
            raise ValueError("a segmentation has no 'columns': its masks are the cine's mask_column. Remove them.")
        if odd := [code for code in self.classes if not re.fullmatch(r"[1-9]\d{0,2}", code) or int(code) > 255]:
            raise ValueError(f"'classes' names {odd}: numbers in masks are whole, from 1 to 255. Correct them.")
        return self


class SubgroupMap(Section):
    """Groups of patients that a study may ask results of: a column of the samples table."""

    column: str
    codes: dict[str, GroupName] = Field(min_length=2, description="code in the file -> group, as it is told outside")

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups."""
        return tuple(dict.fromkeys(self.codes.values()))


class SitePrivacy(Section):
    """The site's own limits; the stricter of site and study wins."""

    epsilon_cap: float = Field(default=10.0, gt=0, description="total epsilon this cohort may ever spend")
    delta: float = Field(default=1e-5, gt=0, lt=1e-2)
    allow_without_privacy: bool = Field(default=False, description="may the site join studies with mode 'none'?")
    min_patients: int = Field(default=10, ge=2, description="no metric leaves a cohort smaller than this")


class Resources(Section):
    """What the trainer actors may use."""

    actors: int = Field(default=1, ge=1, le=64, description="one per GPU, or per CPU share")
    threads: int = Field(default=1, ge=1, le=256, description="CPU threads an actor")
    gpus: float = Field(default=0.0, ge=0, le=16, description="GPUs an actor")


class CachePlan(Section):
    """Decoded samples kept on disk, so that files are decoded once."""

    folder: Path | None = Field(default=None, description="beside site.toml; below the site's state when absent")
    max_gib: float = Field(default=20.0, gt=0, description="the least recently used samples go first")


class Network(Section):
    """How the site reaches the coordinator, and its local ports (0: a free one is chosen)."""

    superlink: str = Field(default="127.0.0.1:9092", pattern=r"^[A-Za-z0-9.\-]+:\d{1,5}$", description="host:port")
    root_certificates: Path | None = Field(default=None, description="CA of the coordinator (PEM); needed to join")
    metrics_port: Port = 0


class Site(Section):
    """A hospital as written in ``site.toml``."""

    schema_version: Literal[1] = Field(alias="schema")
    name: Name
    title: str = ""
    roles: frozenset[Literal["train", "external"]] = frozenset({"train", "external"})
    synthetic: bool = False
    samples: Path = Path("samples.csv")
    data_root: Path = Path()
    encoding: str = "utf-8"
    timezone: str = "UTC"
    state: Path = Path("state")
    columns: dict[str, ColumnMap] = Field(default={})
    modalities: dict[Name, Modality] = Field(default={})
    tasks: dict[Name, TaskMap] = Field(default={})
    subgroups: dict[Name, SubgroupMap] = Field(default={})
    weights: dict[str, Path] = Field(default={}, description="pretrained directory name -> local path")
    privacy: SitePrivacy = SitePrivacy()
    resources: Resources = Resources()
    network: Network = Network()
    cache: CachePlan = CachePlan()
    _folder: Path = PrivateAttr(default=Path())

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("unknown time zone. Use an IANA name such as 'Asia/Shanghai'.")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str) -> str:
        return known_encoding(value)

    @field_validator("subgroups")
    @classmethod
    def _no_concept(cls, value: dict[str, SubgroupMap]) -> dict[str, SubgroupMap]:
        if taken := sorted(set(value) & {*concepts.names(), *RESERVED}):
            raise ValueError(f"{', '.join(taken)} is known already. Map it in [columns], or choose another name.")
        return value

    @property
    def folder(self) -> Path:
        """Folder of ``site.toml``."""
        return self._folder

    @property
    def state_dir(self) -> Path:
        """Where approvals, ledger, outbox, audit log and local weights are kept (0700)."""
        return (self.folder / self.state).resolve()

    @property
    def cache_dir(self) -> Path:
        """Where decoded samples are kept."""
        return (self.folder / self.cache.folder).resolve() if self.cache.folder else self.state_dir / "cache"

    @property
    def samples_path(self) -> Path:
        """The samples table."""
        return self.folder / self.samples

    @property
    def data_dir(self) -> Path:
        """Root of the files that the samples table names."""
        return (self.folder / self.data_root).resolve()

    @property
    def zone(self) -> ZoneInfo:
        """Time zone of naive times in the tables."""
        return ZoneInfo(self.timezone)


def load_site(path: Path) -> Site:
    """Read ``site.toml`` (or the folder that holds it); missing paths are faults too (exit code 11)."""
    path = path / "site.toml" if path.is_dir() else path
    site = toml.load(path, Site, code=ExitCode.SITE)
    site._folder = path.resolve().parent
    named = {"samples": site.samples_path, "data_root": site.data_dir}
    for name, mapped in site.modalities.items():
        if isinstance(mapped, EventTable):
            named[f"modalities.{name}.file"] = site.folder / mapped.file
        if isinstance(mapped, TextFiles) and mapped.medications is not None:
            named[f"modalities.{name}.medications.file"] = site.folder / mapped.medications.file
    named |= {f"weights.{name}": site.folder / where for name, where in site.weights.items()}
    if site.network.root_certificates is not None:
        named["network.root_certificates"] = site.folder / site.network.root_certificates
    faults = [
        Fault(file=str(path), key=key, value=str(where), problem="path does not exist", mend="Correct the path.")
        for key, where in named.items()
        if not where.exists()
    ]
    if faults:
        raise ConsiliumError(f"{path}: {len(faults)} fault(s)", code=ExitCode.SITE, faults=faults)
    return site
