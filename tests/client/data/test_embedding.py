"""Vectors that another model computed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fl_client.data.embedding import EMBEDDING
from fl_client.data.findings import UnreadableError
from fl_shared.site import EmbeddingFiles
from fl_shared.study import ModalityPlan

PLAN = ModalityPlan(kind="embedding", features=6, vectors=4)
MAPPED = EmbeddingFiles(kind="embedding", column="path")
TRUTH = np.random.default_rng(0).normal(size=(3, 6))


def read(root: Path, named: str = "a.npy"):
    return EMBEDDING.read(root, named, plan=PLAN, mapped=MAPPED)


def refused(root: Path, named: str = "a.npy") -> str:
    with pytest.raises(UnreadableError) as error:
        read(root, named)
    return error.value.check


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, dtype, order):
    np.save(tmp_path / "a.npy", np.asarray(TRUTH.astype(dtype), order=order))
    sample = read(tmp_path)
    assert {name: (a.shape, str(a.dtype)) for name, a in sample.arrays.items()} == dict(EMBEDDING.layout(PLAN))
    np.testing.assert_array_equal(sample.arrays["vectors"][:3], TRUTH.astype(dtype).astype(np.float32))
    assert not sample.arrays["vectors"][3:].any()
    assert sample.arrays["mask"].tolist() == [True, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_safetensors(tmp_path, dtype):
    tensor = torch.from_numpy(TRUTH).to(dtype)
    save_file({"embedding": tensor}, tmp_path / "a.safetensors")
    found = read(tmp_path, "a.safetensors").arrays["vectors"][:3]
    np.testing.assert_array_equal(found, tensor.to(torch.float32).numpy())


def test_one_dimension_is_one_vector(tmp_path):
    np.save(tmp_path / "a.npy", TRUTH[0])
    sample = read(tmp_path)
    assert sample.arrays["mask"].tolist() == [True, False, False, False]
    np.testing.assert_array_equal(sample.arrays["vectors"][0], TRUTH[0].astype(np.float32))
    assert EMBEDDING.files(tmp_path, "a.npy", MAPPED) == (tmp_path / "a.npy",)


@pytest.mark.parametrize(
    ("array", "check"),
    [
        (TRUTH[:, :5], "embedding-shape"),
        (np.zeros((5, 6)), "embedding-shape"),
        (np.zeros((0, 6)), "embedding-shape"),
        (np.zeros((1, 1, 6)), "embedding-shape"),
        (np.zeros((2, 6), dtype=np.int64), "embedding-format"),
        (np.zeros((2, 6), dtype=complex), "embedding-format"),
        (np.array([["a"] * 6]), "embedding-format"),
        (np.full((2, 6), np.nan), "embedding-not-finite"),
        (np.full((2, 6), 1e300), "embedding-not-finite"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, array, check):
    np.save(tmp_path / "a.npy", array)
    assert refused(tmp_path) == check


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path(tempfile.gettempdir()) / "embedding-trap",))


def test_pickled_arrays_never_run(tmp_path):
    trap = Path(tempfile.gettempdir()) / "embedding-trap"
    trap.unlink(missing_ok=True)
    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    assert refused(tmp_path) == "embedding-unreadable"
    assert not trap.exists()


def test_other_files_are_refused(tmp_path):
    assert refused(tmp_path) == "file-missing"
    (tmp_path / "a.pt").write_bytes(b"x")
    assert refused(tmp_path, "a.pt") == "embedding-format"
    np.savez(tmp_path / "b.npz", TRUTH)
    (tmp_path / "b.npz").rename(tmp_path / "b.npy")
    assert refused(tmp_path, "b.npy") == "embedding-unreadable"
    save_file({"a": torch.zeros(6), "b": torch.zeros(6)}, tmp_path / "two.safetensors")
    assert refused(tmp_path, "two.safetensors") == "embedding-format"
    save_file({"a": torch.zeros(6, dtype=torch.int32)}, tmp_path / "int.safetensors")
    assert refused(tmp_path, "int.safetensors") == "embedding-format"


def test_links_out_of_the_site_are_refused(tmp_path):
    (tmp_path / "site").mkdir()
    np.save(tmp_path / "a.npy", TRUTH)
    (tmp_path / "site" / "a.npy").symlink_to(tmp_path / "a.npy")
    assert refused(tmp_path / "site") == "path-outside-root"


def test_a_header_cannot_declare_more_than_the_file_holds(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 6), }"
    header += b" " * (118 - len(header)) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64)
    assert refused(tmp_path) == "embedding-unreadable"


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(["a.npy", "a.safetensors"]), data=st.data())
def test_damaged_bytes_raise_nothing_but_unreadable(name, data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    np.save(folder / "a.npy", TRUTH)
    save_file({"embedding": torch.from_numpy(TRUTH)}, folder / "a.safetensors")
    content = bytearray((folder / name).read_bytes())
    for at in data.draw(st.lists(st.integers(0, min(len(content) - 1, 140)), min_size=1, max_size=6)):
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    (folder / name).write_bytes(content)
    try:
        vectors = read(folder, name).arrays["vectors"]
    except UnreadableError:
        return
    assert vectors.shape == (4, 6)
    assert np.isfinite(vectors).all()
