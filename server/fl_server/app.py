"""The ServerApp: runs one study over Flower's Grid. It imports neither torch nor ray."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_server.grid import GridFleet
from fl_server.launch import conduct

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """``run_config``: ``run``, the run's folder, prepared by ``fl-server run``."""
    conduct(Path(str(context.run_config["run"])), GridFleet(grid))
