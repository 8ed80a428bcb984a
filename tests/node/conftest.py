"""Real nodes, in processes of their own, on loopback, with certificates of an authority made for the run."""

from __future__ import annotations

from pathlib import Path

import pytest

import syft as sy
from syft.node.client import NodeWorker
from syft.node.local import LocalNode


@pytest.fixture
def bob(nodes: dict[str, LocalNode], authority: Path) -> NodeWorker:
    """Bob's node, and a room of this test's own there."""
    return sy.connect(nodes["bob"].address, certs=authority / "me")


@pytest.fixture
def alice(nodes: dict[str, LocalNode], authority: Path) -> NodeWorker:
    """Alice's node, and a room of this test's own there."""
    return sy.connect(nodes["alice"].address, certs=authority / "me")
