"""The JSON schema of ``results.json``, kept in the repository for those who read results with other tools."""

from __future__ import annotations

import json
from pathlib import Path

from fl_shared.results import Results

SCHEMA_PATH = Path(__file__).with_name("results.schema.json")


def schema_text() -> str:
    """The schema as it should stand in the repository."""
    return json.dumps(Results.model_json_schema(by_alias=True), indent=2, ensure_ascii=False) + "\n"


def write_schema(path: Path = SCHEMA_PATH) -> None:
    """Write the schema; run after a change of `fl_shared.results` (``python -m fl_server.report.schema``)."""
    path.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    write_schema()
