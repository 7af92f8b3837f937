"""One round of server optimisation with Flower's strategies: pure, in a fixed order, in float64.

Every call makes a fresh strategy and hands it the state of the last committed round, so an interrupted run continues
bit for bit. Sums run over site names in sorted order; weights are the declared patients of the study.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, Metadata, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from fl_shared.study import Study
from fl_shared.wire import Arrays

WEIGHT = "num-examples"
TOGETHER = "*"  # under this name stands the weighted mean of several sites, in the place of their updates
MOMENTUM = 0.9  # of FedAvgM (Hsu et al. 2019, arXiv:1909.06335); Flower's default of 0 would be FedAvg
STEP = 1e-2  # eta of FedAdam, FedYogi and FedAdagrad (Reddi et al. 2021, arXiv:2003.00295); beta, tau: Flower's
TRIM = 0.2


def aggregate(
    *, study: Study, round_number: int, base: Arrays, updates: Mapping[str, Arrays], state: Arrays
) -> tuple[Arrays, Arrays]:
    """Combine validated updates by ``study.training.strategy``.

    Args:
        study: strategy and declared patients.
        round_number: of its phase, 1-based (FedAdam corrects its bias with it).
        base: what the sites started from.
        updates: site -> parameters after training, of the names, shapes and dtypes of ``base``; or `TOGETHER` -> their
            weighted mean (float64), from which every strategy but the robust ones takes the same step.
        state: optimiser state after the previous round (float64; empty before the first).

    Returns:
        Parameters in the dtypes of ``base`` (integers rounded), and the new state.

    Raises:
        ValueError: there is no update.
    """
    if not updates:
        raise ValueError("no update to aggregate")
    if not base:  # a phase that trains only what stays at the sites
        return {}, {}
    kind = study.training.strategy
    strategy = _strategy(kind, replies=len(updates))
    _restore(strategy, kind, base, state)
    return _apply(strategy, study, round_number, base, updates), _state(strategy, kind, names=sorted(base))


def weighted_mean(*, study: Study, base: Arrays, updates: Mapping[str, Arrays]) -> Arrays:
    """Mean of the sites' arrays weighted by declared patients (float64, dtypes of ``base``)."""
    return _apply(flower.FedAvg(), study, 1, base, updates)


def _apply(strategy: Any, study: Study, round_number: int, base: Arrays, updates: Mapping[str, Arrays]) -> Arrays:
    names = sorted(base)
    weights = {site: 1 if site == TOGETHER else study.sites[site].patients for site in updates}
    replies = [_reply(updates[site], names, patients=weights[site]) for site in sorted(updates)]
    combined, _ = strategy.aggregate_train(round_number, replies)
    return {name: _cast(combined[name].numpy(), base[name].dtype) for name in names}


def _strategy(kind: str, *, replies: int) -> Any:
    match kind:
        case "fedavg":
            return flower.FedAvg()
        case "fedavgm":
            return flower.FedAvgM(server_momentum=MOMENTUM)
        case "fedadam":
            return flower.FedAdam(eta=STEP)
        case "fedyogi":
            return flower.FedYogi(eta=STEP)
        case "fedadagrad":
            return flower.FedAdagrad(eta=STEP)
        case "fedmedian":
            return flower.FedMedian()
        case "fedtrimmedavg":
            # a fifth of 3 or 4 sites would be none: from 3 sites on, at least the lowest and the highest go
            return flower.FedTrimmedAvg(beta=max(TRIM, 1 / replies) if replies > 2 else 0.0)
        case _:
            raise ValueError(f"unknown strategy '{kind}'")


def _restore(strategy: Any, kind: str, base: Arrays, state: Arrays) -> None:
    """Put base and optimiser state where `configure_train` and earlier rounds would have left them."""
    start = {name: np.asarray(base[name], dtype=np.float64) for name in sorted(base)}
    match kind:
        case "fedavgm":
            strategy.current_arrays = ArrayRecord({name: Array(array) for name, array in start.items()})
            momentum = _part(state, "momentum")
            strategy.momentum_vector = [momentum[name] for name in start] if momentum else None
        case "fedadam" | "fedyogi" | "fedadagrad":
            strategy.current_arrays = start
            strategy.m_t, strategy.v_t = _part(state, "m") or None, _part(state, "v") or None
        case _:
            pass


def _state(strategy: Any, kind: str, *, names: list[str]) -> Arrays:
    match kind:
        case "fedavgm":
            momentum = zip(names, strategy.momentum_vector, strict=True)
            return {f"momentum/{name}": np.asarray(array) for name, array in momentum}
        case "fedadam" | "fedyogi" | "fedadagrad":
            moments = (("m", strategy.m_t), ("v", strategy.v_t))
            return {f"{part}/{name}": np.asarray(named[name]) for part, named in moments for name in names}
        case _:
            return {}


def _part(state: Arrays, part: str) -> dict[str, Any]:
    return {name.removeprefix(f"{part}/"): array for name, array in state.items() if name.startswith(f"{part}/")}


def _reply(update: Arrays, names: list[str], *, patients: int) -> Message:
    """A site's update as the strategies read it. The metadata are ours: no answer of a node is forged here."""
    arrays = ArrayRecord({name: Array(np.asarray(update[name], dtype=np.float64)) for name in names})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({WEIGHT: patients})})
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=0.0,
        message_type=MessageType.TRAIN,
    )
    return Message(content=content, metadata=metadata)


def _cast(array: Any, dtype: np.dtype[Any]) -> Any:
    return np.asarray(np.rint(array) if np.issubdtype(dtype, np.integer) else array, dtype=dtype)
