"""Who is trusted for what: every combination is told, and nothing is claimed that does not hold there."""

from __future__ import annotations

from itertools import product

import pytest

from fl_shared.trust import DISTRIBUTED, LOCAL, METRICS, OPEN, PLAIN, SECURE, trust


@pytest.mark.parametrize(
    ("mode", "aggregation", "noise"), list(product(("patient", "site"), ("plain", "secure"), ("local", "distributed")))
)
def test_every_combination_has_its_sentences(mode: str, aggregation: str, noise: str) -> None:
    found = trust(mode=mode, aggregation=aggregation, noise=noise)
    unit = {"patient": "one patient", "site": "one hospital"}[mode]
    assert unit in found[0] and all(text.endswith(".") and "{" not in text for text in found)
    assert (LOCAL.format(unit=unit) in found) == (noise == "local")
    assert (DISTRIBUTED[1] in found) == (noise == "distributed")
    assert (METRICS in found) == (mode == "site")
    assert (PLAIN in found) == (aggregation == "plain") != (SECURE[0] in found)


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_without_privacy_no_bound_is_claimed(aggregation: str) -> None:
    found = trust(mode="none", aggregation=aggregation, noise="local")
    assert found[0] == OPEN and not any("bound on" in text for text in found)
