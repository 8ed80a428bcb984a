"""A node's config: the documented example, and every way to be wrong by its key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syft import limits
from syft.errors import BadConfig, Misuse, NotPermitted
from syft.node.config import Address, Config, Limits, parse_address
from syft.node.release import Movement, Policy

pytestmark = pytest.mark.in_process

EXAMPLE = Path(__file__).parents[2] / "docs" / "bob.toml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "heart.csv").write_text("name,age,systolic,ill\nA,50,120.5,0\nB,61,140,1\n")
    np.savez(tmp_path / "digits.npz", x_train=np.zeros((3, 8, 8), np.uint8), y_train=np.arange(3))
    return tmp_path


def load(folder: Path, text: str) -> Config:
    file = folder / "bob.toml"
    file.write_text(text)
    return Config.load(file, "bob")


def test_the_example_of_the_documents(folder: Path) -> None:
    config = load(folder, EXAMPLE.read_text())
    heart, digits = config.data
    assert config.policy(heart) == Policy(
        "bob", "heart", ("carol", "dave"), ("carol",), {"agg": Movement.SEALED}, ("dave",)
    )
    assert config.policy(digits) == Policy("bob", "digits", ("*",), ("*",))
    assert config.path(heart) == folder / "heart.csv"
    assert heart.tensors["data"].columns == ("age", "systolic") and heart.tensors["target"].columns == "ill"
    assert digits.tensors["images"].shape == (-1, 8, 8)
    assert config.peers == {"agg": Address("127.0.0.1", 7102)}
    assert config.limits == Limits(20, 4, 50_000, 2**30, 2**32, 600, 30)
    assert config.state == folder / "bob-state"


def test_the_example_names_every_key() -> None:
    from syft.node import config

    text = EXAMPLE.read_text()
    for table in (config.Contents, config.DataSet, config.Tensor, config.Peer, config.Limits):
        assert [field for field in table.__struct_fields__ if field not in text] == []


def test_what_is_not_written_is_denied_and_bounded(folder: Path) -> None:
    config = load(folder, '[[data]]\nname = "heart"\npath = "heart.csv"')
    assert config.policy(config.data[0]) == Policy("bob", "heart", (), (), {}, ())
    assert config.limits.room_bytes == limits.ROOM_BYTES and config.limits.grace_seconds == limits.GRACE_SECONDS
    assert config.state == folder / "bob-state" and config.peers == {}


HEART = '[[data]]\nname = "heart"\npath = "heart.csv"\n'
DIGITS = '[[data]]\nname = "digits"\npath = "digits.npz"\n'
AGG = '[[peers]]\nname = "agg"\naddress = "127.0.0.1:7102"\n'


def test_peers_are_dialled_where_the_owner_says_and_nobody_else_is(folder: Path) -> None:
    config = load(folder, AGG + '[[peers]]\nname = "roaming"')
    assert config.address_of("agg", "10.0.0.1:80") == config.peers["agg"]
    assert config.address_of("roaming", "10.0.0.1:80") == Address("10.0.0.1", 80)
    with pytest.raises(Misuse, match="is not HOST:PORT"):
        config.address_of("roaming", "unix:/x")
    with pytest.raises(NotPermitted, match="the owner of bob lists no peer 'alice'"):
        config.address_of("alice", "10.0.0.1:80")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data = ", "is not TOML: Invalid value (at "),
        ("[daata]", "there is no such key here: daata"),
        (HEART + "polcy = 1", "data[0]: there is no such key here: polcy"),
        (HEART + "[data.tensors.x]\nkolumns = 'age'", "data[0].tensors.x: there is no such key here: kolumns"),
        ("[limits]\nroom_byte = 1", "limits: there is no such key here: room_byte"),
        ("[limits]\nclients = 0", "limits.clients: Expected a whole number >= 1"),
        ("[limits]\nclients = 1.5", "limits.clients: Expected a whole number, got a number"),
        ("[[data]]\nname = 'heart'", "data[0]: this key is missing: path"),
        (
            "[[data]]\nname = 'Heart'\npath = 'heart.csv'",
            "data[0].name: a name, as in a certificate, is of small letters",
        ),
        (HEART + "use = 'carol'", "data[0].use: Expected a list, got a text"),
        (HEART + "use = ['carol', 'The Pope']", 'between, and of 63 characters at most, or "*" for anyone'),
        (HEART + "move = { lab = 'open', agg = 'shut' }", "data[0].move.agg: 'shut' is none of 'open', 'sealed'"),
        (HEART + "move = { agg = 'open' }", "data[0].move.agg: there is no [[peers]] of that name"),
        (HEART + "get = ['carol']", "data[0].get: carol is not among those who may use it"),
        (HEART + "use = ['carol']\nget = ['*']", "data[0].get: anyone is not among those who may use it"),
        (HEART + "use = ['carol']\nshapes = ['dave']", "data[0].shapes: dave is not among those who may use it"),
        (HEART + HEART, "data: 2 are called 'heart'"),
        (HEART + DIGITS.replace("digits.npz", "no.npz"), "data[1].path: there is no file "),
        (HEART.replace("heart.csv", "heart.xls"), "data[0].path: heart.xls ends in none of .csv"),
        (HEART + "[data.tensors.x]", "data[0].tensors.x.columns: which columns of the CSV is it?"),
        (HEART + "[data.tensors.x]\ncolumns = []", "data[0].tensors.x.columns: which columns"),
        (HEART + "[data.tensors.x]\ncolumns = 'age'\narray = 'a'", "data[0].tensors.x.array: a CSV has columns"),
        (HEART + "[data.tensors.x]\ncolumns = 'age'\ndtype = 'f4'", "data[0].tensors.x.dtype: 'f4' is none of bool"),
        (HEART + "[data.tensors.x]\ncolumns = 'a'\ndtype = 'complex64'", "tensors.x.dtype: a CSV has no complex"),
        (DIGITS + "[data.tensors.x]\ncolumns = 'age'", "data[0].tensors.x.columns: only a CSV has columns"),
        (DIGITS + "[data.tensors.x]\nshape = [-2]", "data[0].tensors.x.shape[0]: Expected a whole number >= -1"),
        (DIGITS + f"[data.tensors.x]\nshape = {[1] * 65}", "data[0].tensors.x.shape: more than 64 dimensions"),
        (HEART + f"tags = {['#a'] * 63}", "data[0].tags: Expected a list of length <= 62"),
        (DIGITS + "[data.tensors.x]\ncolumns = 3", "columns: Expected a text or a list, got a whole number"),
        (DIGITS + "move = { 'La b' = 'open' }", "key in data[0].move: a name, as in a certificate"),
        (AGG + AGG, "peers: 2 are called 'agg'"),
        (AGG.replace("agg", "bob"), "peers[0].name: 'bob' is this node itself"),
        (AGG.replace(":7102", ""), "peers[0].address: '127.0.0.1' is not HOST:PORT"),
    ],
)
def test_every_error_names_file_and_key(folder: Path, text: str, told: str) -> None:
    with pytest.raises(BadConfig) as caught:
        load(folder, text)
    assert caught.value.what.startswith(f"{folder / 'bob.toml'}") and told in caught.value.what
    assert not set("\n`\\") & set(caught.value.what)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"none\.toml cannot be read: No such file"):
        Config.load(tmp_path / "none.toml", "bob")
    (tmp_path / "bob.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(BadConfig, match=r"is not TOML: .*utf-8"):
        Config.load(str(tmp_path / "bob.toml"), "bob")


def test_anyone_who_may_use_may_be_named(folder: Path) -> None:
    config = load(folder, HEART + "use = ['*']\nget = ['carol', '*']\nshapes = ['dave']")
    assert config.data[0].get == ("carol", "*")


@pytest.mark.parametrize("text", ["127.0.0.1:7101", "example.org:1", "[::1]:65535", "localhost:80"])
def test_addresses(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["", "a", ":1", "a:0", "a:65536", "a:-1", "::1:80", "[x]:1", "a b:1", "a:1\n", "[::1]"]
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        parse_address(text)


@given(st.dictionaries(st.sampled_from(["data", "peers", "limits", "state", "x"]), st.integers() | st.text("ab")))
def test_no_content_gives_another_error(tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]) -> None:
    folder = tmp_path_factory.mktemp("config")
    text = "\n".join(f"{key} = {value!r}" for key, value in content.items())
    try:
        config = load(folder, text)
    except BadConfig:
        return
    assert set(content) <= {"state"} and config.owner == "bob"
