"""Data sets of a node's owner, from CSV, npz and safetensors to tensors. Nothing is ever unpickled."""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from safetensors import SafetensorError, safe_open

from .. import limits
from ..store import Label
from ..wire import DTYPE_NAMES, DTYPES
from .config import CSV, NPZ, Config, DataSet, Tensor, wrong
from .release import Policy

_WHOLE_CSV = "data"
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Offer(NamedTuple):
    """A tensor that clients may find, by the tags #DATASET, #TENSOR and the owner's own; its memory is its own."""

    name: str
    value: torch.Tensor
    label: Label
    policy: Policy


def load(config: Config) -> list[Offer]:
    """Read all data sets of a node.

    Raises BadConfig: a file cannot be read, or is not what ``tensors`` says; it names key and line.
    """
    return [
        Offer(f"{data.name}/{name}", value, Label((f"#{data.name}", f"#{name}", *data.tags), data.description), policy)
        for i, data in enumerate(config.data)
        for policy in (config.policy(data),)
        for name, value in _tensors(data, config, f"data[{i}]").items()
    ]


def _tensors(data: DataSet, config: Config, key: str) -> dict[str, torch.Tensor]:
    path = config.path(data)

    def refuse(name: str, problem: str) -> NoReturn:
        wrong(config.file, f"{key}.tensors.{name}" if name in data.tensors else f"{key}.path", problem)

    read = _read_csv if path.suffix == CSV else _read_npz if path.suffix == NPZ else _read_safetensors
    try:
        tensors = read(path, data.tensors)
    except _Refused as refused:
        refuse(refused.name, refused.problem)
    for name, value in tensors.items():
        if not 0 < len(name) < limits.MAX_TAG_LENGTH:
            refuse(name, f"the name of an array has {len(name)} characters: give it another in [data.tensors]")
        wanted = data.tensors.get(name, Tensor())
        dtype = DTYPE_NAMES.get(value.dtype)
        if dtype is None:
            refuse(name, f"{name} is {value.dtype}, which no worker takes")
        if wanted.dtype not in (None, dtype):
            refuse(name, f"it is {dtype}, not {wanted.dtype}")
        if wanted.shape is not None and not _fits(tuple(value.shape), wanted.shape):
            refuse(name, f"its shape is {tuple(value.shape)}, not {wanted.shape}")
    return tensors


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, n) for n, w in zip(shape, wanted, strict=True))


class _Refused(Exception):
    """What is wrong with a file, and with which of its tensors; without a name, with all of it."""

    def __init__(self, problem: str, name: str = "") -> None:
        super().__init__(problem)
        self.problem, self.name = problem, name


# ---- CSV -------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    header: list[str]
    cells: list[list[str]]
    lines: list[int]


def _read_csv(path: Path, wanted: dict[str, Tensor]) -> dict[str, torch.Tensor]:
    try:
        rows = _rows(path)
    except (OSError, ValueError, csv.Error) as error:
        raise _Refused(f"{path} cannot be read: {error}") from error
    wanted = wanted or {_WHOLE_CSV: Tensor(columns=tuple(rows.header))}
    return {name: _matrix(path, name, tensor, rows) for name, tensor in wanted.items()}


def _rows(path: Path) -> _Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = [name.strip() for name in next(reader, [])]
        if not header or len(set(header)) != len(header) or "" in header:
            raise _Refused(f"{path}, line 1: there have to be names of columns, each another")
        cells, lines = [], []
        for row in reader:
            if row and len(row) != len(header):
                raise _Refused(f"{path}, line {reader.line_num}: {len(row)} cells, not {len(header)}")
            if row:
                cells.append(row)
                lines.append(reader.line_num)
    if not cells:
        raise _Refused(f"{path} has no rows")
    return _Rows(header, cells, lines)


def _matrix(path: Path, name: str, tensor: Tensor, rows: _Rows) -> torch.Tensor:
    columns = (tensor.columns,) if isinstance(tensor.columns, str) else tensor.columns or ()
    for column in columns:
        if column not in rows.header:
            raise _Refused(f"{path} has no column {column!r}, but {', '.join(rows.header)}", name)
    places = [rows.header.index(column) for column in columns]
    dtype = DTYPES[tensor.dtype or "float32"]
    number = _number(dtype)
    values = []
    for line, row in zip(rows.lines, rows.cells, strict=True):
        for place in places:
            try:
                values.append(number(row[place].strip()))
            except (ValueError, OverflowError) as error:
                column = rows.header[place]
                raise _Refused(f"{path}, line {line}, column {column!r}: {error}", name) from error
    result = torch.tensor(values, dtype=dtype)
    return result if isinstance(tensor.columns, str) else result.reshape(len(rows.cells), len(columns))


def _number(dtype: torch.dtype) -> Callable[[str], float]:
    """Return what reads a cell as a number of ``dtype``, and raises ValueError where it is none."""
    kind = float if dtype.is_floating_point else int
    if dtype is torch.bool:
        low, high = 0.0, 1.0
    else:
        info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
        low, high = info.min, info.max

    def read(text: str) -> float:
        try:
            value = kind(text.replace("_", "?"))
        except ValueError:
            raise ValueError(f"{text!r} is not a number of {DTYPE_NAMES[dtype]}") from None
        if math.isfinite(value) and not low <= value <= high:
            raise ValueError(f"{text} is out of the range of {DTYPE_NAMES[dtype]}")
        return value

    return read


# ---- npz and safetensors ---------------------------------------------------------------------


def _read_npz(path: Path, wanted: dict[str, Tensor]) -> dict[str, torch.Tensor]:
    try:
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as npz:
            arrays = {name: npz[array] for name, array in _chosen(path, wanted, npz.files).items()}
    except _UNREADABLE as error:
        raise _Refused(f"{path} cannot be read: {error}") from error
    return {name: _from_numpy(path, name, array) for name, array in arrays.items()}


def _from_numpy(path: Path, name: str, array: np.ndarray) -> torch.Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape))
    except TypeError as error:
        raise _Refused(f"{path}: {name} has no numbers that torch has, but {array.dtype}", name) from error


def _read_safetensors(path: Path, wanted: dict[str, Tensor]) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            chosen = _chosen(path, wanted, list(file.keys()))
            # Tensors are maps of the file: they would change with it, or end this process when it is cut.
            return {name: file.get_tensor(array).clone() for name, array in chosen.items()}
    except (SafetensorError, OSError) as error:
        raise _Refused(f"{path} cannot be read: {error}") from error


def _chosen(path: Path, wanted: dict[str, Tensor], arrays: list[str]) -> dict[str, str]:
    """Return which array is which tensor."""
    chosen = {name: tensor.array or name for name, tensor in wanted.items()} or {array: array for array in arrays}
    for name, array in chosen.items():
        if array not in arrays:
            raise _Refused(f"{path} has no array {array!r}, but {', '.join(sorted(arrays)) or 'none'}", name)
    return chosen
