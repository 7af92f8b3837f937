"""Clipped sums of per-patient gradients by ghost clipping, and the proof on the actual model that they are right.

Li et al. 2022 (Large language models can be strong differentially private learners, section 4): a first backward pass
gives every row's gradient norm without its gradient, a second one the gradient of the reweighted loss. Hooks and norm
rules are Opacus'. A patient is a row, and the bound holds jointly over all trainable parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import Tensor, nn

from fl_client.privacy import norms as _norm_rules  # noqa: F401 - registers its rules with opacus
from fl_client.training.rows import span
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.models.interface import Batch, take

# Inputs need no gradient, so a first layer's hook fires on its output: what the hooks read all the same.
warnings.filterwarnings("ignore", message="Full backward hook is firing")

TOLERANCE = 1e-4  # relative, of a row's norm, against a loop over single rows
MARGIN = 1e-6  # relative: a rounded norm must not let a gradient slip past the bound
_BANNED = {
    "MultiheadAttention": "per-patient gradients are refused or wrong",
    "DPMultiheadAttention": "its forward pass is wrong with batch_first",
    "TransformerEncoderLayer": "holds nn.MultiheadAttention",
    "TransformerDecoderLayer": "holds nn.MultiheadAttention",
    "LSTM": "per-patient gradients are refused",
    "GRU": "per-patient gradients are refused",
    "RNN": "per-patient gradients are refused",
    "SyncBatchNorm": "mixes patients",
    **{f"{lazy}BatchNorm{n}d": "mixes patients" for lazy in ("", "Lazy") for n in (1, 2, 3)},
}


def refuse_banned(model: nn.Module) -> None:
    """Refuse modules whose per-patient gradients are known to be wrong, by name.

    Raises:
        ConsiliumError: one fault for each such module (exit code 16).
    """
    faults = [
        Fault(file="study.toml", key=f"model: {name}", problem=problem, mend="Choose another system or encoder.")
        for name, module in model.named_modules()
        if (problem := _problem(module))
    ]
    if faults:
        raise ConsiliumError(
            "the model cannot be trained with patient-level privacy", code=ExitCode.PRIVACY, faults=faults
        )


def _problem(module: nn.Module) -> str:
    own = bool(_own(module))
    kind = type(module).__name__
    trained = any(p.requires_grad for p in module.parameters())
    if kind in _BANNED and (trained or "mixes" in _BANNED[kind]):
        return f"{kind}: {_BANNED[kind]}"
    if own and getattr(module, "padding_idx", None) is not None:
        return f"{kind}: per-patient gradients are wrong with padding_idx"
    if getattr(module, "track_running_stats", False):
        return f"{kind}: running statistics mix patients"
    if own and any(True for _ in module.children()):
        return f"{kind}: holds a bare parameter beside child modules; give it a leaf module of its own"
    return ""


class GhostClipper:
    """Wraps a model once; the wrapped model is the same object, its parameters keep their names.

    Args:
        model: called with a `Batch`, gives logits; ``losses(logits, batch)`` gives (B,).

    Raises:
        ConsiliumError: the model holds a banned module (exit code 16).
    """

    def __init__(self, model: nn.Module) -> None:
        refuse_banned(model)
        self._model = model
        self._losses: Callable[..., Tensor] = model.losses  # type: ignore[assignment]
        self._hooked = GradSampleModuleFastGradientClipping(model, loss_reduction="sum", strict=False)
        self._hooked.disable_hooks()
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._reached = [_smallest(module) for module in model.modules() if _own(module)]

    def close(self) -> None:
        """Take the hooks off, so that the model can be wrapped anew with other trainable parameters."""
        self._forget()
        self._hooked.remove_hooks()

    def clipped_sum(self, batch: Batch, *, clip: float, micro_batch: int) -> dict[str, Tensor]:
        """Sum over rows of g_i min(1, clip / |g_i|), |g_i| over all trainable parameters together.

        Args:
            batch: the rows of a step, one a patient; none at all gives zeros.
            clip: L2 bound C.
            micro_batch: rows held in memory at a time; the sum does not depend on it.

        Returns:
            Parameter name -> sum, in the parameter's shape. A row whose gradient is not finite adds nothing: were it
            to spoil the sum, one patient could stop a release.
        """
        sums = {name: torch.zeros_like(p) for name, p in self._trainable.items()}
        for start in range(0, len(batch), micro_batch):
            self._add(sums, span(batch, start, start + micro_batch), clip=clip)
        return sums

    def self_test(self, batch: Batch) -> None:
        """Compare every row's norm with a loop over single rows, on this very model and in training mode.

        The loop differentiates one row's loss at a time through the same forward pass, so that dropout is the same;
        and a row alone must have the loss that it has among others.

        Raises:
            ConsiliumError: they differ by more than 1e-4, so that no bound holds (exit code 16).
        """
        losses, norms = self._norms(batch)
        parameters = list(self._trainable.values())
        singles = []
        for loss in losses:
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            singles.append(torch.stack([g.norm() for g in gradients if g is not None]).norm())
        self._forget()
        worst = difference(norms, torch.stack(singles))
        if not worst <= TOLERANCE:
            raise refusal(f"per-patient gradient norms differ by {worst:.1e} from those of single patients")
        worst = difference(*self._alone_and_among(batch))
        if not worst <= TOLERANCE:
            raise refusal(f"a patient's loss depends on other patients of the batch (by {worst:.1e})")

    def _add(self, sums: dict[str, Tensor], batch: Batch, *, clip: float) -> None:
        losses, norms = self._norms(batch)
        finite = norms.isfinite()
        if bool(finite.all()):
            weights = (clip / (norms * (1 + MARGIN))).clamp(max=1.0)
            self._model.zero_grad(set_to_none=True)
            torch.autograd.backward((losses * weights).sum())
            for name, parameter in self._trainable.items():
                if parameter.grad is not None:
                    # A layer that Opacus has no rule for leaves no norm: its gradient would escape the bound.
                    if not hasattr(parameter, "_norm_sample"):
                        raise refusal(f"no per-patient gradient norms for parameter '{name}'")
                    sums[name] += parameter.grad
        self._forget()
        if not bool(finite.all()) and bool(finite.any()):
            self._add(sums, take(batch, finite.nonzero()[:, 0]), clip=clip)

    def _norms(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses (B,), their graph kept for a second pass, and gradient norms (B,).

        The gradients themselves are not wanted: asked for is one small parameter a layer, so that the pass goes through
        all layers, whose hooks make the norms, and leaves out the products that would give the weights' gradients.
        """
        self._forget()
        self._model.train()
        self._hooked.enable_hooks()
        try:
            losses = self._losses(self._hooked(batch), batch)
            torch.autograd.backward(losses.sum(), retain_graph=True, inputs=self._reached)
        except (NotImplementedError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise refusal(f"per-patient gradients cannot be taken: {error}") from error
        finally:
            self._hooked.disable_hooks()
        norms = []
        for name, parameter in self._trainable.items():
            norm = getattr(parameter, "_norm_sample", None)
            if (parameter.grad is not None and norm is None) or (norm is not None and norm.shape != losses.shape):
                raise refusal(f"no per-patient gradient norms for parameter '{name}'")
            if norm is not None:
                norms.append(norm)
        return losses, torch.stack(norms).norm(dim=0) if norms else torch.zeros_like(losses)

    def _forget(self) -> None:
        """Drop gradients and whatever an earlier pass left behind in Opacus' hooks: stale norms would be used again."""
        self._model.zero_grad(set_to_none=True)
        for parameter in self._trainable.values():
            vars(parameter).pop("_norm_sample", None)
            vars(parameter).pop("_current_grad_sample", None)
            vars(parameter).update(_forward_counter=0, grad_sample=None)
        for module in self._model.modules():
            vars(module).pop("activations", None)
            vars(module).pop("max_batch_len", None)

    @torch.no_grad()
    def _alone_and_among(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses (B,) of rows evaluated one at a time, and together."""
        self._model.eval()
        alone = [self._loss(take(batch, row)) for row in torch.arange(len(batch))[:, None]]
        among = self._loss(batch)
        self._model.train()
        return torch.cat(alone), among

    def _loss(self, batch: Batch) -> Tensor:
        return self._losses(self._model(batch), batch)


def _own(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters(recurse=False) if p.requires_grad]


def _smallest(module: nn.Module) -> nn.Parameter:
    """A layer's trainable parameter of the fewest numbers: a bias, where there is one."""
    return min(_own(module), key=lambda parameter: parameter.numel())


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest relative difference; values below a thousandth of the largest count as that large."""
    floor = (expected.abs().max() * 1e-3).clamp(min=torch.finfo(expected.dtype).tiny)
    return float(((found - expected).abs() / expected.abs().maximum(floor)).max())


def refusal(problem: str) -> ConsiliumError:
    """What is raised when no bound holds."""
    mend = "Choose another system or encoder; this one cannot be trained with patient-level privacy."
    fault = Fault(file="study.toml", key="model", problem=problem, mend=mend)
    return ConsiliumError("the per-patient gradient check fails", code=ExitCode.PRIVACY, faults=[fault])
