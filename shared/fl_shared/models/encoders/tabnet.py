"""TabNet-LN: steps that choose inputs by sparse attention and decide a part each (Arik and Pfister 2021).

The paper normalises over parts of a batch, which mixes patients. Here a LayerNorm stands in each such place, over the
units of one patient, so that this is another method than the paper's: hence the name. Of a lone chosen input it would
leave the sign alone; so a 1 that is never masked stands beside the inputs. The first norm, of the inputs themselves, is
left out: they are scaled by their concepts' ranges, and over the fields of one patient it would hide how far off they
all are. The paper's loss for sparse masks is left out too: encoders add no losses. Words are read as numbers.

Inputs are a value and a flag a field. Of the 8,940 parameters published at 50 inputs (467,836 at width 64 and 5 steps),
two norms of the inputs (100 each; no forward pass reads one of them) and the last map to one logit (8; 64) are not
here; the 1 adds 32 (256).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.interface import EncoderOutput, Level, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

STEPS = 3
RELAXATION = 1.3  # gamma: how soon an input is used up
PAPER_WIDTH = 8


class RepeatedLinear(nn.Linear):
    """A linear map that is called several times a pass.

    Ghost clipping has a rule for nn.Linear, which knows one call; of a type without a rule Opacus adds up the gradients
    of a patient over all calls, and takes the norm of the sum.
    """


class FeatureLayers(nn.Module):
    """x (B, inputs + 1) -> (B, units): four gated layers, the first two with maps that all steps share.

    Each half of a map's units opens the other half. From the second layer on, the way past it is added, halving the
    variance of the sum.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(2 * units) for _ in range(4))
        self.own1, self.own2 = (nn.Linear(units, 2 * units, bias=False) for _ in range(2))

    def forward(self, x: Tensor, shared: nn.ModuleList) -> Tensor:
        """shared: inputs + 1 -> 2 units, and units -> 2 units."""
        h = F.glu(self.norm1(shared[0](x)))
        h = (h + F.glu(self.norm2(shared[1](h)))) * sqrt(0.5)
        h = (h + F.glu(self.norm3(self.own1(h)))) * sqrt(0.5)
        return (h + F.glu(self.norm4(self.own2(h)))) * sqrt(0.5)


class SoftNorm(nn.LayerNorm):
    """Starts with small outputs: the first choices take nearly all inputs, and being choosy is learnt."""

    initial: ClassVar[Mapping[str, float]] = {"weight": 0.1}


class InputChoice(nn.Module):
    """What the step before hands on (B, n) and how far inputs are used up (B, inputs) -> their shares, mostly 0."""

    def __init__(self, *, width: int, inputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, inputs, bias=False)
        self.norm = SoftNorm(inputs)

    def forward(self, handed: Tensor, prior: Tensor) -> Tensor:
        """Shares sum to 1."""
        return sparsemax(prior * self.norm(self.linear(handed)))


@dataclass(frozen=True, kw_only=True)
class Steps(State):
    """inputs (B, 2 F); prior (B, 2 F), what is left of each; decided: of the steps before the last, (B, n) each."""

    inputs: Tensor
    prior: Tensor
    decided: tuple[Tensor, ...] = ()


class TabNet(StagedEncoder):
    """``values`` and ``observed`` (B, F) -> a token a step, what it decides, of width n; pooled is their sum.

    A map holds in one place what a step decides and what it hands on, n channels each.
    """

    def __init__(self, *, fields: int, width: int) -> None:
        super().__init__()
        inputs, units = 2 * fields, 2 * width
        self.width = width
        self.stage_channels = (units,) * STEPS
        self.shared = nn.ModuleList(RepeatedLinear(n, 2 * units, bias=False) for n in (inputs + 1, units))
        self.choices = nn.ModuleList(InputChoice(width=width, inputs=inputs) for _ in range(STEPS))
        self.features = nn.ModuleList(FeatureLayers(units) for _ in range(1 + STEPS))

    def stem(self, inputs: Mapping[str, Tensor]) -> Steps:
        """Nothing is chosen yet, nor decided; what stands in an unobserved place is not read."""
        observed = inputs["observed"]
        values = torch.where(observed, inputs["values"], 0.0)
        x = torch.cat([values, observed.to(values.dtype)], dim=1)
        return Steps(map=self._features(0, x)[:, :, None], inputs=x, prior=torch.ones_like(x))

    def run_stage(self, index: int, state: State) -> Steps:
        """One step."""
        if not isinstance(state, Steps):
            raise TypeError("TabNet runs on the states that its stem gives")
        decided, handed = state.map[:, :, 0].chunk(2, dim=1)
        shares = self.choices[index](handed, state.prior)
        found = self._features(1 + index, shares * state.inputs)
        decides, hands = found.chunk(2, dim=1)
        new = torch.cat([F.relu(decides), hands], dim=1)[:, :, None]
        return replace(
            state,
            map=new,
            done=(*state.done, Level(map=new)),
            prior=state.prior * (RELAXATION - shares),
            decided=(*state.decided, decided) if index else (),
        )

    def finish(self, state: State) -> EncoderOutput:
        """A token a step."""
        if not isinstance(state, Steps):
            raise TypeError("TabNet runs on the states that its stem gives")
        tokens = torch.stack([*state.decided, state.map[:, : self.width, 0]], dim=1)
        return EncoderOutput(pooled=tokens.sum(1), tokens=tokens, token_mask=all_valid(tokens), levels=state.done)

    def _features(self, number: int, x: Tensor) -> Tensor:
        """Of the inputs as far as they are chosen, and of the 1."""
        found: Tensor = self.features[number](F.pad(x, (0, 1), value=1.0), self.shared)
        return found


def sparsemax(z: Tensor) -> Tensor:
    """The nearest point to each row of z (B, n) whose numbers are not negative and sum to 1.

    Martins and Astudillo 2016, algorithm 1.
    """
    ordered = z.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - 1
    rank = torch.arange(1, z.shape[1] + 1, device=z.device, dtype=z.dtype)
    support = (rank * ordered > excess).sum(1, keepdim=True).clamp(min=1)  # at least one, but where z is NaN
    return (z - excess.gather(1, support - 1) / support).clamp(min=0)


@ENCODERS.register("tabnet", kind="table", source="Arik and Pfister 2021 (TabNet), with LayerNorm; LeMoF")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> TabNet:
    """The encoder of a table modality; as wide as the model in the small preset."""
    width = PAPER_WIDTH if model.preset == "paper" else model.width
    return loaded(TabNet(fields=len(plan.fields), width=width), weights)
