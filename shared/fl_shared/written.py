"""Writes the files that `fl_shared.study` and `fl_shared.site` read: a small TOML writer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fl_shared.models.systems import opened
from fl_shared.study import Study

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def write_model(path: Path, model: BaseModel, *, header: str) -> None:
    """Write the keys that were set on ``model`` as TOML; reading the file gives an equal model.

    Of a study, what its system would fill in is left open.

    Args:
        path: the file, replaced when it exists.
        model: a `Study` or a `Site` (any model of scalars, tables and lists of either).
        header: lines of comment at the top.
    """
    body = model.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    if isinstance(model, Study):
        body = opened(body)
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    path.write_text(f"{comment}\n{dumps(body)}", encoding="utf-8")


def dumps(table: Mapping[str, Any]) -> str:
    """TOML 1.0 of nested tables whose leaves are strings, booleans, finite numbers or lists of them and of tables."""
    return "\n".join(_table(table, ())).lstrip("\n") + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    leaves = [f"{_key(k)} = {_value(v)}" for k, v in table.items() if not isinstance(v, Mapping)]
    inner = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    head = ["", f"[{'.'.join(map(_key, path))}]"] if path and (leaves or not inner) else []
    return head + leaves + [line for k, v in inner.items() for line in _table(v, (*path, k))]


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # a JSON string is a TOML basic string, but for DEL, which TOML wants escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):  # within a list
        return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}"
    raise TypeError(f"no TOML for {type(value).__name__}")
