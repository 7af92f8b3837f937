"""The 25 phenotypes of MedFuse's benchmark as discharge codes, drawn from the latent state.

What is there is sometimes not coded, so every phenotype is a probability.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from fl_sites.importers.ccs import PHENOTYPES as CCS

PHENOTYPES = tuple(CCS)
"""In the order of their CCS categories."""

FIRST = (
    "heart_failure",
    "coronary_atherosclerosis",
    "cardiac_dysrhythmias",
    "chronic_kidney_disease",
    "diabetes_without_complication",
    "essential_hypertension",
)
"""Drawn before the others, each by a rule of its own."""

LATER = tuple(name for name in PHENOTYPES if name not in FIRST)
_LOGITS: Mapping[str, tuple[float, Mapping[str, float]]] = {
    "septicaemia": (-2.2, {"severity": 0.6, "kidney": 0.3}),
    "diabetes_with_complications": (-3.5, {"diabetes": 2.3, "kidney": 0.8}),
    "lipid_disorders": (-0.9, {"infarct": 1.0, "diabetes": 0.6, "age": 0.3}),
    "fluid_and_electrolyte_disorders": (-0.9, {"severity": 0.9, "kidney": 0.7}),
    "hypertension_with_complications": (-3.4, {"hypertension": 2.2, "kidney": 1.2}),
    "acute_myocardial_infarction": (-2.6, {"infarct": 1.8, "severity": 0.4}),
    "conduction_disorders": (-2.0, {"qrs": 0.9}),
    "acute_cerebrovascular_disease": (-3.2, {"rhythm": 0.8, "age": 0.6, "hypertension": 0.5}),
    "pneumonia": (-1.6, {"severity": 0.8, "age": 0.3}),
    "chronic_obstructive_pulmonary_disease": (-1.5, {"severity": 0.5, "age": 0.3}),
    "pleurisy_pneumothorax_collapse": (-1.9, {"severity": 1.1}),
    "respiratory_failure": (-1.8, {"severity": 1.4}),
    "other_lower_respiratory_disease": (-1.7, {"severity": 0.6}),
    "other_upper_respiratory_disease": (-2.4, {"severity": 0.2}),
    "other_liver_diseases": (-2.3, {"severity": 0.9}),
    "gastrointestinal_haemorrhage": (-2.5, {"kidney": 0.6, "age": 0.4}),
    "acute_renal_failure": (-1.5, {"kidney": 1.3, "severity": 0.8}),
    "complications_of_procedures": (-1.8, {"infarct": 0.6, "severity": 0.3}),
    "shock": (-2.7, {"severity": 1.4}),
}
"""Logit at a state of 0, and its change with each part of the state."""


def phenotype_risks(patients: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Probability (n,) that the discharge codes name each phenotype."""
    kidney = 0.22 * patients["kidney"] + 0.18 * patients["severity"]
    found = {
        "heart_failure": expit((46 - patients["ejection_fraction"]) / 3 + 0.5 * patients["severity"]),
        "coronary_atherosclerosis": np.where(patients["scar"] > 0, 0.90, 0.12),
        "cardiac_dysrhythmias": expit(-1.3 + 2.0 * patients["rhythm"]),
        "chronic_kidney_disease": expit(-2 + 6 * kidney),
        "diabetes_without_complication": np.where(patients["diabetes"] > 0, 0.92, 0.03),
        "essential_hypertension": np.where(patients["hypertension"] > 0, 0.90, 0.08),
    }
    state = {
        **{name: patients[name] for name in ("severity", "rhythm", "kidney", "diabetes", "hypertension")},
        "infarct": patients["scar"] > 0,
        "age": (patients["age"] - 65) / 10,
        "qrs": (patients["qrs"] - 100) / 12,
    }
    for name, (start, changes) in _LOGITS.items():
        found[name] = expit(start + sum(change * state[of] for of, change in changes.items()))
    return {name: np.asarray(found[name], dtype=np.float64) for name in PHENOTYPES}
