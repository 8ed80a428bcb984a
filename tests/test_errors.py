"""The tree of errors, and that each is raised by a call, saying what, where and how to mend it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

import syft as sy
from syft import errors, wire
from syft.annotations import private_tensor
from syft.errors import SyftError
from syft.messages import Request
from syft.sending import send
from syft.transport import Encoded, InProcess
from syft.workers import VirtualWorker, get_worker


def test_the_docstring_is_the_tree() -> None:
    drawn: list[tuple[int, str]] = []
    for line in cast(str, errors.__doc__).splitlines():
        match = re.match(r"((?:[│├└─ ]{4})*)([A-Z][A-Za-z]+)(?:$|\s{2,})", line)
        if match:
            drawn.append((len(match[1]) // 4, match[2]))

    def tree(cls: type[SyftError], depth: int) -> list[tuple[int, str]]:
        return [(depth, cls.__name__), *(row for child in cls.__subclasses__() for row in tree(child, depth + 1))]

    assert drawn == tree(SyftError, 0)


def test_codes_are_the_names() -> None:
    for code, cls in errors.BY_CODE.items():
        if cls is not SyftError:
            assert code == re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()
        assert cls.__doc__


Calls = dict[str, Callable[[VirtualWorker, VirtualWorker], Any]]


def shut(bob: VirtualWorker, alice: VirtualWorker) -> None:
    x = send(torch.ones(2), bob)
    bob.shut()
    x + 1


def gone(bob: VirtualWorker, alice: VirtualWorker) -> None:
    x = send(torch.ones(2), bob)
    x.get()
    x.get()


RAISES: Calls = {
    "NotCollocated": lambda bob, alice: send(torch.ones(2), bob) + send(torch.ones(2), alice),
    "ObjectGone": gone,
    "GetNotPermitted": lambda bob, alice: send(private_tensor(torch.ones(2), ["eve"]), bob, user="eve").get(),
    "SendNotPermitted": lambda bob, alice: send(private_tensor(torch.ones(2), ["eve"]), bob),
    "NotPermitted": lambda bob, alice: send(private_tensor(torch.ones(2), ["eve"]), bob, user="eve").nonzero(),
    "WorkerNotFound": lambda bob, alice: get_worker("nobody"),
    "WorkerShut": shut,
    "OperatorNotAllowed": lambda bob, alice: torch.nested.nested_tensor([bob.send(torch.ones(2))]),
    "OperatorFailed": lambda bob, alice: send(torch.ones(2, 3), bob) @ send(torch.ones(2, 3), bob),
    "OperatorIndexFailed": lambda bob, alice: send(torch.ones(2), bob).sum(dim=4),
    "LimitExceeded": lambda bob, alice: sy.send(torch.ones(2), bob).tag(*(f"#{i}" for i in range(100))),
    "MalformedMessage": lambda bob, alice: wire.decode([b"?"], cast(Any, Request)),
    "Misuse": lambda bob, alice: send(torch.ones(2)),
    "IdInUse": lambda bob, alice: (bob.send(torch.ones(2), 5), bob.put(torch.ones(2), 5)),
}
WITHOUT_ADVICE = {"OperatorFailed", "OperatorIndexFailed", "MalformedMessage", "LimitExceeded"}  # what says it all


@pytest.mark.parametrize("name", RAISES)
def test_each_is_raised(name: str, bob: VirtualWorker, alice: VirtualWorker) -> None:
    with pytest.raises(getattr(errors, name)) as caught:
        RAISES[name](bob, alice)
    error = caught.value
    assert type(error).__name__ == name
    assert error.what
    assert error.what in str(error)
    assert error.where in str(error)
    assert error.mend in str(error)
    assert error.mend or name in WITHOUT_ADVICE


@pytest.mark.in_process
@pytest.mark.parametrize("name", RAISES)
def test_transports_tell_the_same(name: str) -> None:
    told = []
    for transport in (InProcess, Encoded):
        bob, alice = VirtualWorker(id="bob", transport=transport), VirtualWorker(id="alice", transport=transport)
        with pytest.raises(SyftError) as caught:
            RAISES[name](bob, alice)
        told.append((type(caught.value), re.sub(r"\d{6,}", "<id>", str(caught.value))))
        bob.shut()
        alice.shut()
    assert told[0] == told[1]
