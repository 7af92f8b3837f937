"""``python -m deployed.message_site FOLDER SUPERLINK CA``: our site, whose service sends back what it gets."""

from __future__ import annotations

import sys
from pathlib import Path

from deployed.site_process import serve

from fl_shared.wire import Reply


class Echo:
    """The least that a service can do."""

    def __init__(self, name: str) -> None:
        self._reply = Reply(status="ok", site=name).model_dump_json()

    def handle(self, _request: str, arrays: dict[str, bytes], /) -> tuple[str, dict[str, bytes]]:
        """See `fl_client.runtime.Service`."""
        return self._reply, arrays


if __name__ == "__main__":
    folder, superlink, certificates = sys.argv[1:]
    serve(Path(folder), Echo(Path(folder).name), superlink=superlink, certificates=Path(certificates))
