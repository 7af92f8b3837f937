"""Run by test_kill_points.py: a site as it runs in a hospital, less Flower's processes: socket, service, Ray and actor.

``python whole_site.py FOLDER``; says ``ready`` and the socket's folder, then serves until it is killed.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from fl_client.runtime import Runtime
from fl_client.service import SiteService
from fl_client.training.actors import RayPool
from fl_shared.site import load_site


def main() -> None:
    """Serve for ever."""
    site = load_site(Path(sys.argv[1]))
    pool = RayPool(site, address=None, namespace=f"consilium-{site.name}")
    runtime = Runtime(site, SiteService(site, pool))
    runtime.start()
    print(f"ready {runtime.socket.parent}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
