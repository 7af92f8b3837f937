from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import wfdb
from scipy.signal import butter, resample_poly, sosfiltfilt

from fl_client.data.ecg import WAVEFORM
from fl_client.data.findings import UnreadableError
from fl_client.data.wfdb_file import read_wfdb
from fl_shared.site import WaveformFiles
from fl_shared.study import ModalityPlan

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
PTBXL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "ptb-xl"


def plan(leads=LEADS, rate=100.0, seconds=4.0) -> ModalityPlan:
    return ModalityPlan(kind="waveform", leads=leads, rate=rate, seconds=seconds)


def site(**keys) -> WaveformFiles:
    return WaveformFiles(kind="waveform", column="ecg_path", **keys)


@dataclass
class Ecg:
    signal: np.ndarray
    lead_mask: np.ndarray
    repairs: tuple[str, ...]


def read(root: Path, name: str = "r1", *, of: ModalityPlan | None = None, by: WaveformFiles | None = None) -> Ecg:
    """Through the file kind, as the cohort does; the arrays are as its layout says."""
    of = of or plan()
    sample = WAVEFORM.read(root, name, plan=of, mapped=by or site())
    assert {n: (a.shape, a.dtype.name) for n, a in sample.arrays.items()} == dict(WAVEFORM.layout(of))
    return Ecg(**sample.arrays, repairs=sample.repairs)


def check_of(root: Path, name: str = "r1", **keys) -> str:
    with pytest.raises(UnreadableError) as error:
        read(root, name, **keys)
    return error.value.check


@pytest.mark.parametrize("rate", [500, 250, 360])
def test_signal_is_filtered_and_resampled_as_scipy_does(tmp_path, write_ecg, rate):
    write_ecg(tmp_path, fs=rate, seconds=6.0)
    truth = wfdb.rdrecord(str(tmp_path / "r1")).p_signal.T
    sos = butter(2, (0.5, 40), btype="bandpass", fs=rate, output="sos")
    expected = resample_poly(
        sosfiltfilt(sos, truth, axis=1, padlen=2 * rate), *{500: (1, 5), 250: (2, 5), 360: (5, 18)}[rate], axis=1
    )
    ecg = read(tmp_path)
    assert ecg.signal.dtype == np.float32
    assert ecg.signal.shape == (12, 400)
    assert ecg.lead_mask.all()
    np.testing.assert_allclose(ecg.signal, expected[:, :400], atol=1e-6)
    assert "resampled" in ecg.repairs


def test_band_pass_removes_baseline_and_mains(tmp_path, write_ecg):
    t = np.arange(5000) / 500
    clean = np.sin(2 * np.pi * 8 * t)
    dirty = clean + 2.0 + np.sin(2 * np.pi * 0.05 * t) + 0.5 * np.sin(2 * np.pi * 100 * t)
    write_ecg(tmp_path, leads=["I"], signal=dirty[:, None])
    ecg = read(tmp_path, of=plan(leads=("I",), rate=500.0))
    assert np.abs(ecg.signal[0] - clean[:2000]).max() < 0.1


@pytest.mark.parametrize(("unit", "factor"), [("mV", 1.0), ("uV", 1e3), ("µV", 1e3), ("V", 1e-3)])
def test_units_become_millivolt(tmp_path, write_ecg, unit, factor):
    t = np.arange(2500) / 500
    wave = np.sin(2 * np.pi * 5 * t)[:, None]
    write_ecg(tmp_path, "a", leads=["I"], signal=wave, gain=10_000)
    write_ecg(tmp_path, "b", leads=["I"], signal=wave * factor, gain=10_000 / factor, unit=unit.replace("µ", "u"))
    header = tmp_path / "b.hea"  # wfdb cannot write the micro sign, devices do
    header.write_text(header.read_text().replace("/uV", f"/{unit}"), encoding="utf-8")
    one = plan(leads=("I",))
    np.testing.assert_allclose(read(tmp_path, "a", of=one).signal, read(tmp_path, "b", of=one).signal, atol=1e-3)


def test_unit_override_wins_and_wrong_unit_is_noticed(tmp_path, write_ecg):
    t = np.arange(2500) / 500
    write_ecg(tmp_path, leads=["I"], signal=500 * np.sin(2 * np.pi * 5 * t)[:, None], gain=10, unit="mV")
    assert check_of(tmp_path, of=plan(leads=("I",))) == "ecg-amplitude-implausible"
    signal = read(tmp_path, of=plan(leads=("I",)), by=site(unit="uV")).signal
    assert np.abs(signal).max() == pytest.approx(0.5, rel=0.05)


def test_leads_are_named_and_ordered(tmp_path, write_ecg):
    write_ecg(tmp_path, "plain")
    order = [11, 3, 7, 0, 1, 2, 4, 5, 6, 8, 9, 10]
    signal = wfdb.rdrecord(str(tmp_path / "plain")).p_signal[:, order]
    odd = [LEADS[k].upper() for k in order]
    odd[0] = "Brustwand 6"
    write_ecg(tmp_path, "odd", leads=odd, signal=signal)
    ecg = read(tmp_path, "odd", by=site(aliases={"brustwand 6": "V6"}))
    np.testing.assert_allclose(ecg.signal, read(tmp_path, "plain").signal, atol=1e-3)
    assert not read(tmp_path, "odd").lead_mask[-1]


def test_limb_leads_follow_einthoven(tmp_path, write_ecg):
    write_ecg(tmp_path, leads=["II", "I", "V1"])
    ecg = read(tmp_path)
    i, ii, iii, avr, avl, avf = ecg.signal[:6]
    assert ecg.lead_mask.tolist() == [True] * 7 + [False] * 5
    np.testing.assert_allclose(i + iii, ii, atol=1e-5)
    np.testing.assert_allclose(avr + avl + avf, 0, atol=1e-5)
    np.testing.assert_allclose(avf, (ii + iii) / 2, atol=1e-5)
    np.testing.assert_allclose(avr, -(i + ii) / 2, atol=1e-5)
    assert not ecg.signal[7:].any()
    assert set(ecg.repairs) == {"limb leads derived from I and II", "lead masked", "resampled"}


def test_short_gap_is_interpolated_and_long_gap_masks_its_lead_only(tmp_path, write_ecg):
    write_ecg(tmp_path, "whole")
    x = wfdb.rdrecord(str(tmp_path / "whole")).p_signal
    x[1000:1020, 6] = np.nan  # 40 ms of V1
    x[1000:1200, 7] = np.nan  # 400 ms of V2
    write_ecg(tmp_path, "gaps", signal=x)
    ecg, whole = read(tmp_path, "gaps"), read(tmp_path, "whole")
    assert ecg.lead_mask.tolist() == [True] * 7 + [False] + [True] * 4
    assert np.isfinite(ecg.signal).all()
    assert np.abs(ecg.signal[6] - whole.signal[6]).max() < 0.2
    np.testing.assert_allclose(ecg.signal[8:], whole.signal[8:], atol=1e-6)


def test_gapped_limb_lead_is_derived_and_flat_lead_is_masked(tmp_path, write_ecg):
    write_ecg(tmp_path, "whole")
    x = wfdb.rdrecord(str(tmp_path / "whole")).p_signal
    x[:, 2], x[1000:2000, 3], x[:, 8] = x[:, 1] - x[:, 0], np.nan, 0.0
    write_ecg(tmp_path, "gaps", signal=x)
    ecg = read(tmp_path, "gaps")
    np.testing.assert_allclose(ecg.signal[3], -(ecg.signal[0] + ecg.signal[1]) / 2, atol=1e-5)
    assert ecg.lead_mask[3]
    assert not ecg.lead_mask[8]


def test_short_record_is_padded_at_its_end(tmp_path, write_ecg):
    write_ecg(tmp_path, seconds=2.0)
    ecg = read(tmp_path)
    assert ecg.signal[:, :200].any()
    assert not ecg.signal[:, 200:].any()
    assert "short record, padded with zeros" in ecg.repairs


@pytest.mark.parametrize("fmt", ["16", "24", "32", "212"])
def test_own_reader_equals_wfdb(tmp_path, write_ecg, fmt):
    write_ecg(tmp_path, fmt=fmt, leads=["I", "II"], gain=500)
    truth = wfdb.rdrecord(str(tmp_path / "r1"), sampto=1000)
    found = read_wfdb(tmp_path, "r1.hea", seconds=2.0)
    np.testing.assert_array_equal(found.signal, truth.p_signal)
    assert (found.rate, list(found.names), list(found.units)) == (500, truth.sig_name, truth.units)


def test_own_reader_equals_wfdb_on_ptbxl():
    if not PTBXL.is_dir():
        pytest.skip(f"real data are not at {PTBXL}")
    for header in sorted(PTBXL.glob("records*/00000/*.hea"))[::40]:
        truth = wfdb.rdrecord(str(header.with_suffix("")))
        found = read_wfdb(PTBXL, str(header.relative_to(PTBXL)), seconds=60.0)
        np.testing.assert_allclose(found.signal, truth.p_signal, atol=1e-12)
        assert (list(found.names), list(found.units)) == (truth.sig_name, truth.units)


def test_truncated_and_missing_files_say_so(tmp_path, write_ecg):
    write_ecg(tmp_path)
    data = (tmp_path / "r1.dat").read_bytes()
    (tmp_path / "r1.dat").write_bytes(data[: len(data) // 2])
    assert check_of(tmp_path) == "ecg-signal-truncated"
    (tmp_path / "r1.dat").unlink()
    assert check_of(tmp_path) == "file-missing"
    assert check_of(tmp_path, "nowhere") == "file-missing"
    write_ecg(tmp_path, "packed", fmt="212", leads=["I"])
    (tmp_path / "packed.dat").write_bytes(b"\0" * 300)
    assert check_of(tmp_path, "packed") == "ecg-signal-truncated"


@pytest.mark.parametrize("fmt", ["16", "212"])
def test_changed_samples_do_not_pass_the_checksum(tmp_path, write_ecg, fmt):
    write_ecg(tmp_path, fmt=fmt, gain=500, seconds=9.7)  # no whole periods: the sums are not zero
    data = bytearray((tmp_path / "r1.dat").read_bytes())
    data[-300] ^= 1  # behind the window that is used
    (tmp_path / "r1.dat").write_bytes(data)
    assert check_of(tmp_path) == "ecg-checksum"
    lines = [line.split() for line in (tmp_path / "r1.hea").read_text().splitlines()]
    untold = [line if k == 0 else [*line[:6], "0", *line[7:]] for k, line in enumerate(lines)]  # some writers tell none
    (tmp_path / "r1.hea").write_text("\n".join(" ".join(line) for line in untold) + "\n")
    assert read(tmp_path).lead_mask.all()


def test_of_two_leads_with_one_name_the_first_is_taken_and_it_is_told(tmp_path, write_ecg):
    write_ecg(tmp_path, "plain", leads=["I", "II"])
    x = wfdb.rdrecord(str(tmp_path / "plain")).p_signal
    write_ecg(tmp_path, "twice", leads=["I", "II", "LEAD I"], signal=np.column_stack([x, x[:, 1]]))
    twice = read(tmp_path, "twice")
    assert twice.signal.tobytes() == read(tmp_path, "plain").signal.tobytes()
    assert "lead named twice" in twice.repairs


def test_no_usable_lead(tmp_path, write_ecg):
    write_ecg(tmp_path, leads=["Resp", "ABP"])
    assert check_of(tmp_path) == "no-usable-lead"
    write_ecg(tmp_path, leads=["I", "II"], unit="mmHg")
    assert check_of(tmp_path) == "ecg-unit-unknown"


@pytest.mark.parametrize(
    ("header", "check"),
    [
        ("", "ecg-header-malformed"),
        ("\x00\xff nonsense", "ecg-header-malformed"),
        ("r 2 500 5000\nr.dat 16 1000/mV 16 0 0 0 0 I\n", "ecg-header-malformed"),
        ("r/2 1 500 5000\na 2500\nb 2500\n", "ecg-multi-segment"),
        ("r 900 500 5000\n", "ecg-lead-count"),
        ("r 0 500 5000\n", "ecg-lead-count"),
        ("r 1 1 5000\n", "ecg-rate"),
        ("r 1 500 999999999999\n", "ecg-length"),
        ("r 1 500 100\n", "ecg-length"),
        ("r 1 500 5000\nr.dat 516 1000/mV 16 0 0 0 0 I\n", "ecg-format"),
        ("r 1 500 5000\nr.dat 16x999999 1000/mV 16 0 0 0 0 I\n", "ecg-format"),
        ("r 1 500 5000\n../secret.dat 16 1000/mV 16 0 0 0 0 I\n", "path-outside-root"),
        ("r 1 500 5000\n/etc/passwd 16 1000/mV 16 0 0 0 0 I\n", "path-outside-root"),
    ],
)
def test_hostile_headers_are_refused(tmp_path, header, check):
    (tmp_path / "r.hea").write_bytes(header.encode("latin-1"))
    assert check_of(tmp_path, "r") == check


def test_paths_and_symlinks_stay_inside(tmp_path, write_ecg):
    outside, root = tmp_path / "outside", tmp_path / "root"
    write_ecg(outside)
    write_ecg(root, "mine")
    assert check_of(root, "../outside/r1") == "path-outside-root"
    assert check_of(root, str(outside / "r1")) == "path-outside-root"
    (root / "link.hea").symlink_to(outside / "r1.hea")
    assert check_of(root, "link") == "path-outside-root"
    (root / "mine.dat").unlink()
    (root / "mine.dat").symlink_to(outside / "r1.dat")
    assert check_of(root, "mine") == "path-outside-root"
    assert check_of(root, "a\0b") == "path-invalid"
    (root / "loop.hea").symlink_to(root / "loop.hea")
    assert check_of(root, "loop") in {"path-invalid", "file-missing"}
    (root / "dir.hea").mkdir()
    assert check_of(root, "dir") == "file-not-regular"
