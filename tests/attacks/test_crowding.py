"""A caller with a valid certificate who would have all of a gate's threads, memory or time."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syft.node.certs import Bundle
from syft.node.config import parse_address
from syft.node.connection import Connection
from syft.node.local import LocalNode
from syft.node.tls import context

from ..node.new_keys import ask_for_new_keys

pytestmark = pytest.mark.in_process

Dial = Callable[[Path], Connection]


@pytest.fixture
def unread(fort: LocalNode, mallory_certificate: Path) -> Iterator[ssl.SSLSocket]:
    """A connection that nobody reads from on this side, with little room for what comes."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    plain.connect(parse_address(fort.address))
    with context(Bundle.load(mallory_certificate), server_side=False).wrap_socket(plain) as encrypted:
        yield encrypted


def test_who_asks_for_new_keys_and_reads_none_is_hung_up_on(unread: ssl.SSLSocket) -> None:
    assert ask_for_new_keys(unread, 200_000) < 200_000
