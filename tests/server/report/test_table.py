"""The terminal table and the JSON schema."""

from __future__ import annotations

import io
import json

from rich.console import Console

from fl_server.report.schema import SCHEMA_PATH, schema_text
from fl_server.report.table import headline_table
from fl_shared.results import Results


def printed(results, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    headline_table(results, console)
    return console.file.getvalue()


def test_headline_with_interval_fits_a_usual_terminal(results):
    text = printed(results, 80)
    headline = [r for r in results.evaluation if r.modalities == "headline" and r.metric == "auroc" and r.value]
    for row in headline:
        if row.label in ("", "macro"):
            assert f"{row.value:.3f} ({row.ci_low:.3f}–{row.ci_high:.3f})" in text
    assert text.index("harbour (external)") < text.index("drum_tower (internal)")
    assert "text (leaky)" in text
    assert "SYNTHETIC DATA" in text
    assert "7.93" in text


def test_a_withheld_headline_says_why(results):
    assert "suppressed: fewer than 10 patients" in printed(results, 120)


def test_schema_in_the_repository_is_current():
    assert SCHEMA_PATH.read_text(encoding="utf-8") == schema_text()


def test_schema_names_the_fields_of_a_run(results):
    schema = json.loads(schema_text())
    assert set(json.loads(results.model_dump_json(by_alias=True))) == set(schema["properties"])
    assert Results.model_validate_json(results.model_dump_json(by_alias=True)) == results
