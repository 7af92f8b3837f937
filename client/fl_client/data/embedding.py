"""Vectors that another model computed, as a file kind: one ``.npy`` or ``.safetensors`` file a sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from fl_client.data.findings import UnreadableError, inside, regular_file
from fl_client.data.kinds import FileKind, Layout, Sample
from fl_shared.study import ModalityPlan

MAX_BYTES = 256 * 1024**2
MEND = "Write one array (vectors, features) of floating-point numbers."


class EmbeddingKind:
    """vectors (vectors, features), rows beyond the file's own are 0; mask (vectors,): which are the file's."""

    version = "1"

    def layout(self, plan: ModalityPlan) -> Layout:
        """As `FileKind.layout`."""
        return {"vectors": ((plan.vectors, plan.features or 0), "float32"), "mask": ((plan.vectors,), "bool")}

    def files(self, root: Path, named: str, mapped: Any) -> Sequence[Path]:
        """As `FileKind.files`."""
        return (regular_file(inside(root, named), max_bytes=MAX_BYTES),)

    def read(self, root: Path, named: str, *, plan: ModalityPlan, mapped: Any) -> Sample:
        """As `FileKind.read`. A file of one dimension holds one vector."""
        path = self.files(root, named, mapped)[0]
        reader = {".npy": _npy, ".safetensors": _safetensors}.get(path.suffix.lower())
        if reader is None:
            raise UnreadableError("embedding-format", f"{named}: neither .npy nor .safetensors")
        try:
            found = reader(path)
        except UnreadableError:
            raise
        except Exception as error:
            # both libraries raise whatever a damaged header leads to
            raise UnreadableError("embedding-unreadable", f"{named}: {type(error).__name__}. {MEND}") from error
        found = found[None] if found.ndim == 1 else found
        if found.ndim != 2 or found.shape[1] != plan.features or not 1 <= len(found) <= plan.vectors:
            wanted = f"at most {plan.vectors} vectors of {plan.features}"
            raise UnreadableError("embedding-shape", f"{named}: shape {found.shape}, the study has {wanted}")
        with np.errstate(over="ignore"):
            single = found.astype(np.float32)
        if not np.isfinite(single).all():
            raise UnreadableError("embedding-not-finite", f"{named}: NaN, infinite, or beyond single precision")
        vectors = np.zeros((plan.vectors, single.shape[1]), dtype=np.float32)
        vectors[: len(single)] = single
        return Sample(arrays={"vectors": vectors, "mask": np.arange(plan.vectors) < len(single)})


def _npy(path: Path) -> NDArray[Any]:
    """Mapped, not read: a header that declares more than the file holds fails here."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.kind != "f":
        raise UnreadableError("embedding-format", f"{path.name}: numbers of type {array.dtype}. {MEND}")
    return np.asarray(array)


def _safetensors(path: Path) -> NDArray[Any]:
    with safe_open(path, framework="pt") as file:  # numpy knows no bfloat16
        names = list(file.keys())
        if len(names) != 1:
            raise UnreadableError("embedding-format", f"{path.name}: {len(names)} tensors. {MEND}")
        tensor = file.get_tensor(names[0])
    if not tensor.is_floating_point():
        raise UnreadableError("embedding-format", f"{path.name}: numbers of type {tensor.dtype}. {MEND}")
    return np.asarray(tensor.to(torch.float64).numpy())


EMBEDDING: FileKind = EmbeddingKind()
