"""LeMoF, Tables 1-3 and the ablation of its modules: fusions over a zoo of ECG and EHR encoders.

Table 1 crosses five fusions and LeMoF with 4 x 5 pairs of encoders: 120 models a seed. Take choices out of the file for
a smaller grid. Table 2 is of diseases: name them as [subgroups] in the site files and under evaluation.subgroups.
"""

from __future__ import annotations

from fl_server.comparison.papers.body import Body, comparison, fusion, of_kind, table
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.study import Study

ECG = {"ecg_cnn": "CNN", "ecg_lstm": "LSTM", "ecg_resnet34": "ResNet", "wavenet": "WaveNet"}
RECORDS = {
    "table": {
        "table_mlp": "MLP",
        "ft_transformer": "FT-Transformer",
        "tabnet": "TabNet-LN",
        "tab_transformer": "TabTransformer",
    },
    "events": {"events_lstm": "LSTM", "tpc": "TPC"},
}
BASELINES = {"mmtm": "MMTM", "daft": "DAFT", "drfuse": "DrFuse", "hyperfusion": "HyperFusion"}
METRICS = ("accuracy", "auroc", "f1")
ABLATION = ["lemof_first", "lemof_second", "lemof"]


def body(study: Study) -> Body:
    """Axes: fusion, ECG encoder, EHR encoder (with the modality that it reads)."""
    ecg = of_kind(study, ("waveform",), paper="LeMoF", wanted="a waveform")[0]
    tasks = [name for name, task in study.tasks.items() if task.type == "binary"]
    if not tasks:
        fault = Fault(file="study.toml", key="tasks", problem="no binary task", mend="Add one, e.g. a long stay.")
        raise ConsiliumError("LeMoF's tables are of a binary outcome", code=ExitCode.STUDY, faults=[fault])
    fusions = {
        "lemof": fusion("lemof", "level_guided", title="LeMoF"),
        "lemof_first": fusion("lemof", "level_guided_first", title="LeMoF, module 1"),
        "lemof_second": fusion("lemof", "level_guided_second", title="LeMoF, module 2"),
        "medfuse": fusion("medfuse", "lstm", title="MedFuse"),
    } | {name: fusion("baselines", name, title=title) for name, title in BASELINES.items()}
    axes = {
        "fusion": fusions,
        "ecg_encoder": {
            name: {"title": title, "study": {"modalities": {ecg: {"encoder": name}}}} for name, title in ECG.items()
        },
        "ehr_encoder": _records(study, ecg),
    }
    of = {"task": [tasks[0]]}
    pair = {"rows": ["ecg_encoder", "ehr_encoder"], "columns": ["fusion"], "picture": "heat"}
    tables = [
        table(f"{metric} of each pair of encoders", source="LeMoF, Table 1", only=of | {"metric": [metric]}, **pair)
        for metric in METRICS
    ]
    tables.append(
        table(
            "Ablation of the modules",
            source="LeMoF, ablation of M1 and M2",
            rows=["ecg_encoder", "ehr_encoder"],
            columns=["fusion"],
            only=of | {"fusion": ABLATION},
        )
    )
    if study.evaluation.subgroups:
        tables.append(_by_disease(of | {"fusion": ABLATION}, axes))
    return comparison(study, "lemof", title="LeMoF: encoders x fusions", tables=tables, axes=axes)


def _by_disease(only: Body, axes: Body) -> Body:
    """Groups of patients that the study asks for, under WaveNet and, where there is one, FT-Transformer."""
    records = list(axes["ehr_encoder"])
    record = next((name for name in records if name.endswith("ft_transformer")), records[0])
    pair = {"ecg_encoder": ["wavenet"], "ehr_encoder": [record]}
    return table(
        "Groups of patients, WaveNet x " + axes["ehr_encoder"][record]["title"],
        source="LeMoF, Table 2 (diseases)",
        rows=["subgroup"],
        columns=["fusion", "metric"],
        only=only | pair | {"metric": list(METRICS)},
    )


def _records(study: Study, ecg: str) -> dict[str, Body]:
    of_kind(study, RECORDS, paper="LeMoF", wanted="a table or events")
    found: dict[str, Body] = {}
    for name, plan in study.modalities.items():
        for encoder, title in RECORDS.get(plan.kind, {}).items():
            change = {"only": [ecg, name], "study": {"modalities": {name: {"encoder": encoder}}}}
            found[f"{name}_{encoder}"] = {"title": title, **change}
    return found
