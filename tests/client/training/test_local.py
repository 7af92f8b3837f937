from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fl_client.training.local import LocalGroups
from fl_shared.errors import ConsiliumError


def arrays(value: float) -> dict[str, np.ndarray]:
    return {"encoders.w": np.full(3, value, dtype=np.float32)}


def test_processes_that_take_turns_see_the_same_rounds(tmp_path: Path) -> None:
    """A simulation gives a site's messages to whichever process is free."""
    one, other = LocalGroups(tmp_path), LocalGroups(tmp_path)
    one.finish(1, arrays(1))
    other.finish(2, arrays(2))
    assert one.last == 2
    assert one.before(3)["encoders.w"].tolist() == [2, 2, 2]
    assert one.before(2)["encoders.w"].tolist() == [1, 1, 1]


def test_a_repeated_round_undoes_the_later_ones(tmp_path: Path) -> None:
    groups = LocalGroups(tmp_path)
    for number in (1, 2, 3):
        groups.finish(number, arrays(number))
    groups.finish(2, arrays(20))
    assert groups.last == 2
    assert groups.before(4)["encoders.w"].tolist() == [20, 20, 20]


def test_a_lost_file_is_said_not_started_anew(tmp_path: Path) -> None:
    groups = LocalGroups(tmp_path)
    groups.finish(1, arrays(1))
    (tmp_path / "round_1.safetensors").unlink()
    with pytest.raises(ConsiliumError, match="lost"):
        groups.before(2)
