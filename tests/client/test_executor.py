"""The executor's guard against server-sent code, its thinness, and the private API of Flower that it stands on."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from flwr.clientapp.client_app import LoadClientAppError

from fl_client import executor
from fl_server import superlink


def test_a_bundle_of_names_passes_and_code_is_refused(capsys) -> None:
    executor.refuse_code(superlink.bundle({"pyproject.toml": superlink.BUNDLE}))
    with pytest.raises(LoadClientAppError):
        executor.refuse_code(superlink.bundle({"pyproject.toml": superlink.BUNDLE, "torch/__init__.py": "boom"}))
    assert json.loads(capsys.readouterr().out)["files"] == ["torch/__init__.py"]
    with pytest.raises(LoadClientAppError):
        executor.refuse_code(b"no zip")


def test_the_process_that_meets_server_code_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'pandas', 'wfdb', 'opacus', 'transformers', 'fl_client.data', 'fl_client.privacy'}"
    code = f"import sys, fl_client.executor; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_flowers_private_api_is_the_one_we_know() -> None:
    assert version("flwr") == "1.41.0"
    node = importlib.import_module("flwr.supernode.start_client_internal")
    launcher = importlib.import_module("flwr.supernode.cli.flower_supernode")
    runtime = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    client = importlib.import_module("flwr.supercore.protobuf.client")
    assert node.time.sleep and launcher.uvicorn.Config and launcher.uvicorn.Server and launcher.flower_supernode
    assert {"install_from_fab", "get_load_client_app_fn", "get_project_dir", "run_clientapp"} <= set(vars(runtime))
    assert client.httpx.Client
    assert executor.pull_objects.__kwdefaults__["max_time"] > 0
