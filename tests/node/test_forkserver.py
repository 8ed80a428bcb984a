"""The processes that rooms are forked into."""

from __future__ import annotations

import os

import pytest

from syft.node.engines import Order
from syft.node.forkserver import live

pytestmark = pytest.mark.in_process


class Broken:
    """Walls that cannot be put up."""

    def put_up(self, *bounds, keep):
        raise OSError("no walls here")


def test_a_room_that_fails_says_so_by_its_exit_status(monkeypatch, capsys):
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    with pytest.raises(OSError, match="no walls here"):
        live(Order("bob", 1 << 30, 1, 1, 1), Broken(), None, None, keep=())
    assert statuses == [1]
    assert "no walls here" in capsys.readouterr().err
