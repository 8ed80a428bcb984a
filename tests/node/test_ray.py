"""Rooms on Ray: what runs at a node runs there; bob's on a cluster of the node's own, alice's on one that was there."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import syft as sy
from syft.errors import LimitExceeded, NodeError, SyftError, WorkerShut
from syft.node.local import LocalNode, tables_of_peers
from syft.node.state import read_status

from ..helpers import written_memory
from .test_nodes import (  # noqa: F401 - the same tests
    test_an_operator_that_fails_there_is_told_by_whoever_uses_its_result,
    test_autograd_and_in_place,
    test_chains_over_nodes,
    test_dropped_pointers_free_their_objects,
    test_moves_go_straight_and_keep_the_id,
    test_operators_run_there_and_results_come_home,
    test_what_a_chain_did_is_done_when_its_inner_pointer_comes_home,
)

pytestmark = [
    pytest.mark.in_process,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]

CONFIG = """
[limits]
room_objects = 1000
room_memory = 4_294_967_296
[ray]
room_cpus = 1
room_memory = 104_857_600
"""


def start(authority: Path, folder: Path, name: str) -> LocalNode:
    config = folder / f"{name}.toml"
    config.write_text(tables_of_peers(name, ("alice", "bob")) + CONFIG)
    return LocalNode(authority, name, config, ["--engine", "ray"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of those who use a cluster that has been started for them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on loopback only
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    options = ["--include-dashboard=false", "--num-cpus=4", f"--object-store-memory={80 << 20}"]
    process = subprocess.Popen(
        [*command, *options],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert any("Ray runtime started" in line for line in process.stdout)
    yield environment
    process.terminate()
    process.communicate()


@pytest.fixture(scope="module")
def nodes(authority, folder, cluster) -> Iterator[dict[str, LocalNode]]:
    """Bob's, which starts a cluster of its own and ends it; and alice's."""
    with start(authority, folder, "bob") as bob:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in cluster.items():
                patch.setenv(name, value)
            alice = start(authority, folder, "alice")
        with alice:
            yield {"bob": bob, "alice": alice}
        of_bob = below(bob.process.pid) | of_rooms(bob)
        assert any("raylet" in told(pid, "cmdline") for pid in of_bob)
    assert bob.process.returncode == alice.process.returncode == 0
    ends(of_bob)


def below(pid: int) -> set[int]:
    """Return all processes that a process started, and those that these did."""
    stats = {each: told(each, "stat").rpartition(")")[2].split() for each in processes()}
    parents = {each: int(fields[1]) for each, fields in stats.items() if fields}
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def told(pid: int, file: str) -> str:
    """Read a file of /proc about a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def processes() -> set[int]:
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}


def of_rooms(node: LocalNode) -> set[int]:
    """Return the processes of a node's fork server and its rooms, taken or spare; Ray does not know of them."""
    (name,) = {
        found for pid in below(node.process.pid) for found in re.findall(rf"syft-{node.name}-\w+", told(pid, "cmdline"))
    }
    return {pid for pid in processes() if "cluster_forkserver" in (said := told(pid, "cmdline")) and name in said}


def rooms(node: LocalNode) -> set[int]:
    """Return the processes of the rooms that a client has."""
    return {pid for pid in of_rooms(node) if "NoNewPrivs:\t1" in told(pid, "status")}


def ends(pids: set[int], seconds: float = 60) -> None:
    """Wait until the processes have ended."""
    for pid in pids:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended, _, _ = select.select([process], [], [], seconds)
        os.close(process)
        assert ended, f"{pid} lives"


def test_a_room_that_is_killed_is_lost_to_its_client_alone(nodes, authority, bob):
    x = sy.send(torch.ones(2), bob)
    assert (x + 1).sum().item() == 4
    mine = rooms(nodes["bob"])
    other = sy.connect(nodes["bob"].address, certs=authority / "me")
    y = sy.send(torch.ones(3), other)
    assert y.sum().item() == 3
    for room in rooms(nodes["bob"]) - mine:
        os.kill(room, 9)
    with pytest.raises(WorkerShut, match="ended"):
        (y + 1).get()
    assert (x + 1).sum().item() == 4


def test_a_room_ends_with_its_client_also_in_the_middle_of_something(nodes, bob):
    before = rooms(nodes["bob"])
    x = sy.send(torch.rand(1500, 1500, dtype=torch.float64), bob)
    assert x[0, 0].item() < 1
    mine = rooms(nodes["bob"]) - before
    for _ in range(20):
        torch.linalg.svdvals(x)
    bob.shut()
    ends(mine)


def test_the_owners_limits_hold(bob):
    x = sy.send(torch.zeros(1000), bob)
    parts = x.unbind()
    with pytest.raises(LimitExceeded, match="1000 objects"):
        (parts[0] + 1).get()
    del parts
    with pytest.raises(SyftError):
        x.repeat(1 << 21).sum().item()
    assert x.sum().item() == 0


def test_ten_clients_compute_at_once(nodes, authority):
    def compute(number):
        bob = sy.connect(nodes["bob"].address, certs=authority / "me")
        x = sy.send(torch.full((100,), float(number)), bob)
        for _ in range(50):
            x = x + 1
        return x.sum().item()

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(compute, range(10))) == [100.0 * (n + 50) for n in range(10)]


def test_the_owner_sees_which_actor_a_room_is(nodes, bob):
    assert sy.send(torch.ones(1), bob).item() == 1
    tenants = read_status(nodes["bob"].config.with_name("bob-state")).tenants
    assert all(re.fullmatch(r"Ray actor bob-\d+", tenant.place) for tenant in tenants) and tenants


def test_no_process_of_ray_is_told_the_key(nodes, authority):
    key = (authority / "bob" / "key.pem").read_text().splitlines()[1].encode()
    assert any(key in piece for piece in written_memory(nodes["bob"].process.pid))  # so it would be seen
    for pid in below(nodes["bob"].process.pid) | of_rooms(nodes["bob"]):
        assert not any(key in piece for piece in written_memory(pid)), told(pid, "cmdline")


def test_all_of_ray_ends_with_a_node_that_is_killed(authority, folder):
    with start(authority, folder, "carol") as node:
        carol = sy.connect(node.address, certs=authority / "me")
        assert sy.send(torch.ones(1), carol).item() == 1
        started = below(node.process.pid) | of_rooms(node)
        node.process.kill()
    ends(started)


def test_a_cluster_that_cannot_be_had_is_said_plainly(authority, folder, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(NodeError, match=r"no Ray cluster to be had: .*nowhere"):
        start(authority, folder, "dora")
