"""What a coordinator can ask of a site, one function a kind of request: (desk, request, study, arrays, deadline)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fl_client.jobs.desk import Answer, Desk
from fl_client.jobs.judging import evaluate
from fl_client.jobs.learning import learning
from fl_client.jobs.recalibration import recalibrate
from fl_client.jobs.secure import keys, shares, train, unmask
from fl_client.jobs.statistics import statistics
from fl_client.jobs.training import encoders
from fl_shared.study import Study
from fl_shared.wire import Kind, Request

Job = Callable[[Desk, Request, Study, Mapping[str, bytes], float], Answer]
JOBS: Mapping[Kind, Job] = {
    "statistics": statistics,
    "keys": keys,
    "shares": shares,
    "train": train,
    "unmask": unmask,
    "learning": learning,
    "encoders": encoders,
    "recalibrate": recalibrate,
    "evaluate": evaluate,
}
JUDGES = frozenset({"evaluate"})
"""Kinds that an external site answers; all others are of training patients."""

__all__ = ["JOBS", "JUDGES", "Answer", "Desk", "Job"]
