"""How the form of the ECG encoder was fixed: on held-out patients of sites 0-2 only, site 3 is never read.

The ECG alone, federated as in ``ptbxl_settings.py``, for each form and several salts (each holds out another fifth):
macro AUROC (NORM, MI, STTC, CD), mean over sites 0 and 1.

    python tests/benchmarks/ptbxl_encoder.py --from DIR [--salts 4]
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from ptbxl_settings import run, variant
from torch.nn import functional as F

from fl_client.data.load import load_cohort
from fl_shared.models.encoders import ecg_resnet
from fl_shared.models.interface import EncoderOutput, State
from fl_shared.site import load_site
from fl_shared.study import load_study
from fl_sites.importers.ptb_xl import import_ptb_xl

FORMS = {  # pooling, gain, tokens
    "mean and maximum, gain 5, 16 tokens": (True, 5.0, 16),
    "mean, gain 5, 16 tokens": (False, 5.0, 16),
    "mean and maximum, gain 1, 16 tokens": (True, 1.0, 16),
    "mean and maximum, gain 5, 8 tokens": (True, 5.0, 8),
    "mean and maximum, gain 5, 32 tokens": (True, 5.0, 32),
    "mean, gain 1, 8 tokens": (False, 1.0, 8),
}


class MeanOnly(ecg_resnet.EcgResNet):
    """The same network, tokens and pooled vector by the mean alone."""

    width = ecg_resnet.CHANNELS[-1]

    def finish(self, state: State) -> EncoderOutput:
        """Pool the last map to the tokens."""
        first, second, third = state.done
        h = F.relu(self.norm(state.map))
        tokens = F.adaptive_avg_pool1d(h, ecg_resnet.TOKENS).transpose(1, 2)
        mask = tokens.new_ones(tokens.shape[:2]).bool()
        return EncoderOutput(pooled=h.mean(-1), tokens=tokens, token_mask=mask, levels=(first, second, third))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--salts", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    both = ecg_resnet.EcgResNet
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        study = load_study(import_ptb_xl(args.source, root / "sites").study)
        shutil.rmtree(root / "sites" / "site_3")  # what is not there cannot be looked at
        ids = {n: set(load_cohort(load_site(root / "sites" / n), study)[0].patient_ids) for n in study.train_sites}
        body = study.model_dump(mode="json", by_alias=True, exclude_none=True)
        alone = type(study).model_validate(body | {"modalities": {"ecg": body["modalities"]["ecg"]}})
        for number, (name, (maximum, gain, tokens)) in enumerate(FORMS.items()):
            ecg_resnet.GAIN, ecg_resnet.TOKENS = gain, tokens
            ecg_resnet.EcgResNet = both if maximum else MeanOnly  # type: ignore[misc]
            found = []
            for salt in range(args.salts):
                chosen = variant(alone, {}, f"settings-{salt}", ids)
                found.append(run(chosen, root / "sites", root / f"{number}-{salt}")["all"])
            error = np.std(found, ddof=1) / np.sqrt(len(found))
            print(f"{name:38} {np.mean(found):.3f} (se {error:.3f}) {np.round(found, 3)}", flush=True)


if __name__ == "__main__":
    main()
