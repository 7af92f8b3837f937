"""The parameter groups that stay at this site, one file a finished round, so that a restart continues the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.numpy

from fl_client.files import private_dir, write_private
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.wire import Arrays

KEPT = 3  # rounds on disk: a repeated round starts from the one before it


class LocalGroups:
    """``round_<k>.safetensors`` and the list of finished rounds, in ``folder``.

    Nothing is remembered in memory: the actors of a site, and in a simulation whichever process gets the next message,
    must all see the last finished round.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._list = folder / "finished.json"

    @property
    def _finished(self) -> list[int]:
        rounds: list[int] = json.loads(self._list.read_bytes()) if self._list.exists() else []
        return rounds

    @property
    def last(self) -> int | None:
        """The last finished round."""
        return max(self._finished, default=None)

    def before(self, round: int) -> Arrays | None:
        """The groups of this site's last finished round before ``round``; None when it has finished none.

        A site that missed a round goes on from the last one that it did finish.

        Raises:
            ConsiliumError: that round was finished, but its file is gone or unreadable (exit code 1).
        """
        earlier = max((k for k in self._finished if k < round), default=None)
        if earlier is None:
            return None
        try:
            return safetensors.numpy.load(self._path(earlier).read_bytes())
        except (OSError, safetensors.SafetensorError) as error:
            problem = f"local groups of round {earlier} cannot be read: {error}"
            fault = Fault(file=str(self._path(earlier)), key="local", problem=problem, mend="Restore this file.")
            raise ConsiliumError("local parameter groups are lost", code=ExitCode.FAILED, faults=[fault]) from error

    def finish(self, round: int, arrays: Arrays) -> None:
        """Keep the groups at the end of ``round`` durably, which undoes later rounds."""
        finished = [k for k in self._finished if k < round] + [round]
        private_dir(self._folder)
        write_private(self._path(round), safetensors.numpy.save(dict(arrays)))
        write_private(self._list, json.dumps(finished).encode())
        for number in finished[:-KEPT]:
            self._path(number).unlink(missing_ok=True)

    def _path(self, round: int) -> Path:
        return self._folder / f"round_{round}.safetensors"
