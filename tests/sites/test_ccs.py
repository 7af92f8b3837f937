from __future__ import annotations

import pytest

from fl_shared.errors import ConsiliumError, ExitCode
from fl_sites.importers.ccs import PHENOTYPES, read_ccs

# one ICD-9-CM and one ICD-10-CM code of every phenotype's category, by AHRQ's tables (public domain)
CODES = {
    2: ("0389", "A419"),
    49: ("25000", "E119"),
    50: ("25040", "E1121"),
    53: ("2724", "E785"),
    55: ("2761", "E871"),
    98: ("4019", "I10"),
    99: ("40290", "I110"),
    100: ("41071", "I214"),
    101: ("41401", "I2510"),
    105: ("4260", "I442"),
    106: ("42731", "I4891"),
    108: ("4280", "I509"),
    109: ("43491", "I639"),
    122: ("486", "J189"),
    127: ("496", "J449"),
    130: ("5119", "J90"),
    131: ("51881", "J9601"),
    133: ("78609", "R0600"),
    134: ("4730", "J320"),
    151: ("5715", "K7460"),
    153: ("5789", "K922"),
    157: ("5849", "N179"),
    158: ("5859", "N189"),
    238: ("9974", "K9189"),
    249: ("78551", "R570"),
}


def write_icd9(path, codes):
    """As `$dxref 2015.csv`: prose, single quotes, codes padded to 5 and categories to 5, a row for no diagnosis."""
    lines = [
        "NOTE: This CCS tool was last updated in 2015, with codes of 2015.",
        "'ICD-9-CM CODE','CCS CATEGORY','CCS CATEGORY DESCRIPTION','ICD-9-CM CODE DESCRIPTION',"
        "'OPTIONAL CCS CATEGORY','OPTIONAL CCS CATEGORY DESCRIPTION'",
        "'     ','0    ','No DX','INVALID CODES IN USER DATA',' ',' '",
    ]
    lines += [f"'{code:5}','{category:<5}','Group','A CODE, WITH A COMMA',' ',' '" for category, code in codes]
    path.write_text("\r\n".join(lines) + "\r\n", encoding="latin-1")


def write_icd10(path, codes):
    """As `ccs_dx_icd10cm_2019_1.csv`: single quotes, descriptions in double quotes, no prose, no padding."""
    lines = [
        "'ICD-10-CM CODE','CCS CATEGORY','ICD-10-CM CODE DESCRIPTION','CCS CATEGORY DESCRIPTION',"
        "'MULTI CCS LVL 1','MULTI CCS LVL 1 LABEL','MULTI CCS LVL 2','MULTI CCS LVL 2 LABEL'"
    ]
    lines += [
        f"'{code}','{category}',\"A code, with a comma\",'Group','7','Label','7.1','Label'" for category, code in codes
    ]
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")


@pytest.fixture
def folder(tmp_path):
    write_icd9(tmp_path / "$dxref 2015.csv", [(category, nine) for category, (nine, _) in CODES.items()])
    write_icd10(tmp_path / "ccs_dx_icd10cm_2019_1.csv", [(category, ten) for category, (_, ten) in CODES.items()])
    return tmp_path


def test_the_25_phenotypes_are_those_of_the_benchmark():
    given = [2, 49, 50, 53, 55, *range(98, 102), 105, 106, 108, 109, 122, 127, 130, 131, 133, 134, 151, 153, 157, 158]
    assert sorted(PHENOTYPES.values()) == [*given, 238, 249] == sorted(CODES)
    assert len(PHENOTYPES) == 25


def test_both_files_are_read_from_a_folder(folder):
    (folder / "other.csv").write_text("a,b\n1,2\n")
    table = read_ccs(folder)
    assert table.versions == {9, 10}
    assert len(table.categories) == 50  # the row of no diagnosis is none
    for category, (nine, ten) in CODES.items():
        assert table.categories[9, nine] == table.categories[10, ten] == category


@pytest.mark.parametrize(("name", "version"), [("$dxref 2015.csv", 9), ("ccs_dx_icd10cm_2019_1.csv", 10)])
def test_one_file_gives_one_version(folder, name, version):
    assert read_ccs(folder / name).versions == {version}


@pytest.mark.parametrize("kind", ["absent", "empty", "binary", "refined", "empty folder"])
def test_what_is_no_such_table_is_refused(tmp_path, kind):
    path = tmp_path / "table.csv"
    if kind == "empty":
        path.touch()
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 10)
    elif kind == "refined":  # AHRQ's successor, CCSR, has other columns and categories
        path.write_text("'ICD-10-CM CODE','Default CCSR CATEGORY IP'\n'I10','CIR007'\n")
    elif kind == "empty folder":
        path = tmp_path
    with pytest.raises(ConsiliumError, match="single-level") as caught:
        read_ccs(path)
    assert caught.value.code is ExitCode.DATA
    assert [fault.file for fault in caught.value.faults] == [str(path)]


def test_a_table_without_some_phenotypes_names_their_categories(folder):
    """The procedure file has the same columns; so has a table that was cut short."""
    few = [(category, nine) for category, (nine, _) in CODES.items() if category not in (238, 249)]
    write_icd9(folder / "$dxref 2015.csv", few)
    with pytest.raises(ConsiliumError) as caught:
        read_ccs(folder)
    (fault,) = caught.value.faults
    assert (fault.file, fault.value) == (str(folder / "$dxref 2015.csv"), "238, 249")
