"""The oracle beside the demonstration's results: only where its number and the report's measure the same."""

from __future__ import annotations

import json

from fl_server.checkpoint import RunDirectory
from fl_server.demo import _with_oracle
from fl_shared.results import PrivacyResult, Results, SiteResult, StudyResult

TYPES = {"death": "binary", "events": "multilabel", "recovery": "survival", "los": "regression"}


def test_a_c_index_has_no_auroc_beside_it(tmp_path):
    row = {"site": "bern", "label": "", "patients": "all", "auroc": 0.8, "n": 9, "events": 3}
    oracle = [row | {"task": task} for task in (*TYPES, "elsewhere")]
    oracle += [row | {"task": "death", "site": "aachen"}, row | {"task": "death", "patients": "held_out"}]
    (tmp_path / "oracle.json").write_text(json.dumps({"oracle": oracle}))
    results = Results(
        schema=1,
        study=StudyResult(
            name="s", hash="0" * 64, system="m_prtm", synthetic=True, tasks=dict.fromkeys(TYPES, ("",)), types=TYPES,
            headline={}, modalities=("ehr",), leaky=(), package="0",
        ),
        privacy=PrivacyResult(mode="none", delta=1e-5, epsilon_budget=None, epsilon_spent={}),
        sites={"aachen": SiteResult(role="train", declared_patients=9),
               "bern": SiteResult(role="external", declared_patients=0)},
        rounds=(), evaluation=(), curves=(),
    )  # fmt: skip
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    told = _with_oracle(results, run.path, tmp_path)
    assert [note.partition(" (")[0] for note in told.notes] == [
        "Best possible AUROC at bern, death: 0.800", "Best possible AUROC at bern, events: 0.800"]  # fmt: skip
