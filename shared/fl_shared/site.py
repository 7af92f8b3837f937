"""The site file: where a hospital's data lie, what its columns mean, what the site allows.

Paths are relative to the folder of ``site.toml``. Units are UCUM codes. One row of the samples table is one sample;
the required columns are ``patient_id``, ``sample_id`` and ``index_time``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, PrivateAttr, field_validator

from fl_shared import toml
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.toml import Name, Section

Port = Annotated[int, Field(ge=0, le=65535)]


class ColumnMap(Section):
    """A column of the samples table and the concept (``fl_shared.concepts``) that it holds."""

    concept: Name
    unit: str | None = Field(default=None, description="UCUM code of the column; the concept's own when absent")
    codes: dict[str, float] = Field(default={}, description="text code in the file -> number of the concept")


class FileModality(Section):
    """A modality whose samples are files: the column of paths (relative to the data root), and how to read them."""

    kind: Literal["waveform", "text"]
    column: str
    aliases: dict[str, str] = Field(default={}, description="lead name in the file -> standard lead name")
    unit: str | None = Field(default=None, description="overrides the unit in the file header (waveform)")


class TableModality(Section):
    """A modality made of mapped columns: all of ``[columns]``."""

    kind: Literal["table"]


class TaskMap(Section):
    """Columns that hold a task's labels (0/1, or the codes given)."""

    columns: dict[str, str] = Field(
        min_length=1, description="label -> column; a binary task has the single label 'value'"
    )
    codes: dict[str, Literal[0, 1]] = Field(default={"0": 0, "1": 1})


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
    modalities: dict[Name, Annotated[FileModality | TableModality, Field(discriminator="kind")]] = Field(default={})
    tasks: dict[Name, TaskMap] = Field(default={})
    weights: dict[str, Path] = Field(default={}, description="pretrained directory name -> local path")
    privacy: SitePrivacy = SitePrivacy()
    resources: Resources = Resources()
    network: Network = Network()
    _folder: Path = PrivateAttr(default=Path())

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("unknown time zone. Use an IANA name such as 'Asia/Shanghai'.")
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError as error:
            raise ValueError("unknown encoding. Use e.g. 'utf-8' or 'gb18030'.") from error
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
