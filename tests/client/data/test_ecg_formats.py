from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from fl_client.data.ecg import WAVEFORM
from fl_client.data.ecg_dicom import MAX_ITEMS, read_dicom_ecg
from fl_client.data.ecg_edf import read_edf
from fl_client.data.findings import UnreadableError

sys.path.insert(0, str(Path(__file__).parent))
from ecg_files import (
    LEADS,
    check_of,
    edf_bytes,
    edf_plus,
    group_of,
    heart,
    mapped,
    plan,
    read,
    write_dicom,
    write_wfdb,
)


def detail_of(root: Path, name: str) -> str:
    with pytest.raises(UnreadableError) as error:
        read(root, name)
    return error.value.detail


def test_three_formats_of_one_heart_give_the_same_bits(tmp_path):
    x = heart()
    write_wfdb(tmp_path, "w", x)
    (tmp_path / "e.edf").write_bytes(edf_plus(x))
    write_dicom(tmp_path / "d.dcm", group_of(x))
    first, *others = (read(tmp_path, name).arrays for name in ("w", "e.edf", "d.dcm"))
    assert first["lead_mask"].all()
    for other in others:
        assert first["signal"].tobytes() == other["signal"].tobytes()
        assert other["lead_mask"].all()


def test_the_files_of_a_sample_are_those_that_hold_its_content(tmp_path):
    x = heart()
    write_wfdb(tmp_path / "sub", "w", x)
    (tmp_path / "e.edf").write_bytes(edf_plus(x))
    named = [tmp_path / "sub" / "w.hea", tmp_path / "sub" / "w.dat"]
    for name in ("sub/w", "sub/w.hea", "sub/w.dat"):
        assert list(WAVEFORM.files(tmp_path, name, mapped())) == named
    assert list(WAVEFORM.files(tmp_path, "e.edf", mapped())) == [tmp_path / "e.edf"]
    with pytest.raises(UnreadableError, match="file-missing"):
        WAVEFORM.files(tmp_path, "nowhere", mapped())


def test_formats_are_told_by_content(tmp_path):
    x = heart()
    (tmp_path / "a.dcm").write_bytes(edf_plus(x))
    (tmp_path / "plain").write_bytes(edf_plus(x))
    write_dicom(tmp_path / "b.edf", group_of(x))
    signals = [read(tmp_path, name).arrays["signal"] for name in ("a.dcm", "plain", "b.edf")]
    assert signals[0].tobytes() == signals[1].tobytes() == signals[2].tobytes()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x12\x34" + (500).to_bytes(4, "little") + b"\0\0\0\0\x88\0\0\0\x0d\x0dSCPECG" + bytes(200), "SCP-ECG"),
        (b'<?xml version="1.0"?>\n<AnnotatedECG xmlns="urn:hl7-org:v3"/>', "aECG"),
        ('\ufeff<?xml version="1.0" encoding="UTF-16"?><AnnotatedECG/>'.encode("utf-16-le"), "aECG"),
        (b'<?xml version="1.0"?><!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG/>', "MUSE"),
        (b"<restingecgdata/>", "XML"),
        (b"\xffBIOSEMI" + bytes(300), "BDF"),
        (b"GDF 2.20" + bytes(300), "GDF"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04" + bytes(100), "unpack"),
        (b"\x1f\x8b" + bytes(100), "unpack"),
        (b"lead I, lead II\n0.1, 0.2\n", "first bytes"),
        (b"", "first bytes"),
    ],
)
def test_what_is_not_read_says_so_and_what_to_do(tmp_path, content, told):
    (tmp_path / "x.ecg").write_bytes(content)
    assert check_of(tmp_path, "x.ecg") == "format-not-supported"
    detail = detail_of(tmp_path, "x.ecg")
    assert told in detail
    assert "Read are WFDB" in detail
    with pytest.raises(UnreadableError, match="format-not-supported"):
        WAVEFORM.files(tmp_path, "x.ecg", mapped())


@pytest.mark.parametrize("rate", [50, 128, 977, 1000, 20_000])
def test_any_rate_comes_onto_the_grid(tmp_path, rate):
    t = np.arange(6 * rate) / rate
    write_wfdb(tmp_path, "r", np.round(1000 * np.sin(2 * np.pi * 5 * t)).astype("<i2")[:, None], leads=["I"], rate=rate)
    signal = read(tmp_path, "r", of=plan(("I",))).arrays["signal"][0]
    truth = np.sin(2 * np.pi * 5 * np.arange(400) / 100)
    assert np.abs(signal[50:-50] - truth[50:-50]).max() < 0.03


@pytest.mark.parametrize("leads", [("II",), ("I", "II"), ("V1", "V2", "V3"), LEADS[:8]])
def test_few_leads_are_masked_not_refused(tmp_path, leads):
    x = heart()[:, [LEADS.index(lead) for lead in leads]]
    (tmp_path / "e").write_bytes(edf_plus(x, leads=leads))
    write_dicom(tmp_path / "d", group_of(x, leads=leads))
    derived = {"III", "aVR", "aVL", "aVF"} if {"I", "II"} <= set(leads) else set()
    for name in ("e", "d"):
        sample = read(tmp_path, name)
        assert sample.arrays["lead_mask"].tolist() == [lead in {*leads, *derived} for lead in LEADS]
        assert not sample.arrays["signal"][~sample.arrays["lead_mask"]].any()


# EDF


def test_edf_values_are_those_of_the_standard(tmp_path):
    rng = np.random.default_rng(3)
    x, y = rng.integers(-3000, 3000, (2, 2500)).astype("<i2")
    (tmp_path / "x").write_bytes(edf_bytes([x, y], ["I", "Pleth"], records=5, plus="", physical=("-5000", "5001")))
    found = read_edf(tmp_path / "x", "x", seconds=2.0, is_lead=lambda name: name == "I")
    expected = (x[:1000].astype(float) + 32768) * (5001 + 5000) / (32767 + 32768) - 5000
    assert (found.rate, found.names, found.units) == (500.0, ("I",), ("uV",))
    np.testing.assert_allclose(found.signal[:, 0], expected, atol=1e-9)


def test_edf_signals_of_other_rates_do_not_matter(tmp_path):
    ecg, eeg = heart(1, rate=256, seconds=6)[:, 0], heart(1, rate=200, seconds=6)[:, 0]
    data = edf_bytes([eeg, ecg, eeg, eeg], ["EEG C3", "EKG II", "EEG C4", "EEG O1"], records=6, plus="")
    (tmp_path / "sleep.edf").write_bytes(data)
    write_wfdb(tmp_path, "w", ecg[:, None], leads=["II"], rate=256)
    a, b = read(tmp_path, "sleep.edf"), read(tmp_path, "w")
    assert a.arrays["signal"].tobytes() == b.arrays["signal"].tobytes()
    assert a.arrays["lead_mask"].tolist() == [lead == "II" for lead in LEADS]


@pytest.mark.parametrize(("unit", "check"), [("mV", "ecg-amplitude-implausible"), ("", "ecg-unit-unknown")])
def test_edf_unit_is_the_declared_one(tmp_path, unit, check):
    (tmp_path / "e").write_bytes(edf_plus(heart(), units=[unit] * 12))
    assert check_of(tmp_path, "e") == check
    (tmp_path / "ok").write_bytes(edf_plus(heart()))
    override = read(tmp_path, "e", by=mapped(unit="uV")).arrays["signal"]
    assert override.tobytes() == read(tmp_path, "ok").arrays["signal"].tobytes()


@pytest.mark.parametrize(
    ("offset", "new", "check"),
    [
        (252, b"9999", "ecg-lead-count"),
        (252, b"0   ", "ecg-lead-count"),
        (252, b"\xb21  ", "ecg-header-malformed"),
        (236, b"-1      ", "ecg-length"),
        (236, b"99999999", "ecg-signal-truncated"),
        (236, b"7       ", "ecg-signal-truncated"),
        (236, b"six     ", "ecg-header-malformed"),
        (244, b"1e9     ", "ecg-rate"),
        (244, b"60      ", "ecg-rate"),
        (244, b"nan     ", "ecg-header-malformed"),
        (168, b"31.02.20", "ecg-header-malformed"),
        (192, b"EDF+D", "ecg-interrupted"),
        (256 + 13 * 216, b"99999999", "ecg-signal-truncated"),
        (256 + 13 * 216, b"-500    ", "ecg-length"),
        (256 + 13 * 104, b"32767   ", "ecg-header-malformed"),  # physical minimum = maximum
    ],
)
def test_hostile_edf_headers_are_refused_before_anything_is_allocated(tmp_path, offset, new, check):
    data = bytearray(edf_plus(heart()))
    data[offset : offset + len(new)] = new
    (tmp_path / "e.edf").write_bytes(data)
    assert check_of(tmp_path, "e.edf") == check


def test_truncated_edf(tmp_path):
    data = edf_plus(heart())
    for size, check in [(len(data) - 1, "ecg-signal-truncated"), (4000, "ecg-signal-truncated")]:
        (tmp_path / "e.edf").write_bytes(data[:size])
        assert check_of(tmp_path, "e.edf") == check
    for size in (8, 255, 256, 300, 3000):
        (tmp_path / "e.edf").write_bytes(data[:size])
        assert check_of(tmp_path, "e.edf") == "ecg-header-malformed"


@pytest.mark.parametrize(
    ("patient", "plus", "check"),
    [
        ("X X X X", "EDF+C", "read"),
        ("P00123 F X X", "EDF+C", "read"),
        ("P00123 F 01-MAY-1951 X", "EDF+C", "identity-name"),
        ("P00123 F X Schmidt_Anna", "EDF+C", "identity-name"),
        ("", "", "read"),
        ("P00123", "", "read"),
        ("Schmidt", "", "identity-name"),
        ("Anna Schmidt 1951", "", "identity-name"),
    ],
)
def test_edf_that_names_the_patient_is_refused(tmp_path, patient, plus, check):
    x = heart(1)[:, 0]
    plain = edf_bytes([x], ["II"], records=6, plus="", patient=patient)
    (tmp_path / "e").write_bytes(edf_plus(x[:, None], leads=["II"], patient=patient) if plus else plain)
    assert check_of(tmp_path, "e") == check


def test_edf_without_an_ecg_names_what_it_has(tmp_path):
    x = heart(1)[:, 0]
    (tmp_path / "e").write_bytes(edf_bytes([x], ["Resp chest"], records=6, plus=""))
    assert check_of(tmp_path, "e") == "no-usable-lead"
    assert "Resp chest" in detail_of(tmp_path, "e")
    aliased = read(tmp_path, "e", by=mapped(aliases={"resp chest": "II"}))
    assert aliased.arrays["lead_mask"].tolist() == [lead == "II" for lead in LEADS]


# DICOM


def test_real_dicom_ecg_equals_its_bytes(tmp_path):
    dataset = pydicom.dcmread(get_testdata_file("waveform_ecg.dcm"))
    dataset.save_as(tmp_path / "named.dcm")
    assert check_of(tmp_path, "named.dcm") == "identity-birth-date"
    dataset.PatientBirthDate = ""
    dataset.save_as(tmp_path / "real.dcm")
    found = read_dicom_ecg(tmp_path / "real.dcm", "real", seconds=60, is_lead=lambda name: name in LEADS)
    group = dataset.WaveformSequence[0]  # the rhythm strip, not the median beat
    expected = np.frombuffer(group.WaveformData, dtype="<i2").reshape(10_000, 12) * 1.25
    assert (found.rate, found.names, set(found.units)) == (1000.0, LEADS, {"uV"})
    np.testing.assert_allclose(found.signal, expected)
    sample = read(tmp_path, "real.dcm")
    assert sample.arrays["lead_mask"].all()
    limb = sample.arrays["signal"]
    assert np.abs(limb[0] + limb[2] - limb[1]).max() < 0.02  # Einthoven, up to the rounding of each lead


@pytest.mark.parametrize("scheme", ["SCPECG", "MDC", "name", "meaning"])
def test_dicom_leads_are_named_by_their_codes(tmp_path, scheme):
    x, order = heart(), [7, 3, 0, 11, 1, 2, 4, 5, 6, 8, 9, 10]
    write_dicom(tmp_path / "plain", group_of(x))
    write_dicom(tmp_path / "odd", group_of(x[:, order], leads=[LEADS[k] for k in order], scheme=scheme))
    assert read(tmp_path, "odd").arrays["signal"].tobytes() == read(tmp_path, "plain").arrays["signal"].tobytes()


@pytest.mark.parametrize(("unit", "gain"), [("uV", 1.0), ("mV", 1e-3), ("V", 1e-6)])
def test_dicom_sensitivity_correction_and_baseline(tmp_path, unit, gain):
    x = heart()
    group = group_of(x, unit=unit)
    for channel in group.ChannelDefinitionSequence:
        channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = f"{gain * 4:g}", "0.25"
        channel.ChannelBaseline = f"{gain * 100:g}"
    write_dicom(tmp_path / "d", group, syntax=ImplicitVRLittleEndian)
    write_wfdb(tmp_path, "w", x)
    found = read_dicom_ecg(tmp_path / "d", "d", seconds=9, is_lead=lambda name: name in LEADS)
    np.testing.assert_allclose(found.signal, (x + 100.0) * gain, rtol=1e-12, atol=1e-18)
    np.testing.assert_allclose(read(tmp_path, "d").arrays["signal"], read(tmp_path, "w").arrays["signal"], atol=1e-3)


def test_dicom_channel_without_a_unit_is_not_guessed(tmp_path):
    group = group_of(heart())
    for channel in group.ChannelDefinitionSequence[6:]:
        del channel.ChannelSensitivityUnitsSequence
    write_dicom(tmp_path / "some", group)
    sample = read(tmp_path, "some")
    assert sample.arrays["lead_mask"].tolist() == [True] * 6 + [False] * 6
    assert "lead in an unknown unit" in sample.repairs
    write_dicom(tmp_path / "none", group_of(heart(), unit=""))
    assert check_of(tmp_path, "none") == "ecg-unit-unknown"


def test_dicom_padding_is_a_gap(tmp_path):
    x = heart().astype("<i2")
    x[1000:1020, 6], x[1000:1200, 7] = -32768, -32768
    write_dicom(tmp_path / "d", group_of(x, WaveformPaddingValue=b"\x00\x80"))
    write_dicom(tmp_path / "whole", group_of(heart()))
    sample, whole = read(tmp_path, "d"), read(tmp_path, "whole")
    assert sample.arrays["lead_mask"].tolist() == [lead != "V2" for lead in LEADS]
    assert np.abs(sample.arrays["signal"][6] - whole.arrays["signal"][6]).max() < 0.2
    assert "short gap interpolated" in sample.repairs


def test_dicom_rhythm_is_preferred_to_an_averaged_beat(tmp_path):
    beat = group_of(heart()[:1200] // 2, WaveformOriginality="DERIVED")
    other = group_of(heart(2)[:3000], leads=("Resp", "Pleth"))
    write_dicom(tmp_path / "d", beat, other, group_of(heart()))
    write_dicom(tmp_path / "one", group_of(heart()))
    assert read(tmp_path, "d").arrays["signal"].tobytes() == read(tmp_path, "one").arrays["signal"].tobytes()
    write_dicom(tmp_path / "beat", beat)
    assert "derived signal, such as an averaged beat" in read(tmp_path, "beat").repairs
    write_dicom(tmp_path / "none", other)
    assert check_of(tmp_path, "none") == "no-usable-lead"
    write_dicom(tmp_path / "empty")
    assert check_of(tmp_path, "empty") == "no-usable-lead"


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"NumberOfWaveformSamples": 2**31}, "ecg-length"),
        ({"NumberOfWaveformSamples": 4_000_000}, "ecg-signal-truncated"),
        ({"NumberOfWaveformSamples": 3001}, "ecg-signal-truncated"),
        ({"NumberOfWaveformSamples": 100}, "ecg-length"),
        ({"NumberOfWaveformChannels": 65_535}, "ecg-format"),
        ({"NumberOfWaveformChannels": 11}, "ecg-format"),
        ({"SamplingFrequency": 0}, "ecg-rate"),
        ({"SamplingFrequency": 1e9}, "ecg-rate"),
        ({"WaveformBitsAllocated": 64}, "ecg-format"),
        ({"WaveformBitsAllocated": 8, "WaveformSampleInterpretation": "MB"}, "ecg-format"),  # logarithmic
        ({"ChannelDefinitionSequence": []}, "no-usable-lead"),
    ],
)
def test_hostile_dicom_headers_are_refused(tmp_path, changes, check):
    write_dicom(tmp_path / "d", group_of(heart(), **changes))
    assert check_of(tmp_path, "d") == check


def test_dicom_bombs_and_foreign_objects_are_refused(tmp_path):
    write_dicom(tmp_path / "deflated", group_of(np.zeros((3000, 12))), syntax=DeflatedExplicitVRLittleEndian)
    assert check_of(tmp_path, "deflated") == "format-not-supported"
    write_dicom(tmp_path / "sound", group_of(heart()), sop="1.2.840.10008.5.1.4.1.1.9.4.1")
    assert check_of(tmp_path, "sound") == "format-not-supported"
    write_dicom(tmp_path / "many", *[pydicom.Dataset() for _ in range(MAX_ITEMS)], group_of(heart()))
    assert check_of(tmp_path, "many") == "ecg-header-malformed"
    whole = (tmp_path / write_dicom(tmp_path / "whole", group_of(heart()))).read_bytes()
    for size in (132, 200, 600, len(whole) // 2, len(whole) - 100):
        (tmp_path / "cut").write_bytes(whole[:size])
        assert check_of(tmp_path, "cut") != "read"


@pytest.mark.parametrize(
    ("check", "tags"),
    [
        ("identity-name", {"PatientName": "Schmidt^Anna"}),
        ("identity-birth-date", {"PatientBirthDate": "19510501"}),
        ("identity-attribute", {"PatientAddress": "Hauptstrasse 1"}),
        ("identity-attribute", {"OtherPatientNames": "Meier^Anna"}),
        ("identity-not-removed", {"PatientIdentityRemoved": "NO"}),
    ],
)
def test_dicom_that_names_the_patient_is_refused_without_repeating_it(tmp_path, check, tags):
    write_dicom(tmp_path / "d", group_of(heart()), **tags)
    assert check_of(tmp_path, "d") == check
    assert not any(value in detail_of(tmp_path, "d") for value in tags.values() if value != "NO")


def test_dicom_that_does_not_say_that_it_is_de_identified_is_counted(tmp_path):
    write_dicom(tmp_path / "d", group_of(heart()))
    write_dicom(tmp_path / "yes", group_of(heart()), PatientIdentityRemoved="YES")
    told = set(read(tmp_path, "d").repairs) - set(read(tmp_path, "yes").repairs)
    assert told == {"PatientIdentityRemoved is not YES"}
