from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from scipy.signal import find_peaks, resample
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from fl_shared.concepts import concept, convert
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import load_site
from fl_shared.study import is_held_out, load_study
from fl_sites.synthetic.cohort import EVALUATION, synthesize
from fl_sites.synthetic.ecg import draw_ecg, write_ecg
from fl_sites.synthetic.hospitals import HOSPITALS, Hospital
from fl_sites.synthetic.notes import draw_note
from fl_sites.synthetic.outcomes import CLOSED
from fl_sites.synthetic.patients import LATENT

SITES = ("berlin", "nanjing", "london")
QUICK = ("ecg", "ehr", "text")


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize(folder, sites=SITES, patients=40, seed=7, modalities=QUICK)
    return folder


def samples(out: Path, name: str) -> pd.DataFrame:
    ids = {"patient_id": str, "sample_id": str}
    return pd.read_csv(out / name / "samples.csv", encoding=load_site(out / name).encoding, dtype=ids)


def truth(out: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(out / "truth" / f"{name}.csv", dtype={"patient_id": str, "sample_id": str})


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", SITES)
def test_files_read_back(out, name):
    site, table = load_site(out / name), samples(out, name)
    assert site.synthetic and "synthetic" in site.title
    assert table["patient_id"].nunique() == 40 and table["patient_id"].str.len().eq(6).all()
    assert not table["sample_id"].duplicated().any()
    assert table.groupby("patient_id").size().max() in {2, 3}
    for path in table["ecg_path"].dropna():
        record = wfdb.rdrecord(str((out / name / path).with_suffix("")), physical=False)
        assert (record.fs, record.sig_len, record.n_sig, record.comments) == (100, 1000, 12, ["synthetic"])
        assert record.checksum == record.calc_checksum() and record.init_value == list(record.d_signal[0])
    for path in table["text_path"].dropna():
        note = (out / name / path).read_text(encoding=site.encoding)
        assert note.startswith(("SYNTHETISCH.", "合成数据。", "SYNTHETIC."))
    paths = {*table["ecg_path"].dropna(), *table["text_path"].dropna()}
    found = {str(p.relative_to(out / name)) for p in (out / name).rglob("*") if p.suffix in {".hea", ".txt"}}
    assert found == paths


@pytest.mark.parametrize("name", SITES)
def test_values_are_plausible_in_the_declared_units_and_codes(out, name):
    site, table = load_site(out / name), samples(out, name)
    assert set(site.columns["sex"].codes) == set(table["sex"])
    for column, mapped in site.columns.items():
        what = concept(mapped.concept)
        if column != "sex":
            values = convert(table[column].dropna().to_numpy(float), mapped.unit or what.unit, what)
            assert ((values >= what.min) & (values <= what.max)).all()
    assert 0 < table["sodium"].isna().mean() < 0.4
    assert table["age"].notna().all()


def test_times_of_a_patient_ascend(out):
    table = samples(out, "nanjing")
    times = pd.to_datetime(table["index_time"])
    assert times.groupby(table["patient_id"]).is_monotonic_increasing.all()
    assert times.max() < CLOSED - pd.Timedelta(days=365)


def test_truth_stays_out_of_the_site_folders(out):
    hidden = {*LATENT, "gap", "stay", "held_out", *(c for c in truth(out, "berlin") if c.startswith("risk_"))}
    for name in SITES:
        assert not hidden & set(samples(out, name).columns)
        files = everything(out / name)
        assert not any("truth" in path or "oracle" in path for path in files)
        assert not any(word in files["samples.csv"] + files["site.toml"] for word in (b"risk", b"severity"))
        assert truth(out, name)["sample_id"].tolist() == samples(out, name)["sample_id"].tolist()


def test_oracle_equals_sklearn(out):
    oracle = json.loads((out / "truth" / "oracle.json").read_text())
    assert oracle["synthetic"] and oracle["salt"] == load_study(out / "study.toml").evaluation.salt
    assert len(oracle["oracle"]) == len(SITES) * 2 * (3 + 4 + 2 + 2 + 1 + 25)
    for row in oracle["oracle"]:
        table, outcome = truth(out, row["site"]), row["label"] or row["task"]
        outcome = f"phenotype_{outcome}" if row["task"] == "phenotypes" else outcome
        outcome = "los_over_7d" if outcome == "long_stay" else outcome
        mine = [is_held_out(p, site=row["site"], plan=EVALUATION) for p in table["patient_id"]]
        np.testing.assert_array_equal(table["held_out"], np.array(mine, dtype=int))
        if row["patients"] == "held_out":
            table = table[mine]
        assert (row["n"], row["events"]) == (len(table), table[outcome].sum())
        if table[outcome].nunique() == 2:
            want = roc_auc_score(table[outcome], table[f"risk_{outcome}"])
            assert row["auroc"] == pytest.approx(want, abs=1e-12)
        else:
            assert row["auroc"] is None


def test_same_seed_same_bytes_other_seed_other_patients(out, tmp_path):
    synthesize(tmp_path / "again", sites=SITES, patients=40, seed=7, modalities=QUICK)
    assert everything(tmp_path / "again") == everything(out)
    synthesize(tmp_path / "other", sites=SITES[:1], patients=40, seed=8, modalities=QUICK)
    other, first = samples(tmp_path / "other", "berlin"), samples(out, "berlin")
    assert len(other) != len(first) or not (other["sbp"] == first["sbp"]).any()


def test_a_site_does_not_depend_on_the_others(out, tmp_path):
    synthesize(tmp_path, sites=SITES[:2], patients=40, seed=7, modalities=QUICK)
    assert everything(tmp_path / "nanjing") == everything(out / "nanjing")


def test_sites_differ_as_their_machines_do(out):
    spread = {}
    for name in SITES:
        paths = samples(out, name)["ecg_path"].dropna().head(20)
        records = [wfdb.rdrecord(str((out / name / path).with_suffix(""))) for path in paths]
        scale = 1000 if records[0].units[0] == "uV" else 1
        spread[name] = np.mean([np.ptp(record.p_signal[:, 9]) / scale for record in records])  # V4, mV
    assert spread["nanjing"] < 0.9 * spread["berlin"] < 0.9 * spread["london"]
    assert wfdb.rdheader(str(next((out / "nanjing" / "ecg").glob("*.hea")).with_suffix(""))).units[0] == "uV"


def test_study_is_synthetic_and_keeps_the_last_site_external(out):
    study = load_study(out / "study.toml")
    assert study.synthetic and study.external_sites == ("london",)
    assert all(20 < study.sites[name].patients < 40 for name in study.train_sites)


def quiet(**changes) -> Hospital:
    return dataclasses.replace(HOSPITALS[2], gain=1.0, **changes)


def test_ecg_obeys_einthoven_and_goldberger_and_shows_the_state():
    machine = quiet(noise=0.0, drift=0.0)

    def ecg(severity: float, rhythm: float = -2.0):
        return draw_ecg(np.random.default_rng(0), machine, severity=severity, rhythm=rhythm, heart_rate=70)

    one, two, three, avr, avl, avf = ecg(0.5)[:, :6].T
    np.testing.assert_allclose(one + three, two, atol=1e-12)
    np.testing.assert_allclose(avr + avl + avf, 0, atol=1e-12)
    np.testing.assert_allclose(avf, (two + three) / 2, atol=1e-12)
    healthy, ill = ecg(-1.0)[:, 10], ecg(3.0)[:, 10]  # V5
    peak = int(np.argmax(healthy[100:900])) + 100
    st, t = peak + 12, peak + 28
    assert ill[st] < healthy[st] - 0.1 and ill[t] < 0 < healthy[t]
    regular, irregular = (np.diff(find_peaks(ecg(0.0, rhythm=r)[:, 1], height=0.6)[0]) for r in (-2.0, 3.0))
    assert regular.std() / regular.mean() < 0.05 < irregular.std() / irregular.mean()


def qrs_width(signal: np.ndarray, *, rate: int = 100, finer: int = 10) -> float:
    """Milliseconds for which all leads together move faster than 0.4 of the beat's greatest speed; median of beats."""
    fine = resample(signal, len(signal) * finer)
    speed = np.sqrt((np.gradient(fine, axis=0) ** 2).sum(axis=1))
    peaks, _ = find_peaks(speed, height=0.35 * np.quantile(speed, 0.995), distance=0.3 * rate * finer)
    windows = [speed[max(peak - 100, 0) : peak + 100] / speed[peak] for peak in peaks]
    return float(np.median([np.ptp(np.flatnonzero(window > 0.4)) for window in windows])) * 1000 / (rate * finer)


def test_qrs_of_the_written_ecg_is_the_drawn_one(out):
    for name in SITES:
        table = samples(out, name).merge(truth(out, name)[["sample_id", "qrs"]], on="sample_id")
        table = table.dropna(subset="ecg_path")
        records = [wfdb.rdrecord(str((out / name / path).with_suffix(""))) for path in table["ecg_path"]]
        measured = [qrs_width(record.p_signal) for record in records]
        assert spearmanr(measured, table["qrs"]).statistic > 0.9
        assert np.polyfit(table["qrs"], measured, 1)[0] == pytest.approx(0.9, abs=0.25)


def test_scar_shows_in_the_leads_that_look_at_it():
    machine = quiet(noise=0.0, drift=0.0)

    def deepest(angle: float) -> np.ndarray:
        drawn = draw_ecg(
            np.random.default_rng(0), machine, severity=0, rhythm=-2, heart_rate=60, scar=0.3, scar_angle=angle
        )
        return drawn.min(axis=0)

    healthy = draw_ecg(np.random.default_rng(0), machine, severity=0, rhythm=-2, heart_rate=60).min(axis=0)
    anterior, inferior = deepest(np.pi / 2), deepest(-np.pi / 2)
    assert anterior[9] < healthy[9] and inferior[9] == healthy[9]  # V4
    assert inferior[5] < healthy[5] and anterior[5] == pytest.approx(healthy[5], abs=0.05)  # aVF


def test_ejection_fraction_of_the_table_is_that_of_the_heart(out):
    for name in SITES:
        table = samples(out, name).merge(truth(out, name)[["sample_id", "ejection_fraction"]], on="sample_id")
        factor = 100 if name == "london" else 1  # in units of 1
        error = (table["lvef"] * factor - table["ejection_fraction"]).dropna()
        assert abs(error.mean()) < 1.5 and 2 < error.std() < 4


@pytest.mark.parametrize("unit", ["mV", "uV"])
def test_written_signal_is_the_drawn_one(tmp_path, unit):
    signal = draw_ecg(np.random.default_rng(1), quiet(), severity=1, rhythm=1, heart_rate=80)
    write_ecg(tmp_path, "x", signal, unit=unit)
    read = wfdb.rdrecord(str(tmp_path / "x"))
    assert read.units == [unit] * 12
    np.testing.assert_allclose(read.p_signal / {"mV": 1, "uV": 1000}[unit], signal, atol=5.1e-4)


def test_notes_are_short_and_follow_the_state():
    rng = np.random.default_rng(0)
    for hospital in HOSPITALS:
        grid = [(s, r) for s in np.linspace(-4, 4, 9) for r in (-3, 0.8, 3)] * 5
        notes = [draw_note(rng, language=hospital.language, severity=s, rhythm=r) for s, r in grid]
        assert max(len(note.encode()) for note in notes) <= 160
        assert len(set(notes)) > 10
        mild, severe = (
            {draw_note(rng, language=hospital.language, severity=s, rhythm=0) for _ in range(9)} for s in (-9, 9)
        )
        assert not mild & severe


def test_arguments_are_checked_at_once(tmp_path):
    with pytest.raises(ConsiliumError) as caught:
        synthesize(tmp_path, sites=["Nanjing", "truth", "a", "a"], patients=3, seed=0, modalities=("cine", "egc"))
    assert caught.value.code is ExitCode.USAGE
    assert [f.value for f in caught.value.faults] == ["'Nanjing'", "'truth'", "'a'", "3", "'egc'"]
    assert not list(tmp_path.iterdir())
