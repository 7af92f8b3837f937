"""What this site's own records say of a study: whether it trained or counted patients here, and where that stands.

Every record that has one is enough: who removes traces must remove all of them, and break two chained logs.
"""

from __future__ import annotations

from collections.abc import Mapping

from fl_shared.audit import AuditLog
from fl_shared.site import Site

TRAINED = frozenset({"train", "pretrain", "encoders"})


class Traces:
    """The records of one site."""

    def __init__(self, site: Site) -> None:
        self._state = site.state_dir

    def trained(self, study: str) -> str:
        """Where it stands that a study trained here ("" when nowhere)."""
        folder = self._state / "outbox" / study
        if any(folder.glob("round_*")) or (folder / "encoders.safetensors").exists():
            return "outbox"
        return self._logged(study, TRAINED)

    def studies(self) -> frozenset[str]:
        """Studies of which the outbox holds a round."""
        return frozenset(path.parent.name for path in (self._state / "outbox").glob("*/round_*.safetensors"))

    def counted(self, study: str) -> str:
        """Where it stands that a study's statistics were released here ("" when nowhere)."""
        if any((self._state / "outbox" / study).glob("statistics*")):
            return "outbox"
        return self._logged(study, frozenset({"statistics"}))

    def local_rounds(self, study: str) -> tuple[int, ...]:
        """Rounds whose local groups are kept here."""
        found = (self._state / "local" / study).glob("round_*.safetensors")
        return tuple(sorted(int(path.stem.removeprefix("round_")) for path in found))

    def _logged(self, study: str, actions: frozenset[str]) -> str:
        for name in ("audit", "egress"):
            log = AuditLog(self._state / f"{name}.jsonl")
            if (wrong := log.verify()) is not None:
                return f"the {name} log was altered at row {wrong}: nobody can say"
            if any(_is(row, study, actions) for row in log.rows()):
                return f"{name} log"
        return ""


def _is(row: Mapping[str, object], study: str, actions: frozenset[str]) -> bool:
    action = str(row.get("action", "")).removeprefix("release-")
    return row.get("study") == study and action in actions and row.get("outcome", "ok") == "ok"
