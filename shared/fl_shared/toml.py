"""Read a TOML file into a pydantic model and report every fault at once, in words."""

from __future__ import annotations

import tomllib
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from fl_shared.errors import ConsiliumError, ExitCode, Fault, UnfitError, nearest

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,47}$")]


class Section(BaseModel):
    """A frozen table of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=BaseModel)


def load(path: Path, model: type[ModelT], *, code: ExitCode) -> ModelT:
    """Parse and validate ``path``.

    Raises:
        ConsiliumError: with one `Fault` per wrong key (file, key, value, mend).
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConsiliumError(f"{path}: no such file", code=code) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConsiliumError(f"{path}: not valid TOML: {error}", code=code) from error
    return validated(raw, model, path=path, code=code)


def validated(raw: Any, model: type[ModelT], *, path: Path, code: ExitCode) -> ModelT:
    """Validate what stands (or would stand) in ``path``.

    Raises:
        ConsiliumError: with one `Fault` per wrong key (file, key, value, mend).
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        faults = [fault for item in error.errors() for fault in _faults(path, model, dict(item))]
        raise ConsiliumError(f"{path}: {len(faults)} fault(s)", code=code, faults=faults) from error


def _faults(path: Path, model: type[BaseModel], item: dict[str, Any]) -> Iterator[Fault]:
    unfit = item.get("ctx", {}).get("error")
    if isinstance(unfit, UnfitError):
        yield from (replace(fault, file=str(path)) for fault in unfit.faults)
    else:
        yield _fault(path, model, item)


def _fault(path: Path, model: type[BaseModel], item: dict[str, Any]) -> Fault:
    place = [part for part in item["loc"] if part != "[key]"]
    key = ".".join(str(part) for part in place)
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        return Fault(file=str(path), key=key, problem="unknown key", mend=nearest(str(place[-1]), known))
    if item["type"] == "missing":
        return Fault(file=str(path), key=key, problem="missing", mend="Add this key.")
    value = item.get("input")
    shown = repr(value) if isinstance(value, str | int | float | bool) else ""
    problem, _, mend = str(item["msg"]).removeprefix("Value error, ").partition(". ")
    return Fault(file=str(path), key=key or "(file)", value=shown, problem=problem, mend=mend or "Correct the value.")


def _fields_at(model: type[BaseModel], place: list[str | int]) -> list[str]:
    """The keys that are allowed at a place of the file."""
    current: Any = model
    for part in place:
        if _is_model(current):
            current = _bare(current.model_fields[part].annotation)
        elif get_origin(current) in (dict, tuple, list):
            current = _bare(get_args(current)[1 if get_origin(current) is dict else 0])
        elif get_origin(current) in (Union, types.UnionType):  # discriminated: the part is the tag
            current = next((m for m in get_args(current) if part in get_args(m.model_fields["kind"].annotation)), None)
    return list(current.model_fields) if _is_model(current) else []


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _bare(annotation: Any) -> Any:
    """``Annotated[X, …]`` and ``X | None`` -> ``X``; a union of several models stays."""
    while get_origin(annotation) in (Annotated, Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        if get_origin(annotation) is not Annotated and len(inner) > 1:
            return annotation
        annotation = inner[0]
    return annotation
