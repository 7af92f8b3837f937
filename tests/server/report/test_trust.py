"""The report says who is trusted for what, and its headline says how the bound was reached."""

from __future__ import annotations

import pytest

from fl_server.report import view
from fl_shared.results import PrivacyResult
from fl_shared.trust import trust


def privacy(mode, aggregation, noise):
    private = mode != "none"
    return PrivacyResult(
        mode=mode,
        aggregation=aggregation,
        noise=noise,
        trust=trust(mode=mode, aggregation=aggregation, noise=noise),
        delta=1e-5,
        epsilon_budget=8.0 if private else None,
        epsilon_spent={"aarau": 7.5} if private else {},
    )


@pytest.mark.parametrize(
    ("mode", "aggregation", "noise", "says"),
    [
        ("none", "plain", "local", "NO PRIVACY GUARANTEE (mode none)"),
        ("none", "secure", "local", "NO PRIVACY GUARANTEE (mode none, under secure aggregation)"),
        ("patient", "plain", "local", "patient-level DP: epsilon = 7.5"),
        ("patient", "secure", "local", "delta = 1e-05, under secure aggregation"),
        ("patient", "secure", "distributed", "noise distributed under secure aggregation"),
        ("site", "plain", "local", "site-level DP: epsilon = 7.5"),
        ("site", "secure", "distributed", "site-level DP: epsilon = 7.5"),
    ],
)
def test_the_page_says_whom_it_rests_on(results, read, tmp_path, mode, aggregation, noise, says):
    told = privacy(mode, aggregation, noise)
    assert says in view.privacy_claim(told)
    _, _, text = read(results.model_copy(update={"privacy": told}), tmp_path)
    for sentence in told.trust:
        assert sentence in text
    assert ("patient-level" in text) == (mode == "patient")
    assert ("a hospital's taking part" in text) == (mode == "site")
