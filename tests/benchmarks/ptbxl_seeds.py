"""PTB-XL, sites 0-2 train, site 3 judges: macro AUROC (NORM, MI, STTC, CD) over five fixed seeds, with and without DP.

The settings are those that ``fl-sites import ptb-xl`` writes into study.toml (fixed on sites 0-2 by
``ptbxl_settings.py``). Federated averaging in one process over the product's own trainers; the deployment gives the
same bits without privacy (``tests/integration``). Compare with ``ptbxl_linear.py``.

    python tests/benchmarks/ptbxl_seeds.py --from DIR [--seeds 1,2,3,4,5] [--epsilon 8]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from ptbxl_settings import run

from fl_shared.study import Study, load_study
from fl_sites.importers.ptb_xl import import_ptb_xl


def with_seed(study: Study, seed: int, epsilon: float | None) -> Study:
    body = study.model_dump(mode="json", by_alias=True, exclude_none=True) | {"seed": seed}
    body["privacy"] |= {"mode": "none" if epsilon is None else "patient", "epsilon": epsilon}
    body["evaluation"] |= {"bootstrap": 100}
    return Study.model_validate(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--epsilon", type=float, default=8.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        study = load_study(import_ptb_xl(args.source, root / "sites").study)
        for epsilon in (None, args.epsilon):
            began, found = time.monotonic(), []
            for seed in map(int, args.seeds.split(",")):
                chosen = with_seed(study, seed, epsilon)
                found.append(run(chosen, root / "sites", root / f"{epsilon}-{seed}", judges=("site_3",)))
                print(
                    f"epsilon {epsilon} seed {seed}", {k: round(v, 3) for k, v in sorted(found[-1].items())}, flush=True
                )
            for inputs in sorted(found[0]):
                values = np.array([result[inputs] for result in found])
                print(
                    f"epsilon {epsilon} mean over seeds: {inputs:10} {values.mean():.3f} (sd {values.std(ddof=1):.3f})"
                )
            print(f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
