"""Data sets from files to tensors: the values, and every way to be wrong by key and line."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from syft.errors import BadConfig
from syft.node import data
from syft.node.config import Config
from syft.node.data import Offer
from syft.store import Label

from .test_config import EXAMPLE

pytestmark = pytest.mark.in_process


def load(folder: Path, file: str, rest: str = "") -> list[Offer]:
    config = folder / "bob.toml"
    config.write_text(f'[[data]]\nname = "d"\npath = "{file}"\n{rest}')
    return data.load(Config.load(config, "bob"))


def csv(folder: Path, text: str, rest: str = "") -> dict[str, torch.Tensor]:
    (folder / "d.csv").write_text(text)
    return {offer.name: offer.value for offer in load(folder, "d.csv", rest)}


def tensor(columns: str, dtype: str = "float32") -> str:
    return f'[data.tensors.x]\ncolumns = {columns}\ndtype = "{dtype}"\n'


def test_the_example_of_the_documents(tmp_path: Path) -> None:
    (tmp_path / "heart.csv").write_text("name,age,systolic,ill\nA,50,120.5,0\nB,61,140,1\n")
    np.savez(tmp_path / "digits.npz", x_train=np.ones((3, 8, 8), np.uint8), secret=np.arange(3))
    (tmp_path / "bob.toml").write_text(EXAMPLE.read_text())
    config = Config.load(tmp_path / "bob.toml", "bob")
    matrix, target, images = data.load(config)
    assert matrix.name == "heart/data"
    assert torch.equal(matrix.value, torch.tensor([[50, 120.5], [61, 140]]))
    text = "Blood pressure of patients, and whether they were ill a year later."
    assert matrix.label == Label(("#heart", "#data", "#cardiology", "#2024"), text)
    assert matrix.policy == target.policy == config.policy(config.data[0])
    assert torch.equal(target.value, torch.tensor([0, 1]))
    assert images.name == "digits/images" and torch.equal(images.value, torch.ones(3, 8, 8, dtype=torch.uint8))


# ---- CSV ----


def test_a_csv_without_tensors_is_one_matrix(tmp_path: Path) -> None:
    read = csv(tmp_path, "\ufeffa, b\r\n1,2\r\n\r\n 3 ,-4e2\r\nnan,inf\r\n")
    assert list(read) == ["d/data"]
    assert read["d/data"].dtype is torch.float32
    assert torch.allclose(
        read["d/data"], torch.tensor([[1, 2], [3, -400], [float("nan"), float("inf")]]), equal_nan=True
    )


@pytest.mark.parametrize(
    ("dtype", "cells"),
    [
        ("bool", [0, 1]),
        ("uint8", [0, 255]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("uint64", [0, 2**64 - 1]),
        ("float64", [0.1, -1e308]),
        ("float32", [0.5, -3.4e38]),
        ("float16", [0.5, 65504.0]),
        ("bfloat16", [0.5, 1e38]),
    ],
)
def test_numbers_are_read_as_they_are(tmp_path: Path, dtype: str, cells: list[float]) -> None:
    read = csv(tmp_path, "a\n" + "\n".join(map(str, cells)), tensor("'a'", dtype))["d/x"]
    assert torch.equal(read, torch.tensor(cells, dtype=getattr(torch, dtype)))


@pytest.mark.parametrize(
    ("cell", "dtype", "told"),
    [
        ("x", "float32", "'x' is not a number of float32"),
        ("", "float32", "'' is not a number of float32"),
        ("1_0", "float32", "'1_0' is not a number"),
        ("1.5", "int64", "'1.5' is not a number of int64"),
        ("nan", "int64", "'nan' is not a number of int64"),
        ("256", "uint8", "256 is out of the range of uint8"),
        ("-1", "uint64", "-1 is out of the range of uint64"),
        ("2", "bool", "2 is out of the range of bool"),
        ("1e39", "float32", "1e39 is out of the range of float32"),
        ("9" * 5000, "int64", "is not a number of int64"),
    ],
)
def test_a_cell_that_is_wrong_is_named_by_line_and_column(tmp_path: Path, cell: str, dtype: str, told: str) -> None:
    with pytest.raises(BadConfig) as caught:
        csv(tmp_path, f'a,b\n0,"several\nlines"\n\n{cell},z\n', tensor("'a'", dtype))
    assert f"bob.toml: data[0].tensors.x: {tmp_path / 'd.csv'}, line 5, column 'a': " in caught.value.what
    assert told in caught.value.what


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: there have to be names of columns"),
        ("a,a\n1,2\n", "line 1: there have to be names of columns, each another"),
        ("a,\n1,2\n", "line 1: there have to be names of columns"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,2\n1\n", "line 3: 1 cells, not 2"),
        ('a,b\n1,"2\n', "unexpected end of data"),
        ("a,b\n1,2\nx,2\n", "line 3, column 'a': 'x' is not a number"),
    ],
)
def test_a_csv_that_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(BadConfig) as caught:
        csv(tmp_path, text)
    assert "data[0].path: " in caught.value.what and told in caught.value.what


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(b"a\n\xff\n")
    with pytest.raises(BadConfig, match=r"data\[0\]\.path: .*cannot be read: .*utf-8"):
        load(tmp_path, "d.csv")


def test_columns_and_shapes_have_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"data\[0\]\.tensors\.x: .* has no column 'c', but a, b"):
        csv(tmp_path, "a,b\n1,2\n", tensor("['a', 'c']"))
    with pytest.raises(BadConfig, match=r"data\[0\]\.tensors\.x: its shape is \(1, 2\), not \(-1, 3\)"):
        csv(tmp_path, "a,b\n1,2\n", tensor("['a', 'b']") + "shape = [-1, 3]")
    with pytest.raises(BadConfig, match=r"its shape is \(1,\), not \(1, 1\)"):
        csv(tmp_path, "a,b\n1,2\n", tensor("'a'") + "shape = [1, 1]")
    assert csv(tmp_path, "a,b\n1,2\n", tensor("['b', 'a']") + "shape = [-1, 2]")["d/x"].tolist() == [[2, 1]]


# ---- npz ----


def test_arrays_of_an_npz(tmp_path: Path) -> None:
    arrays = {
        "X": np.arange(6.0).reshape(2, 3),
        "big_endian": np.arange(3, dtype=">i4"),
        "fortran": np.asfortranarray(np.arange(4).reshape(2, 2)),
        "scalar": np.float32(3),
        "empty": np.zeros((0, 2), np.complex64),
    }
    np.savez_compressed(tmp_path / "d.npz", **arrays)
    offers = {offer.name: offer for offer in load(tmp_path, "d.npz")}
    assert set(offers) == {f"d/{name}" for name in arrays}
    for name, array in arrays.items():
        assert np.array_equal(offers[f"d/{name}"].value.numpy(), array)
        assert offers[f"d/{name}"].value.shape == array.shape
        assert offers[f"d/{name}"].label.tags == ("#d", f"#{name}")


def test_only_the_arrays_that_are_named_are_offered(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=np.zeros(2), b=np.ones(3))
    (only,) = load(tmp_path, "d.npz", '[data.tensors.x]\narray = "b"\ndtype = "float64"\nshape = [3]')
    assert only.name == "d/x" and only.value.tolist() == [1, 1, 1]
    with pytest.raises(BadConfig, match=r"data\[0\]\.tensors\.c: .* has no array 'c', but a, b"):
        load(tmp_path, "d.npz", "[data.tensors.c]")
    with pytest.raises(BadConfig, match=r"data\[0\]\.tensors\.a: it is float64, not float32"):
        load(tmp_path, "d.npz", '[data.tensors.a]\ndtype = "float32"')


class Bomb:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=np.array([Bomb(tmp_path / "owned")], dtype=object))
    with pytest.raises(BadConfig, match=r"data\[0\]\.path: .*cannot be read: Object arrays cannot be loaded"):
        load(tmp_path, "d.npz")
    (tmp_path / "d.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "owned")))
    with pytest.raises(BadConfig, match=r"data\[0\]\.path"):
        load(tmp_path, "d.npz")
    assert not (tmp_path / "owned").exists()


def test_an_npz_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, a=np.array(["text"]))
    with pytest.raises(BadConfig, match="a has no numbers that torch has, but <U4"):
        load(tmp_path, "d.npz")
    np.savez(path, a=np.zeros(1000))
    whole = path.read_bytes()
    for spoilt in (b"", b"x", whole[:100], whole[:-50], whole[:200] + b"\xff" + whole[201:]):
        path.write_bytes(spoilt)
        with pytest.raises(BadConfig, match=r"data\[0\]\.path: .*cannot be read"):
            load(tmp_path, "d.npz")
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(BadConfig, match=r"data\[0\]\.path: .*not a zip file"):
        load(tmp_path, "d.npz")


# ---- safetensors ----


def test_tensors_of_a_safetensors_file_share_no_memory(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(4, dtype=torch.bfloat16), "b.weight": torch.rand(2, 3), "n": torch.tensor(7)}
    save_file(tensors, tmp_path / "d.safetensors")
    offers = {offer.name: offer.value for offer in load(tmp_path, "d.safetensors")}
    assert set(offers) == {"d/a", "d/b.weight", "d/n"}
    for name, value in tensors.items():
        read = offers[f"d/{name}"]
        assert torch.equal(read, value) and read.dtype is value.dtype
        assert read.untyped_storage().nbytes() == value.numel() * value.itemsize


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_file({"a": torch.ones(100_000)}, path)
    (offer,) = load(tmp_path, "d.safetensors")
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert offer.value.sum() == 100_000


def test_a_safetensors_file_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    whole = path.read_bytes()
    for spoilt in (b"", b"\xff" * 100, whole[:50], whole[:-1]):
        path.write_bytes(spoilt)
        with pytest.raises(BadConfig, match=r"data\[0\]\.path: .*cannot be read"):
            load(tmp_path, "d.safetensors")
    path.write_bytes(whole)
    with pytest.raises(BadConfig, match=r"data\[0\]\.tensors\.b: .* has no array 'b', but a"):
        load(tmp_path, "d.safetensors", "[data.tensors.b]")


def test_a_name_too_long_for_a_tag_is_refused(tmp_path: Path) -> None:
    save_file({"a" * 300: torch.zeros(1)}, tmp_path / "d.safetensors")
    with pytest.raises(BadConfig, match="has 300 characters: give it another"):
        load(tmp_path, "d.safetensors")
    (offer,) = load(tmp_path, "d.safetensors", f'[data.tensors.short]\narray = "{"a" * 300}"')
    assert offer.name == "d/short"
