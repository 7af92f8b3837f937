"""The de-identification gate: a file that names a patient is refused before a pixel of it is read.

The hospital de-identifies (DICOM PS3.15 annex E); this gate only notices when that was forgotten. Messages name the
file and the attribute, never its value.
"""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from fl_client.data.findings import UnreadableError

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and the classes below it: screenshots carry printed names
MUST_BE_EMPTY = (
    "PatientBirthName",
    "PatientMotherBirthName",
    "OtherPatientNames",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientTelecomInformation",
)
MEND = "De-identify the files (DICOM PS3.15) before they are used."

_PLACEHOLDER = re.compile(
    r"(?:anon|anonym|anonymous|anonymi[sz]ed|de-?identified|pseudonym|redacted|removed|unknown|none|no name|patient|"
    r"subject|volunteer|phantom|x+|匿名)(?:[\s_-]*\d{1,8})?|(?:case|sub|pat|pt)[\s_-]*\d{1,8}",
    re.IGNORECASE,
)


def check_identity(header: Dataset, name: str) -> tuple[str, ...]:
    """What is to be counted as a warning.

    A name passes when it is empty, a placeholder (``ANONYMOUS``, ``Subject 12``), or a pseudonym: equal to the
    patient id and of the form ``SCD0000101``, a few letters and at least as many digits. Names of people hold no
    digits, so a name copied into the id does not pass; a bare number does not either, as it may be a record number.
    Dates of zeros (``00000000``) count as empty.

    Raises:
        UnreadableError: the file holds a name, a birth date, an address, or a picture that may show them.
    """
    sop_class = str(header.get("SOPClassUID") or "")
    if sop_class == SECONDARY_CAPTURE or sop_class.startswith(SECONDARY_CAPTURE + "."):
        mend = "A screenshot may show a name: take it out of the folder."
        raise UnreadableError("identity-secondary-capture", f"{name}: secondary capture. {mend}")
    if str(header.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        raise UnreadableError("identity-burned-in", f"{name}: BurnedInAnnotation is YES. Take it out of the folder.")
    patient_id = str(header.get("PatientID") or "")
    if not all(_nameless(part, patient_id) for part in str(header.get("PatientName") or "").split("=")):
        raise UnreadableError("identity-name", f"{name}: PatientName looks like a name. {MEND}")
    if str(header.get("PatientBirthDate") or "").strip(" 0-.") != "":
        raise UnreadableError("identity-birth-date", f"{name}: PatientBirthDate is not empty. {MEND}")
    for keyword in MUST_BE_EMPTY:
        if str(header.get(keyword) or "").strip(" ^") not in ("", "[]"):
            raise UnreadableError("identity-attribute", f"{name}: {keyword} is not empty. {MEND}")
    removed = str(header.get("PatientIdentityRemoved") or "").strip().upper()
    if removed == "NO":
        raise UnreadableError("identity-not-removed", f"{name}: PatientIdentityRemoved is NO. {MEND}")
    return () if removed == "YES" else ("PatientIdentityRemoved is not YES",)


def _nameless(name: str, patient_id: str) -> bool:
    name = re.sub(r"[\^\0\s]+", " ", name).strip()
    if name == "" or _PLACEHOLDER.fullmatch(name):
        return True
    letters, digits = len(re.findall(r"[A-Za-z]", name)), len(re.findall(r"[0-9]", name))
    code = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{3,19}", name) and re.search(r"[A-Za-z]{6}", name) is None
    return name == patient_id.strip(" \0") and bool(code) and digits >= max(letters, 2)
