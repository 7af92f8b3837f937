"""The de-identification gate."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from fl_client.data.cine.identity import check_identity
from fl_client.data.findings import UnreadableError

sys.path.insert(0, str(Path(__file__).parent))
from mr_files import change, opened, read, volume, write_cine, write_still


def check(**elements) -> tuple[str, ...]:
    return check_identity(change(Dataset(), **{"PatientIdentityRemoved": "YES", **elements}), "1.dcm")


@pytest.mark.parametrize(
    "name",
    ["", "^", " ", "ANONYMOUS", "anonymized", "Anonymous^", "Anon 17", "anon_0017", "De-Identified", "XXX",
     "Subject 12", "sub-003", "PATIENT", "Patient^0012", "case 7", "unknown", "Removed^^", "匿名", "No^Name",
     "anon=匿名"],
)  # fmt: skip
def test_placeholders_pass(name):
    assert check(PatientName=name, PatientID="whatever") == ()


@pytest.mark.parametrize("code", ["SCD0000101", "DT-0012", "DT_00017", "A1234", "CMR2_0031", "S01-0007"])
def test_a_pseudonym_passes_when_it_is_the_id_too(code):
    assert check(PatientName=code, PatientID=code) == ()
    with pytest.raises(UnreadableError, match="identity-name"):
        check(PatientName=code, PatientID="another")


@pytest.mark.parametrize(
    "name",
    ["Doe^Jane", "DOE", "MEIER^HANS^^^DR", "Müller", "王小明", "Wang^XiaoMing=王^小明", "SMITH1", "MEIERHANS1960",
     "J Smith", "Case", "Patsy", "O'Brien", "12345678", "320102196001011234", "Unknown Soldier", "Smith^Anonymous",
     "anon=王小明"],
)  # fmt: skip
def test_names_are_refused_even_when_copied_into_the_id(name):
    for patient_id in ("X1", name):
        with pytest.raises(UnreadableError) as error:
            check(PatientName=name, PatientID=patient_id, SpecificCharacterSet="ISO_IR 192")
        assert error.value.check == "identity-name"
        assert name not in error.value.detail
        assert "1.dcm" in error.value.detail


@pytest.mark.parametrize("date", ["", "00000000", "0000"])
def test_empty_dates_pass(date):
    assert check(PatientBirthDate=date) == ()


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"PatientBirthDate": "19600301"}, "identity-birth-date"),
        ({"PatientBirthDate": "1960"}, "identity-birth-date"),
        ({"PatientAddress": "Zhongshan Road 321"}, "identity-attribute"),
        ({"PatientTelephoneNumbers": ["0", "139"]}, "identity-attribute"),
        ({"OtherPatientNames": "Doe^J"}, "identity-attribute"),
        ({"PatientMotherBirthName": "Roe"}, "identity-attribute"),
        ({"OtherPatientIDsSequence": Sequence([change(Dataset(), PatientID="7")])}, "identity-attribute"),
        ({"BurnedInAnnotation": "YES"}, "identity-burned-in"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "identity-secondary-capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, "identity-secondary-capture"),
        ({"PatientIdentityRemoved": "NO"}, "identity-not-removed"),
    ],
)
def test_what_is_refused(elements, code):
    with pytest.raises(UnreadableError) as error:
        check(**elements)
    assert error.value.check == code


def test_absence_of_the_mark_is_counted(tmp_path):
    assert check(PatientIdentityRemoved=None) == ("PatientIdentityRemoved is not YES",)
    write_cine(tmp_path / "p", volume(8, 2), PatientIdentityRemoved=None)
    assert read(tmp_path).repairs[0] == "PatientIdentityRemoved is not YES"


def test_one_named_file_refuses_the_sample_whatever_its_series(tmp_path, capfd):
    write_cine(tmp_path / "p", volume(8, 2))
    write_still(tmp_path / "p" / "scout", volume(1, 1)[0, 0], PatientName="Doe^Jane", SeriesDescription="localizer")
    with pytest.raises(UnreadableError) as error:
        opened(tmp_path)
    assert error.value.check == "identity-name"
    assert "Doe" not in "".join([str(error.value), *capfd.readouterr()])


@pytest.mark.filterwarnings("error")
def test_invalid_values_are_not_printed(tmp_path, capfd):
    # pydicom warns with the value itself: an identifier would reach the log
    write_cine(tmp_path / "p", volume(8, 2), StudyDate="20200101")
    for path in (tmp_path / "p").iterdir():
        path.write_bytes(path.read_bytes().replace(b"20200101", b"Doe^Jane"))
    assert opened(tmp_path).shape[0] == 8
    assert "Doe" not in "".join(capfd.readouterr())
