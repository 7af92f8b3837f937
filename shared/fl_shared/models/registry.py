"""What can be built, by name: encoders, fusions, heads and systems, each with where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from fl_shared.errors import ConsiliumError, ExitCode, Fault, nearest
from fl_shared.models.interface import Fusion, FusionSpec, StagedEncoder
from fl_shared.study import ModalityPlan, ModelPlan, TaskPlan

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[Builder]):
    """One thing that can be built.

    kind: modality kind of an encoder, `TaskPlan.head` of a head, else ``""``; source: paper or section it follows;
    dp: per-patient gradients are exact under ghost clipping; native_missing: a fusion that handles an absent modality
    itself; projects: a fusion to which adapters bring every modality ``model.width`` wide, not as wide as its encoder.
    """

    name: str
    kind: str
    source: str
    dp: bool
    native_missing: bool
    projects: bool
    build: Builder


class Registry(Generic[Builder]):
    """Entries of one sort, by name."""

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self._entries: dict[str, Entry[Builder]] = {}

    def __iter__(self) -> Iterator[Entry[Builder]]:
        return iter(self._entries.values())

    def register(
        self,
        name: str,
        *,
        source: str,
        kind: str = "",
        dp: bool = True,
        native_missing: bool = False,
        projects: bool = True,
    ) -> Callable[[Builder], Builder]:
        """Decorator: enter a builder under a name."""

        def enter(build: Builder) -> Builder:
            if name in self._entries:
                raise ValueError(f"{self.sort} '{name}' is registered twice")
            self._entries[name] = Entry(
                name=name,
                kind=kind,
                source=source,
                dp=dp,
                native_missing=native_missing,
                projects=projects,
                build=build,
            )
            return build

        return enter

    def get(self, name: str, *, key: str, kind: str = "") -> Entry[Builder]:
        """The entry of a name (and kind, if given) that stands at ``key`` of the study.

        Raises:
            ConsiliumError: no such entry (exit code 10); the nearest known name is given.
        """
        known = {e.name: e for e in self if kind in ("", e.kind)}
        if name in known:
            return known[name]
        of_kind = f" for kind '{kind}'" if kind else ""
        mend = nearest(name, known) if known else f"None is installed{of_kind}."
        problem = f"no {self.sort} of this name{of_kind}"
        fault = Fault(file="study.toml", key=key, value=name, problem=problem, mend=mend)
        raise ConsiliumError("the model cannot be built", code=ExitCode.STUDY, faults=[fault])


ENCODERS: Registry[Callable[[ModalityPlan, ModelPlan, Path | None], StagedEncoder]] = Registry("encoder")
FUSIONS: Registry[Callable[[FusionSpec], Fusion]] = Registry("fusion")
HEADS: Registry[Callable[[TaskPlan, int | None, ModelPlan], nn.Module]] = Registry("head")
"""Built for a task and the width of the fused vector: None when the fusion predicts itself."""

DECODERS: Registry[Callable[[TaskPlan, StagedEncoder, ModalityPlan], nn.Module]] = Registry("decoder")
"""Heads of segmentations: called with the levels of an encoder (tuple of `Level`), give logits (B, frames, slices,
classes, size, size)."""
