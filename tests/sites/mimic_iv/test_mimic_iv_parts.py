from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
import wfdb
from mimic_iv_tables import CENTURIES, INDEX, NEEDS_DEMO, STAY, moment, one, table, write

from fl_client.data.load import load_cohort
from fl_shared.errors import ConsiliumError
from fl_shared.site import load_site
from fl_shared.study import load_study
from fl_sites.importers.mimic_iv import import_mimic_iv

pytestmark = NEEDS_DEMO


def add_ecgs(folder, entries):
    """MIMIC-IV-ECG as it is published: a list, and a record a folder."""
    listed = []
    for subject, study, time in entries:
        where = f"files/p{subject[:4]}/p{subject}/s{study}"
        (folder / where).mkdir(parents=True)
        beat = np.exp(-(((np.arange(5000) / 500 % 0.8) - 0.4) ** 2) / 2e-4)  # 1 mV, 75 a minute
        signal = np.outer(beat, np.linspace(0.5, 1.5, 12))
        leads = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]
        wfdb.wrsamp(
            study,
            fs=500,
            units=["mV"] * 12,
            sig_name=leads,
            p_signal=signal,
            fmt=["16"] * 12,
            write_dir=str(folder / where),
            base_datetime=moment(time),  # its year lies in the future, as in the release
        )
        listed.append(
            {"subject_id": subject, "study_id": study, "file_name": study, "ecg_time": time, "path": f"{where}/{study}"}
        )
    pd.DataFrame(listed).to_csv(folder / "record_list.csv", index=False)


def at(hours):
    return str(INDEX + timedelta(hours=hours))


@pytest.fixture
def whole(small):
    """The cut download with ECG inside, notes beside, and bedside measurements."""
    ecgs = [("10004422", "40000001", at(-30)), ("10004422", "40000002", at(-1)), ("10004422", "40000003", at(1))]
    add_ecgs(small / "mimic-iv-ecg" / "1.0", [*ecgs, ("10002495", "40000004", "2141-05-10 00:00:00")])
    hadm = table(small, "icu/icustays").set_index("stay_id").loc[STAY, "hadm_id"]
    note = {"subject_id": "10004422", "hadm_id": hadm, "note_type": "RR", "note_seq": "1"}
    reports = [
        {"charttime": at(-40), "storetime": at(-39), "text": 'EXAM: chest, "AP"\nOlder film, line one.\nLine two.\n'},
        {"charttime": at(-3), "storetime": at(-2), "text": "Newer film.", "hadm_id": ""},
        {"charttime": at(-1), "storetime": at(5), "text": "Read too late."},
        {"charttime": at(-200), "storetime": at(-199), "text": "Too old."},
    ]
    summaries = [
        {"charttime": "2111-01-22 00:00:00", "storetime": at(200), "text": "Summary of the admission itself."},
        {"charttime": "2111-01-14 00:00:00", "storetime": at(-10), "text": "Draft of the admission itself."},
        {
            "charttime": "2110-01-14 00:00:00",
            "storetime": "2110-01-15 10:00:00",
            "hadm_id": "1",
            "text": "Older summary.",
        },
        {"charttime": "2110-07-14 00:00:00", "storetime": "", "hadm_id": "2", "text": "Name:  ___\nLast summary."},
        {"charttime": "2112-07-14 00:00:00", "storetime": "", "hadm_id": "3", "text": "A later admission."},
    ]
    for name, entries in (("radiology", reports), ("discharge", summaries)):
        made = pd.DataFrame([{"note_id": f"10004422-{n}"} | note | entry for n, entry in enumerate(entries)])
        write(small.parent / "mimic-iv-note" / "2.2" / "note" / f"{name}.csv.gz", made)
    chart = {
        "subject_id": "10004422",
        "hadm_id": hadm,
        "stay_id": STAY,
        "caregiver_id": "1",
        "valueuom": "bpm",
        "warning": "0",
    }
    measured = [
        {"itemid": "220045", "charttime": at(-2), "storetime": at(-1.9), "value": "88", "valuenum": "88"},
        {"itemid": "220045", "charttime": at(-2.5), "storetime": at(1), "value": "99", "valuenum": "99"},
        {
            "itemid": "223761",
            "charttime": at(-2),
            "storetime": at(-1.9),
            "value": "98.6",
            "valuenum": "98.6",
            "valueuom": "°F",
        },
        {
            "itemid": "226253",
            "charttime": at(-2),
            "storetime": at(-1.9),
            "value": "85",
            "valuenum": "85",
            "valueuom": "%",
        },
    ]
    write(small / "icu" / "chartevents.csv.gz", pd.DataFrame([chart | entry for entry in measured]))
    return small


def test_ecg_notes_and_bedside_measurements(whole, tmp_path):
    out = tmp_path / "out"
    done = import_mimic_iv(whole, out)
    row, site = one(out, STAY), out / "icu_cardiac_surgery"
    assert row["ecg_path"] == "ecg/40000002.hea"  # the last one before the index time
    assert sorted(path.name for path in (site / "ecg").iterdir()) == ["40000002.dat", "40000002.hea"]
    assert not list((out / "icu_coronary" / "ecg").iterdir())  # too long before
    text = (site / row["text_path"]).read_text(encoding="utf-8")
    assert text == 'Newer film.\n\nEXAM: chest, "AP"\nOlder film, line one.\nLine two.\n\nName:  ___\nLast summary.\n'
    assert row["text_time"] == str(INDEX - timedelta(hours=2) - CENTURIES)
    chart = pd.read_parquet(site / "events.parquet").query("code.str.startswith('CHART')")
    assert chart[["code", "numeric_value"]].values.tolist() == [
        ["CHART//220045//bpm", 88.0],
        ["CHART//223761//°F", pytest.approx(98.6, abs=1e-4)],
    ]
    assert "Not found: nothing." in (site / "site.toml").read_text(encoding="utf-8")
    study = load_study(done.study)
    assert {"ecg", "series", "text", "ehr"} == set(study.modalities)
    cohort, report = load_cohort(load_site(site), study)
    assert not report.quarantined
    n = cohort.sample_ids.index(STAY)
    fields = study.modalities["series"].fields
    heart_rate = cohort.inputs["series"]["observed"][n, :, fields.index("heart_rate")]
    assert np.flatnonzero(heart_rate).tolist() == [45]  # (index - 3 h, index - 2 h]
    celsius = cohort.inputs["series"]["values"][n, 45, fields.index("temperature")]
    assert celsius == pytest.approx((37.0 - 35) / (39 - 35) * 2 - 1, abs=1e-4)
    assert cohort.present["ecg"][n] and cohort.inputs["ecg"]["lead_mask"][n].all()


def test_missing_ecg_files_are_counted_before_anything_is_written(whole, tmp_path):
    (whole / "mimic-iv-ecg" / "1.0" / "files/p1000/p10004422/s40000002/40000002.dat").unlink()
    with pytest.raises(ConsiliumError, match="MIMIC-IV-ECG") as caught:
        import_mimic_iv(whole, tmp_path / "out")
    (fault,) = caught.value.faults
    assert (fault.key, fault.value) == ("1 of 2 files", "files/p1000/p10004422/s40000002/40000002.dat")
    assert not (tmp_path / "out").exists()


def test_parts_beside_are_checked_with_the_rest(whole, tmp_path):
    (whole / "mimic-iv-ecg" / "1.0" / "record_list.csv").write_text("subject_id,study_id\n")
    write(whole.parent / "mimic-iv-note" / "2.2" / "note" / "discharge.csv.gz", pd.DataFrame({"note_id": ["a"]}))
    with pytest.raises(ConsiliumError) as caught:
        import_mimic_iv(whole, tmp_path / "out")
    keys = " ".join(fault.key for fault in caught.value.faults)
    assert all(
        word in keys for word in ("record_list.csv: ecg_time", "record_list.csv: path", "discharge.csv.gz: text")
    )
