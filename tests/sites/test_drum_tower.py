from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fl_client.data.load import Wanted, read_cohort
from fl_shared import concepts
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import ColumnMap, EventTable, Site, TextFiles, load_site
from fl_shared.study import EvaluationPlan, ModalityPlan, TaskPlan
from fl_shared.toml import load
from fl_sites.importers.ccs import PHENOTYPES as CCS

FOLDER = Path(__file__).resolve().parents[2] / "sites" / "drum_tower"
TASKS = {
    "death": TaskPlan(type="binary"),
    "in_hospital_death": TaskPlan(type="binary"),
    "cvd_90d": TaskPlan(type="binary"),
    "cause_of_death": TaskPlan(type="multiclass", labels=("cardiac", "other")),
    "follow_up": TaskPlan(type="multiclass", labels=("routine", "clinic", "device")),
    "macce": TaskPlan(type="multilabel", labels=("mi", "stroke", "hf_hospitalisation", "revascularisation")),
    "events": TaskPlan(type="multilabel", labels=("decompensation", "arrhythmia")),
    "phenotypes": TaskPlan(type="multilabel", labels=tuple(CCS)),
    "survival": TaskPlan(type="survival"),
    "death_by_cause": TaskPlan(type="competing", labels=("cardiac", "other")),
    "readmission": TaskPlan(type="survival"),
    "recovery": TaskPlan(type="survival"),
    "ef_decline": TaskPlan(type="survival"),
    "length_of_stay": TaskPlan(type="regression"),
    "long_stay": TaskPlan(type="binary"),
    "fibrosis": TaskPlan(type="segmentation", modality="cine", labels=("myocardium", "fibrosis")),
}


@pytest.fixture
def site():
    return load(FOLDER / "site.toml", Site, code=ExitCode.SITE)


def test_only_the_paths_are_missing():
    with pytest.raises(ConsiliumError) as caught:
        load_site(FOLDER)
    assert {fault.key for fault in caught.value.faults} == {
        *("samples", "data_root", "network.root_certificates"),
        *("modalities.series.file", "modalities.text.medications.file"),
    }
    assert {fault.problem for fault in caught.value.faults} == {"path does not exist"}


def test_columns_and_codes_name_known_concepts_and_units(site):
    series = site.modalities["series"]
    assert isinstance(series, EventTable)
    held: list[ColumnMap] = [*site.columns.values(), *series.codes.values()]
    for column in held:
        concept = concepts.concept(column.concept)
        assert column.unit is None or column.unit in concept.known_units
        assert set(column.codes.values()) <= {*concept.codes.values()}
    assert (site.encoding, site.timezone) == ("gb18030", "Asia/Shanghai")
    assert (site.resources.actors, site.resources.gpus) == (4, 1.0)
    assert not site.privacy.allow_without_privacy


def test_all_modalities_and_the_outcomes_of_the_papers_are_shown(site):
    kinds = {name: mapped.kind for name, mapped in site.modalities.items()}
    assert kinds == {
        **{"cine": "cine", "lge": "image", "ecg": "waveform", "ehr": "table", "series": "events", "text": "text"}
    }
    assert {name: mapped.type for name, mapped in site.tasks.items()} == {n: plan.type for n, plan in TASKS.items()}
    for name, plan in TASKS.items():
        mapped = site.tasks[name]
        assert set(mapped.columns) == {label or "value" for label in plan.names}
        coded = plan.type in ("multiclass", "competing", "segmentation")
        assert set(mapped.classes.values()) == (set(plan.labels) if coded else set())
    text = site.modalities["text"]
    assert isinstance(text, TextFiles) and text.medications is not None and text.leakage_words


def test_cine_series_are_found_by_what_scanners_write(site):
    pattern = re.compile(site.modalities["cine"].series, re.IGNORECASE)
    assert all(pattern.search(text) for text in ("CINE_segmented_SAX", "tfi2d1_电影_短轴", "BTFE_BH SAX", "SAX FIESTA"))
    assert not any(pattern.search(text) for text in ("localizer", "PSIR_LGE_SAX", "T1 map MOLLI", "perfusion"))


ROWS = """patient_id,sample_id,index_time,年龄,性别,身高,体重,收缩压,心率,NYHA分级,左室射血分数,肌酐,NT-proBNP,\
血钠,血红蛋白,cine_path,mask_path,lge_path,ecg_path,text_path,记录时间,一年内死亡,院内死亡,死亡原因,心肌梗死,脑卒中,心衰再入院,\
再次血运重建,心衰失代偿,恶性心律失常,90天内心血管事件,随访天数,随访死亡,再入院天数,再入院,住院天数,随访方式,\
射血分数恢复天数,射血分数恢复,射血分数下降天数,射血分数下降,住院超过7天,\
诊断_脓毒症,诊断_糖尿病无并发症,诊断_糖尿病伴并发症,诊断_血脂异常,诊断_水电解质紊乱,\
诊断_原发性高血压,诊断_高血压伴并发症,诊断_急性心肌梗死,诊断_冠状动脉粥样硬化,诊断_传导障碍,\
诊断_心律失常,诊断_心力衰竭,诊断_急性脑血管病,诊断_肺炎,诊断_慢性阻塞性肺疾病,\
诊断_胸膜炎气胸肺不张,诊断_呼吸衰竭,诊断_其他下呼吸道疾病,诊断_其他上呼吸道疾病,诊断_其他肝病,\
诊断_消化道出血,诊断_急性肾衰竭,诊断_慢性肾脏病,诊断_操作并发症,诊断_休克
00123,a,2023-05-02 08:00,71,女,158,55,118,96,Ⅲ,35,141,5200,134,109,,,,,a.txt,2023-05-01 20:15,是,否,心源性,0,0,1,0,\
1,1,1,201,1,44,1,12,心衰门诊,201,0,30,1,是,0,0,0,0,0,1,0,0,1,0,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0
00124,b,2023-06-10 09:30,58,男,172,80,131,70,II级,55,88,<100,140,141,,,,,b.txt,2023-06-12 10:00,否,否,,0,0,0,0,\
0,0,,365,0,,,6,常规随访,90,1,365,0,否,0,1,0,0,0,1,0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0
"""
EVENTS = """subject_id,time,code,numeric_value,text_value
00123,2023-05-02 07:30,心率,101,
00123,2023-05-02 08:30,心率,150,
00123,2023-05-01 23:00,高敏肌钙蛋白T,,<3
00124,2023-06-10 09:30,血钾,4.1,
"""
MEDICATIONS = """患者编号,开立时间,药品名称,单次剂量,剂量单位,给药途径,频次
00123,2023-05-01 18:00,呋塞米片,20,mg,口服,每日一次
00123,2023-05-03 09:00,盐酸胺碘酮片,200,mg,口服,每日三次
00124,2023-06-09 09:00,阿托伐他汀钙片,20,mg,口服,每晚一次
"""
NOTE = "胸闷气促3天，加重伴夜间不能平卧。双肺底湿啰音。"


@pytest.fixture
def hospital(tmp_path):
    """The worked example as it stands, with its absolute paths moved, and the tables that it describes."""
    text = (FOLDER / "site.toml").read_text(encoding="utf-8")
    moved = re.sub(r'"/(?:srv|var|etc)/[^"]*/([^/"]+)"', rf'"{tmp_path}/\1"', text)
    moved = moved.replace(f'data_root = "{tmp_path}/drum_tower"', f'data_root = "{tmp_path}"')
    moved = moved.replace("events.parquet", "events.csv")
    (tmp_path / "site.toml").write_text(moved, encoding="utf-8")
    (tmp_path / "coordinator-ca.pem").touch()
    notes = {"a.txt": NOTE, "b.txt": "入院后第二天补记。"}
    tables = {"samples.csv": ROWS, "events.csv": EVENTS, "prescriptions.csv": MEDICATIONS}
    for name, content in (tables | notes).items():
        (tmp_path / name).write_text(content, encoding="gb18030")
    return load_site(tmp_path)


def test_its_tables_are_read_as_the_example_says(hospital):
    modalities = {
        "cine": ModalityPlan(kind="cine", size=16),
        "ehr": ModalityPlan(kind="table", fields=("age", "sex", "nyha", "lvef", "nt_probnp")),
        "series": ModalityPlan(kind="events", fields=("heart_rate", "troponin_t", "potassium"), hours=24.0, bins=24),
        "text": ModalityPlan(kind="text", max_tokens=256),
    }
    evaluation = EvaluationPlan(salt="drum-tower-example")
    cohort, report = read_cohort(hospital, Wanted(modalities=modalities, tasks=TASKS, evaluation=evaluation))
    assert not report.rejects and cohort is not None
    assert cohort.patient_ids == ("00123", "00124")
    # the note of the second patient was written after the index time
    assert [(q.row, q.modality, q.check) for q in report.quarantined] == [(3, "text", "note-after-index")]
    assert not cohort.present["cine"].any()
    observed, values = cohort.inputs["series"]["observed"], cohort.inputs["series"]["values"]
    assert np.argwhere(observed).tolist() == [[0, 14, 1], [0, 23, 0], [1, 23, 2]]  # 08:30 is too late
    assert values[0, 23, 0] == concepts.scale(np.array([101.0]), concepts.concept("heart_rate"))[0]
    static = cohort.inputs["ehr"]["values"]
    wanted = [("age", 71, 58), ("sex", 1, 0), ("nyha", 3, 2), ("lvef", 35, 55), ("nt_probnp", 5200, 100)]
    for n, (name, *known) in enumerate(wanted):
        np.testing.assert_allclose(static[:, n], concepts.scale(np.array(known, dtype=float), concepts.concept(name)))
    texts = [bytes((ids[ids > 3] - 4).tolist()).decode() for ids in cohort.inputs["text"]["ids"]]
    assert texts == [f"{NOTE}\n呋塞米片 20 mg 口服 每日一次.", "阿托伐他汀钙片 20 mg 口服 每晚一次."]
    targets = {name: cohort.targets[name].tolist() for name in TASKS}
    masks = {name: cohort.target_mask[name].tolist() for name in TASKS}
    assert not cohort.target_mask["fibrosis"].any()  # nobody has a cine
    assert targets["survival"] == [[201, 1], [365, 0]] and targets["readmission"][0] == [44, 1]
    assert masks["readmission"] == [[True, True], [False, False]]
    assert targets["death_by_cause"] == [[201, 1], [365, 0]] and targets["ef_decline"] == [[30, 1], [365, 0]]
    coded = [{label for label, v in zip(CCS, row, strict=True) if v} for row in targets["phenotypes"]]
    assert coded[1] == {"coronary_atherosclerosis", "diabetes_without_complication", "essential_hypertension"}
    assert targets["cause_of_death"][0] == [0] and masks["cause_of_death"] == [[True], [False]]
    assert targets["follow_up"] == [[1], [0]] and targets["length_of_stay"] == [[12], [6]]
    assert targets["macce"] == [[0, 0, 1, 0], [0, 0, 0, 0]] and masks["cvd_90d"] == [[True], [False]]
