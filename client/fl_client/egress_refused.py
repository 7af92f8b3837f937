"""What the egress gate raises: nothing left."""

from __future__ import annotations

from fl_shared.wire import Code


class EgressRefusedError(Exception):
    """Something must not leave; ``code`` is all that may be told outside, the text stays here."""

    def __init__(self, text: str, code: Code = Code.EGRESS) -> None:
        super().__init__(text)
        self.code = code
