"""What a node's owner writes down: data sets and who may do what with them, peers, limits.

The file is TOML. Each key is a field of a class below; a key that is none is refused, and an error
names file and key.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import msgspec

from .. import limits
from ..errors import BadConfig, Misuse, NotPermitted
from ..messages import Description, Tag
from ..wire import DTYPES
from .release import ANYONE, Movement, Name, Policy, Users

Count = Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_ID)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
TensorName = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_TAG_LENGTH - 1)]

# Two further tags name the data set and the tensor.
Tags = Annotated[tuple[Tag, ...], msgspec.Meta(max_length=limits.MAX_TAGS - 2)]
Length = Annotated[int, msgspec.Meta(ge=-1)]

CSV, NPZ, SAFETENSORS = ".csv", ".npz", ".safetensors"


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class Tensor(_Table, frozen=True):
    """One tensor of a data set, and what it has to be.

    ``columns`` of a CSV: a list gives a matrix, one name a vector. ``array`` of another file; by
    default that of the tensor's own name. ``shape`` has -1 where any length will do. A CSV is read
    as ``dtype``, float32 if none is given; in other files arrays have to have it.
    """

    columns: Text | tuple[Text, ...] | None = None
    array: Text | None = None
    dtype: Text | None = None
    shape: tuple[Length, ...] | None = None


class DataSet(_Table, frozen=True):
    """``[[data]]``: a file and what its owner allows; see :class:`syft.node.release.Policy`.

    ``tensors`` names all that is offered of the file. Without it each array is, or of a CSV one
    matrix, ``data``, of all columns.
    """

    name: Name
    path: Text
    tags: Tags = ()
    description: Description = ""
    use: Users = ()
    get: Users = ()
    move: dict[Name, Movement] = {}
    shapes: Users = ()
    tensors: dict[TensorName, Tensor] = {}


class Peer(_Table, frozen=True):
    """``[[peers]]``: another node, and where it answers; without an address, where a client says that it does."""

    name: Name
    address: Text | None = None


class Limits(_Table, frozen=True):
    """``[limits]``: the bounds of :mod:`syft.limits` that an owner may change, by the same names."""

    clients: Count = limits.CLIENTS
    rooms_of_a_client: Count = limits.ROOMS_OF_A_CLIENT
    room_objects: Count = limits.ROOM_OBJECTS
    room_bytes: Count = limits.ROOM_BYTES
    room_memory: Annotated[int, msgspec.Meta(ge=limits.MIN_ROOM_MEMORY, le=limits.MAX_ID)] = limits.ROOM_MEMORY
    room_cpu_seconds: Count = limits.ROOM_CPU_SECONDS
    grace_seconds: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_GRACE_SECONDS)] = limits.GRACE_SECONDS


class Ray(_Table, frozen=True):
    """``[ray]``: of the rooms on a cluster, which processors and bytes Ray sets aside for each; and how many wait."""

    room_cpus: Annotated[float, msgspec.Meta(ge=0)] = limits.CLUSTER_ROOM_CPUS
    room_memory: Count = limits.CLUSTER_ROOM_MEMORY
    spare_rooms: Annotated[int, msgspec.Meta(ge=0, le=limits.CLIENTS)] = limits.SPARE_ROOMS


class Contents(_Table, frozen=True):
    """The whole file. ``state`` is the folder of audit log and requests; by default beside the file."""

    data: tuple[DataSet, ...] = ()
    peers: tuple[Peer, ...] = ()
    limits: Limits = Limits()
    ray: Ray = Ray()
    state: Text | None = None


class Address(NamedTuple):
    """Where a node answers."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})")
_MAX_PORT = 65535


def parse_address(text: str, *, lowest: int = 1) -> Address:
    """Read HOST:PORT; an IPv6 address stands in brackets. Raises ValueError; also for a port below ``lowest``."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not lowest <= int(match["port"]) <= _MAX_PORT:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:7101")
    return Address(match["six"] or match["host"], int(match["port"]))


def unguarded_address(option: str, text: str, *, open_to_others: bool) -> Address:
    """Read where ``option`` is to be served, without certificates; port 0 takes a free one.

    Raises BadConfig: it is no address, or one that others can reach, and it is not ``open_to_others``.
    """
    try:
        address = parse_address(text, lowest=0)
    except ValueError as error:
        raise BadConfig(f"{option}: {error}") from error
    try:
        alone = ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        alone = address.host == "localhost"
    if not alone and not open_to_others:
        raise BadConfig(
            f"{option}: others can reach {address}, and what is there is read without a certificate",
            mend=f"Take an address of this machine alone, 127.0.0.1; or say {option}-open if you mean it.",
        )
    return address


class Config(NamedTuple):
    """A node's config, found consistent. Paths are absolute, or relative to the working folder."""

    file: Path
    owner: str
    data: tuple[DataSet, ...]
    peers: dict[str, Address | None]
    limits: Limits
    ray: Ray
    state: Path

    @classmethod
    def load(cls, file: Path | str, owner: str) -> Config:
        """Read the config of the node ``owner``. Data sets are looked for, not read. Raises BadConfig."""
        file = Path(file)
        contents = _read(file)
        for key, problem in _problems(contents, file.parent, owner):
            wrong(file, key, problem)
        peers = {p.name: None if p.address is None else parse_address(p.address) for p in contents.peers}
        return cls(file, owner, contents.data, peers, contents.limits, contents.ray, _state(file, contents))

    def address_of(self, worker: str, told: str) -> Address:
        """Return where this node dials ``worker``, which a client was ``told`` to be there.

        Only the owner's peers are dialled: a client could have a node knock at any door of its owner's network.
        Raises NotPermitted: that is none; Misuse: the client has to say, and says no address.
        """
        if worker not in self.peers:
            raise NotPermitted(
                f"the owner of {self.owner} lists no peer {worker!r}",
                where=self.owner,
                mend=f'Ask the owner to write, in the config of {self.owner}: [[peers]] name = "{worker}"',
            )
        known = self.peers[worker]
        if known is not None:
            return known
        try:
            return parse_address(told)
        except ValueError as error:
            raise Misuse(str(error), where=self.owner) from error

    def path(self, data: DataSet) -> Path:
        """Return where the file of a data set is."""
        return self.file.parent / data.path

    def policy(self, data: DataSet) -> Policy:
        """Return what the owner allows."""
        return Policy(self.owner, data.name, data.use, data.get, data.move, data.shapes)


def state_of(file: Path) -> Path:
    """Return where the papers of the node with this config are. Raises BadConfig."""
    return _state(file, _read(file))


def _state(file: Path, contents: Contents) -> Path:
    return file.parent / (contents.state or f"{file.stem}-state")


def wrong(file: Path, key: str, problem: str) -> NoReturn:
    """Raise BadConfig."""
    raise BadConfig(f"{file}: {key}: {problem}" if key else f"{file}: {problem}")


def _read(file: Path) -> Contents:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of tomllib, and of UTF-8
        raise BadConfig(f"{file} is not TOML: {error}") from error
    try:
        return msgspec.convert(tables, Contents)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at ")
        place = place.replace("`", "").replace("$.", "").replace("$", "")
        if _ANY_KEY in place:
            place = _with_key(place, tables, str(error))
        wrong(file, place, _in_plain_words(problem))


#: What msgspec says for the key of a table whose keys are the owner's choice.
_ANY_KEY = "[...]"


def _with_key(place: str, tables: dict[str, Any], wrong: str) -> str:
    """Return a place with the key itself: the one entry of its table with which alone the file is ``wrong`` so."""
    before, _, after = place.partition(_ANY_KEY)
    table: Any = tables
    for step in re.findall(r"\w+", before):
        table = table[int(step) if step.isdigit() else step]
    for key, value in list(table.items()):
        table.clear()
        table[key] = value
        try:
            msgspec.convert(tables, Contents)
        except msgspec.ValidationError as error:
            if str(error) == wrong:
                return f"{before}.{key}{after}"
    raise AssertionError("the entries of a table are checked one by one")


_KINDS = {"str": "a text", "array": "a list", "int": "a whole number", "float": "a number", "object": "a table"}


def _in_plain_words(problem: str) -> str:
    """Say what is allowed in words of TOML; msgspec's show how it is checked."""
    if "regex" in problem:
        anyone = f', or "{ANYONE}" for anyone' if "*" in problem.replace(limits.NODE_NAME, "") else ""
        return (
            f"a name, as in a certificate, is of small letters and digits, with single . _ or - between, and of "
            f"{limits.MAX_NODE_NAME_LENGTH} characters at most{anyone}"
        )
    if problem.startswith("Invalid enum value"):
        return f"{problem.removeprefix('Invalid enum value ')} is none of {', '.join(map(repr, map(str, Movement)))}"
    words = problem.replace("`", "").replace(" | null", "").replace(" | ", " or ")
    if words.startswith("Expected"):
        return re.sub(rf"\b(?:{'|'.join(_KINDS)})\b", lambda kind: _KINDS[kind[0]], words)
    words = words.replace("Object contains unknown field", "there is no such key here:")
    return words.replace("Object missing required field", "this key is missing:")


# ---- what types do not tell ------------------------------------------------------------------


def _problems(contents: Contents, folder: Path, owner: str) -> Iterator[tuple[str, str]]:
    """Yield each key whose value is wrong, and how."""
    peers = {peer.name for peer in contents.peers}
    for i, peer in enumerate(contents.peers):
        try:
            if peer.address is not None:
                parse_address(peer.address)
        except ValueError as error:
            yield f"peers[{i}].address", str(error)
        if peer.name == owner:
            yield f"peers[{i}].name", f"{owner!r} is this node itself"
    yield from _repeated("peers", (peer.name for peer in contents.peers))
    yield from _repeated("data", (data.name for data in contents.data))
    for i, data in enumerate(contents.data):
        for key, problem in (*_problems_of_policy(data, peers), *_problems_of_file(data, folder)):
            yield f"data[{i}].{key}", problem


def _repeated(table: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name, count in Counter(names).items():
        if count > 1:
            yield table, f"{count} are called {name!r}"


def _problems_of_policy(data: DataSet, peers: set[str]) -> Iterator[tuple[str, str]]:
    for key, users in (("get", data.get), ("shapes", data.shapes)):
        for user in users:
            if user not in data.use and ANYONE not in data.use:
                yield key, f"{'anyone' if user == ANYONE else user} is not among those who may use it"
    for worker in data.move:
        if worker not in peers:
            yield f"move.{worker}", "there is no [[peers]] of that name"


def _problems_of_file(data: DataSet, folder: Path) -> Iterator[tuple[str, str]]:
    path = folder / data.path
    if path.suffix not in (CSV, NPZ, SAFETENSORS):
        yield "path", f"{data.path} ends in none of {CSV}, {NPZ}, {SAFETENSORS}"
    elif not path.is_file():
        yield "path", f"there is no file {path}"
    for name, tensor in data.tensors.items():
        for key, problem in _problems_of_tensor(tensor, path.suffix == CSV):
            yield f"tensors.{name}.{key}", problem


def _problems_of_tensor(tensor: Tensor, of_csv: bool) -> Iterator[tuple[str, str]]:
    if of_csv and tensor.columns in (None, ()):
        yield "columns", "which columns of the CSV is it?"
    if of_csv and tensor.array is not None:
        yield "array", "a CSV has columns"
    if not of_csv and tensor.columns is not None:
        yield "columns", "only a CSV has columns"
    dtype: Any = DTYPES.get(tensor.dtype or "float32")
    if dtype is None:
        yield "dtype", f"{tensor.dtype!r} is none of {', '.join(DTYPES)}"
    elif of_csv and dtype.is_complex:
        yield "dtype", "a CSV has no complex numbers"
    if tensor.shape is not None and len(tensor.shape) > limits.MAX_DIMS:
        yield "shape", f"more than {limits.MAX_DIMS} dimensions"
