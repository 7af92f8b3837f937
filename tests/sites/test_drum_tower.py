from __future__ import annotations

from pathlib import Path

import pytest

from fl_shared import concepts
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import Site, load_site
from fl_shared.toml import load

FOLDER = Path(__file__).resolve().parents[2] / "sites" / "drum_tower"


def test_only_the_paths_are_missing():
    with pytest.raises(ConsiliumError) as caught:
        load_site(FOLDER)
    assert {fault.key for fault in caught.value.faults} == {"samples", "data_root", "network.root_certificates"}
    assert {fault.problem for fault in caught.value.faults} == {"path does not exist"}


def test_columns_name_known_concepts_and_units():
    site = load(FOLDER / "site.toml", Site, code=ExitCode.SITE)
    for column in site.columns.values():
        concept = concepts.concept(column.concept)
        assert column.unit is None or column.unit in concept.known_units
        assert set(column.codes.values()) <= {*concept.codes.values()}
    assert (site.encoding, site.timezone) == ("gb18030", "Asia/Shanghai")
    assert (site.resources.actors, site.resources.gpus) == (4, 1.0)
    assert not site.privacy.allow_without_privacy
