"""What an approver reads of secure aggregation and site-level privacy before a study runs here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fl_client.approval import approve
from fl_shared.site import Site
from fl_shared.trust import trust

MORE = "[sites.third]\nrole = 'train'\npatients = 200\n"


def rewritten(path: Path, *changes: tuple[str, str]) -> Path:
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("mode", "more", "noise", "epsilon"),
    [
        ("none", "", "local", None),
        ("patient", "epsilon = 8.0", "local", 8.0),
        ("patient", 'epsilon = 8.0\nnoise = "distributed"', "distributed", 8.0),
        ("site", "epsilon = 8.0", "local", 8.0),
        ("site", 'epsilon = 8.0\nnoise = "distributed"', "distributed", 8.0),
    ],
)
def test_whom_the_site_trusts_is_on_record(
    make_site: Callable[..., Site], write_study: Callable[..., Path], mode: str, more: str, noise: str, epsilon: float
) -> None:
    path = rewritten(
        write_study(mode="none", encoders="frozen", extra=MORE),
        ('mode = "none"', f'mode = "{mode}"\naggregation = "secure"\n{more}'),
        ("quorum = 1", "quorum = 3"),
        ("steps = 3", 'steps = 1\noptimizer = "sgd"'),
    )
    record = approve(make_site(open=True), path)
    assert (record.privacy, record.epsilon) == (mode, epsilon)
    assert record.trust == trust(mode=mode, aggregation="secure", noise=noise)
    assert all("masked" in text for text in record.leaves if "every round" in text)
    if mode == "none":
        assert "NO privacy mechanism: their sum over the sites is released as computed" in record.notes


def test_plain_aggregation_says_who_sees_updates(
    make_site: Callable[..., Site], write_study: Callable[..., Path]
) -> None:
    record = approve(make_site(), write_study())
    assert any("sees every hospital's update by itself" in sentence for sentence in record.trust)
    assert not any("masked" in text for text in record.leaves)
