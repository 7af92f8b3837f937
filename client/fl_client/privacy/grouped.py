"""Clipped sums of per-patient gradients when a step takes all records of a patient, by per-sample gradients (hooks).

A patient's gradient is the mean of their records' gradients, so that it is clipped and counted once however many
records there are. Ghost clipping knows no norm of such a mean: every record's gradient is held (Opacus' hooks), which
costs memory in proportion to the records of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from fl_client.privacy.clipping import MARGIN, TOLERANCE, difference, refusal, refuse_banned
from fl_shared.models.interface import Batch, take


class GroupClipper:
    """As `GhostClipper`, for batches with several rows a patient (``batch.index`` tells them apart).

    Args:
        model: called with a `Batch`, gives logits; ``losses(logits, batch)`` gives (B,).

    Raises:
        ConsiliumError: the model holds a banned module (exit code 16).
    """

    def __init__(self, model: nn.Module) -> None:
        refuse_banned(model)
        self._model = model
        self._losses: Callable[..., Tensor] = model.losses  # type: ignore[assignment]
        self._hooked = GradSampleModule(model, loss_reduction="sum", strict=False)
        self._hooked.disable_hooks()
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def close(self) -> None:
        """Take the hooks off, so that the model can be wrapped anew with other trainable parameters."""
        self._forget()
        self._hooked.remove_hooks()

    def clipped_sum(self, batch: Batch, *, clip: float, micro_batch: int) -> dict[str, Tensor]:
        """Sum over patients of g_i min(1, clip / |g_i|), |g_i| over all trainable parameters together.

        Args:
            batch: all records of the patients of a step; none at all gives zeros.
            clip: L2 bound C.
            micro_batch: rows held in memory at a time, but never less than one patient's.

        Returns:
            Parameter name -> sum, in the parameter's shape. A patient whose gradient is not finite adds nothing.
        """
        sums = {name: torch.zeros_like(p) for name, p in self._trainable.items()}
        for rows in _whole_patients(batch.index, micro_batch):
            _, gradients = self._per_patient(take(batch, rows))
            norms = _norms(gradients)
            weights = (clip / (norms * (1 + MARGIN))).clamp(max=1.0).nan_to_num(nan=0.0)
            kept = norms.isfinite()
            for name, each in gradients.items():
                sums[name] += torch.einsum("p...,p->...", each[kept], weights[kept].to(each.dtype))
        return sums

    def self_test(self, batch: Batch) -> None:
        """Compare every patient's norm with the gradient of their own mean loss, differentiated alone.

        Raises:
            ConsiliumError: they differ by more than 1e-4, so that no bound holds (exit code 16).
        """
        losses, gradients = self._per_patient(batch, retain=True)
        singles = []
        for patient in torch.unique(batch.index):
            mean = losses[batch.index == patient].mean()
            found = torch.autograd.grad(mean, list(self._trainable.values()), retain_graph=True, allow_unused=True)
            singles.append(torch.stack([g.norm() for g in found if g is not None]).norm())
        worst = difference(_norms(gradients), torch.stack(singles))
        if not worst <= TOLERANCE:
            raise refusal(f"per-patient gradient norms differ by {worst:.1e} from those of single patients")

    def _per_patient(self, batch: Batch, *, retain: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses (B,), their graph kept if ``retain``, and the mean gradient (P, …) of every patient's records.

        Patients in the order of ``torch.unique(batch.index)``.
        """
        self._forget()
        self._model.train()
        patients, place, count = torch.unique(batch.index, return_inverse=True, return_counts=True)
        self._hooked.enable_hooks()
        try:
            losses = self._losses(self._hooked(batch), batch)
            torch.autograd.backward((losses / count[place]).sum(), retain_graph=retain)
        except (NotImplementedError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise refusal(f"per-patient gradients cannot be taken: {error}") from error
        finally:
            self._hooked.disable_hooks()
        found = {}
        for name, parameter in self._trainable.items():
            if parameter.grad is not None:
                each = getattr(parameter, "grad_sample", None)
                # A layer that Opacus has no rule for leaves none: its gradient would escape the bound.
                if not isinstance(each, Tensor) or len(each) != len(batch):
                    raise refusal(f"no per-patient gradients for parameter '{name}'")
                found[name] = each.new_zeros(len(patients), *each.shape[1:]).index_add_(0, place, each)
        self._forget()
        return losses, found

    def _forget(self) -> None:
        """Drop gradients, and what an earlier pass left in Opacus' hooks."""
        self._model.zero_grad(set_to_none=True)
        for parameter in self._trainable.values():
            parameter.grad_sample = None  # type: ignore[attr-defined]


def _norms(gradients: dict[str, Tensor]) -> Tensor:
    """(P,) over all parameters together."""
    each = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients.values()]
    whole: Tensor = torch.linalg.vector_norm(torch.stack(each), dim=0)
    return whole


def _whole_patients(patient: Tensor, most: int) -> Iterator[Tensor]:
    """Row numbers, patient after patient, in parts of about ``most`` rows that split nobody."""
    order = patient.argsort(stable=True)
    part: list[Tensor] = []
    for rows in torch.split(order, torch.unique(patient, return_counts=True)[1].tolist()):
        if part and sum(map(len, part)) + len(rows) > most:
            yield torch.cat(part)
            part = []
        part.append(rows)
    if part:
        yield torch.cat(part)
