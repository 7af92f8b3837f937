"""What is taken for a cine, and what is not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fl_client.data.findings import UnreadableError

sys.path.insert(0, str(Path(__file__).parent))
from mr_files import ds, opened, place, read, uid, volume, write_cine, write_enhanced, write_scouts, write_still


def refused(root: Path, **keys) -> str:
    with pytest.raises(UnreadableError) as error:
        opened(root, "p", **keys)
    return f"{error.value.check}: {error.value.detail}"


def write_lge(folder: Path, **elements) -> None:
    about = {"SeriesDescription": "", "ScanningSequence": ["GR", "IR"], "InversionTime": "280"}
    about |= {"SeriesInstanceUID": uid("series", 30), "SeriesNumber": 30, **elements}
    for level in range(4):
        where = ds(*place(level))
        write_still(folder / f"lge{level}", volume(1, 1, seed=level)[0, 0], ImagePositionPatient=where, **about)


def test_scouts_alone_are_quarantined_by_name(tmp_path):
    write_scouts(tmp_path / "p")
    assert refused(tmp_path) == "not-cine: p: no cine with positions; series: scout"


def test_scouts_and_late_enhancement_are_told_apart(tmp_path):
    write_scouts(tmp_path / "p")
    write_lge(tmp_path / "p")
    assert refused(tmp_path).endswith("series: lge, scout")


def test_a_scout_without_a_description_is_known_by_its_planes(tmp_path):
    write_scouts(tmp_path / "p", SeriesDescription="")
    assert refused(tmp_path).endswith("series: scout")


def test_a_cine_beside_scouts_late_enhancement_and_perfusion_is_found(tmp_path):
    truth = volume(12, 3)
    write_cine(tmp_path / "p", truth, SeriesDescription="")
    write_scouts(tmp_path / "p")
    write_lge(tmp_path / "p")
    write_cine(tmp_path / "p", volume(40, 4, seed=3), series=40, names="perf{}", SeriesDescription="first pass")
    np.testing.assert_array_equal(opened(tmp_path).voxels(), truth)


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ("localizer", "scout"),
        ("TI_Scout_cine", "scout"),
        ("SURVEY_BFFE", "scout"),
        ("3-plane loc", "scout"),
        ("heart_loc_2", "scout"),
        ("AdenoStress_Perf_SA", "perfusion"),
        ("Rest first-pass", "perfusion"),
        ("LGE_SA_PSIR", "lge"),
        ("delayed enhancement 2", "lge"),
        ("late Gd", "lge"),
        ("T1map_molli_5(3)3", "map"),
        ("T2* multi echo", "map"),
        ("flow_aorta_venc150", "flow"),
        ("cine PC through plane", "flow"),
        ("gridtag_sa", "tagging"),
        ("tag cine 8mm", "tagging"),
    ],
)
def test_descriptions_that_exclude(tmp_path, description, kind):
    write_cine(tmp_path / "p", volume(12, 2), SeriesDescription=description)
    assert refused(tmp_path).endswith(f"series: {kind}")


@pytest.mark.parametrize(
    "description",
    [
        "cine_sa",
        "BTFE_BH SA",
        "FIESTA short axis",
        "kurze Achse",
        "TrueFISP retro location block",
        "短轴 电影",
        "",
        "allocated sa",
    ],
)
def test_descriptions_that_do_not_exclude(tmp_path, description):
    write_cine(tmp_path / "p", volume(12, 2), SeriesDescription=description, SpecificCharacterSet="GB18030")
    assert opened(tmp_path).shape[:2] == (12, 2)


@pytest.mark.parametrize(
    ("elements", "kind"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "scout"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "flow"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "VELOCITY MAP"]}, "flow"),
        ({"AcquisitionContrast": "PERFUSION"}, "perfusion"),
        ({"AcquisitionContrast": "TAGGING"}, "tagging"),
        ({"ProtocolName": "Viability", "SeriesDescription": ""}, "lge"),
        ({"Modality": "CT"}, "other"),
        ({"Modality": "DX"}, "radiograph"),
        ({"TriggerTime": "210", "SeriesDescription": "sa"}, "dynamic"),  # the same time of many beats
    ],
)
def test_headers_that_exclude(tmp_path, elements, kind):
    plain = {"SeriesDescription": "", "ImageType": ["ORIGINAL", "PRIMARY", "M"], "times": None}
    write_cine(tmp_path / "p", volume(12, 2), **{**plain, **elements})
    assert refused(tmp_path).endswith(f"series: {kind}")


def test_a_protocol_of_the_whole_examination_excludes_nothing(tmp_path):
    write_cine(tmp_path / "p", volume(12, 2), ProtocolName="Cardiac function and viability")
    assert opened(tmp_path).shape[:2] == (12, 2)


def test_times_beyond_one_beat_are_no_cine(tmp_path):
    paths = write_cine(tmp_path / "p", volume(80, 1), SeriesDescription="sa")  # 80 times 36 ms: 2.9 s
    assert len(paths) == 80
    assert refused(tmp_path).endswith("series: dynamic")


def test_two_acquisitions_in_one_series_are_not_mixed(tmp_path):
    write_cine(tmp_path / "p", volume(12, 2))
    write_cine(tmp_path / "p", volume(12, 2, seed=4), names="again{}", SOPInstanceUID=None)
    assert refused(tmp_path).endswith("series: dynamic")


def test_many_inversion_times_are_a_map(tmp_path):
    truth = volume(8, 1)
    for phase in range(8):
        write_cine(tmp_path / "p", truth, names=f"{phase}-{{}}", SeriesDescription="",
                   skip=tuple((p, 0) for p in range(8) if p != phase), InversionTime=str(100 + 80 * phase))  # fmt: skip
    assert refused(tmp_path).endswith("series: map")


def test_without_times_words_or_the_number_of_images_must_say_cine(tmp_path):
    plain = {"ImageType": ["ORIGINAL", "PRIMARY", "M"]}
    write_cine(tmp_path / "p", volume(12, 2), times=None, SeriesDescription="dynamic sa", **plain)
    assert refused(tmp_path).endswith("series: dynamic")
    write_cine(tmp_path / "p", volume(12, 2), times=None, SeriesDescription="cine", **plain)
    assert opened(tmp_path).shape[:2] == (12, 2)


def test_only_long_axes_are_no_short_axis(tmp_path):
    write_cine(tmp_path / "p", volume(12, 1), SeriesDescription="cine_4ch")
    assert refused(tmp_path).startswith("not-short-axis")


def test_series_restricts_by_regular_expression(tmp_path):
    truth = volume(12, 2)
    write_cine(tmp_path / "p", truth, SeriesDescription="MY SA 1")
    write_cine(tmp_path / "p", volume(12, 5, seed=2), series=9, names="b{}", SeriesDescription="other")
    np.testing.assert_array_equal(opened(tmp_path, series=r"^my sa \d$").voxels(), truth)
    assert refused(tmp_path, series="absent").startswith("series-not-found")
    assert refused(tmp_path, series="(").startswith("series-pattern")


def test_enhanced_contrast_excludes(tmp_path):
    ones = np.ones((8, 2))
    write_enhanced(tmp_path / "p", volume(8, 2), slopes=ones, intercepts=ones, AcquisitionContrast="FLOW_ENCODED")
    assert refused(tmp_path).endswith("series: flow")


def test_too_few_phases_are_a_still(tmp_path):
    write_cine(tmp_path / "p", volume(5, 2))
    assert refused(tmp_path).endswith("series: single")


def test_quarantined_samples_have_no_arrays(tmp_path):
    write_scouts(tmp_path / "p")
    with pytest.raises(UnreadableError):
        read(tmp_path)
