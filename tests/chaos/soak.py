"""Random clients, moves, chains, cuts and kills for minutes, against a plain model of what each client must see.

``python -m tests.chaos.soak --minutes 5 --seed 1``: two nodes, before each a proxy that cuts connections at
random; clients, each a process, that compute, write, move and get. Now and then a client is killed, or a
room. The run ends with exit code 1 and the reason if a client gets another value than its model says, or
is told of a loss that no kill explains; if a node ends, or says anything; if anything stays behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch

import syft as sy
from syft.errors import ObjectGone, WorkerNotFound, WorkerShut
from syft.node import certs
from syft.node.client import NodeWorker

from ..helpers import until
from .conftest import Node
from .proxy import Proxy, at_random

GRACE = 4  # seconds
CLIENTS = 4  # at a time
ROUNDS = 300  # of one client's life
HELD = 8  # pointers of one client
BEREFT = 3  # exit code of a client whose room has gone
CUTS = {"up_before": 0.004, "up_within": 0.004, "up_after": 0.004, "down_before": 0.004, "down_within": 0.004}
DEATHS = {"client": 0.03, "room": 0.03}  # a second


# ---- a client ----------------------------------------------------------------------------------


class Client:
    """Pointers at two nodes, and what each has to be."""

    def __init__(self, addresses: list[str], bundle: str, seed: int) -> None:
        self.dice = random.Random(seed)
        self.workers = [connect(address, bundle) for address in addresses]
        self.held: list[tuple[torch.Tensor, torch.Tensor, int]] = []  # pointer, value, place
        self.done: Counter[str] = Counter()

    def live(self) -> None:
        """Do things at random."""
        actions = [self.compute, self.compute, self.write, self.get, self.move, self.chain]
        for _ in range(ROUNDS):
            action = self.dice.choice(actions) if self.held else self.send
            if self.dice.random() < 0.1:
                action = self.send
            action(*self.dice.choice(self.held or [()]))
            del self.held[:-HELD]
            self.done[action.__name__] += 1
        for worker in self.workers:
            worker.shut()

    def send(self, *_: object) -> None:
        place = self.dice.randrange(len(self.workers))
        value = torch.randint(-9, 9, (self.dice.choice((3, 300, 300_000)),))
        self.held.append((sy.send(value.clone(), self.workers[place]), value, place))

    def compute(self, pointer: torch.Tensor, value: torch.Tensor, place: int) -> None:
        for _ in range(self.dice.randrange(100)):
            pointer, value = (pointer + 1) * 3 % 1000, (value + 1) * 3 % 1000
        self.held.append((pointer.clone(), value.clone(), place))

    def write(self, pointer: torch.Tensor, value: torch.Tensor, place: int) -> None:
        for _ in range(self.dice.randrange(300)):
            pointer.add_(1)
            value.add_(1)

    def get(self, pointer: torch.Tensor, value: torch.Tensor, place: int) -> None:
        same(pointer.clone().get(), value)
        assert pointer.sum().item() == value.sum().item()

    def move(self, pointer: torch.Tensor, value: torch.Tensor, place: int) -> None:
        copy = pointer.clone()
        try:
            moved = copy.move(self.workers[1 - place])
        except WorkerNotFound:  # the connection between the nodes was cut: it is where it was
            self.done["moves that a cut prevented"] += 1
            same(copy.get(), value)
            return
        same(moved.clone().get(), value)
        self.held.append((moved, value.clone(), 1 - place))

    def chain(self, pointer: torch.Tensor, value: torch.Tensor, place: int) -> None:
        far = pointer.clone().send(self.workers[1 - place])
        for _ in range(self.dice.randrange(20)):
            far, value = far + 2, value + 2
        same(far.get().get(), value)


def same(found: torch.Tensor, value: torch.Tensor) -> None:
    """Raise AssertionError unless the two are equal."""
    assert torch.equal(found, value), f"{found[:5]} instead of {value[:5]}"


def connect(address: str, bundle: str) -> NodeWorker:
    """Connect through faults: what is lost before there is a session may be tried again."""
    for _ in range(30):
        with suppress(WorkerShut):
            return sy.connect(address, certs=bundle)
    return sy.connect(address, certs=bundle)


def be_client(addresses: list[str], bundle: str, seed: int) -> int:
    """Live, and say on the standard output what was done."""
    torch.set_num_threads(1)
    client = Client(addresses, bundle, seed)
    code = 0
    try:
        client.live()
    except (WorkerShut, ObjectGone) as error:
        print(error, file=sys.stderr)
        code = BEREFT
    print(json.dumps(client.done))
    return code


# ---- what happens to them ----------------------------------------------------------------------


class Soak:
    """The nodes, the proxies, the clients there are, and what has been found so far."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        certs.init(folder)
        self.bundle = certs.issue(folder, "me")
        self.nodes = [Node(folder, name, GRACE, peers=("north", "south")) for name in ("north", "south")]
        self.proxies = [Proxy(node.address) for node in self.nodes]
        for number, proxy in enumerate(self.proxies):
            proxy.fault = at_random(seed + number, **CUTS)
        self.clients: list[tuple[subprocess.Popen[str], int]] = []
        self.done: Counter[str] = Counter()
        self.killed: set[int] = set()
        self.bereft: list[str] = []
        self.wrong: list[str] = []

    def run(self, seconds: float) -> None:
        """Have clients come and go, until the time is over or something is wrong."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.wrong:
            while len(self.clients) < CLIENTS:
                self.start_client()
            time.sleep(0.2)
            for victim, rate in DEATHS.items():
                if self.dice.random() < rate * 0.2:
                    self.kill(victim)
            self.look()

    def start_client(self) -> None:
        seed = self.dice.randrange(1 << 30)
        arguments = ["--client", str(seed), str(self.bundle), *(proxy.address for proxy in self.proxies)]
        command = [sys.executable, "-m", "tests.chaos.soak", *arguments]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.clients.append((subprocess.Popen(command, text=True, **pipes), seed))
        self.done["clients"] += 1

    def kill(self, victim: str) -> None:
        """Kill a client, or a room."""
        pids = [client.pid for client, _ in self.clients]
        if victim == "room":
            pids = [room for node in self.nodes for room in node.rooms()]
        if pids:
            pid = self.dice.choice(pids)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.killed.add(pid)
            self.done[f"{victim}s killed"] += 1

    def look(self) -> None:
        """See who has ended, and how."""
        for client, seed in list(self.clients):
            if client.poll() is not None:
                self.clients.remove((client, seed))
                self.judge(client, seed)
        for node in self.nodes:
            if (code := node.process.poll()) is not None:
                self.wrong.append(f"{node.name} has ended with {code}, and said: {node.log.read_text()}")
            elif text := node.log.read_text():
                self.wrong.append(f"{node.name} says: {text}")

    def judge(self, client: subprocess.Popen[str], seed: int) -> None:
        """A client has ended."""
        out, error = client.communicate()
        if client.pid in self.killed:
            return
        if client.returncode == BEREFT:
            self.bereft.append(error)
            if len(self.bereft) > self.done["rooms killed"]:
                self.wrong.append(f"more clients lost their rooms than were killed: {self.bereft}")
        elif client.returncode:
            self.wrong.append(f"client {seed} ended with {client.returncode}: {error}")
        with suppress(json.JSONDecodeError):
            self.done.update(json.loads(out))

    def end(self) -> None:
        """Wait for those who are still there; then nothing may be left."""
        until(lambda: self.look() or not self.clients, 300)
        for node in self.nodes:
            if node.process.poll() is None:
                self.see_empty(node)
        codes = [node.stop() for node in self.nodes]
        if any(codes):
            self.wrong.append(f"the nodes ended with {codes}")

    def see_empty(self, node: Node) -> None:
        try:
            took = until(lambda: not node.rooms() and not node.metrics()["syft_sessions"], GRACE + 10)
        except AssertionError:
            self.wrong.append(f"{node.name} is not empty: rooms {node.rooms()}, {node.metrics()}")
        else:
            size = node.memory() >> 20
            print(f"{node.name}: empty after {took:.1f} s; {node.files()} files, {node.threads()} threads, {size} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--client", nargs=4, metavar=("SEED", "BUNDLE", "ADDRESS", "ADDRESS"), help="be a client")
    options = parser.parse_args()
    if options.client:
        seed, bundle, *addresses = options.client
        return be_client(addresses, bundle, int(seed))
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), options.seed)
        try:
            soak.run(options.minutes * 60)
        finally:
            soak.end()
    print(", ".join(f"{what}: {number}" for what, number in sorted(soak.done.items())))
    print(f"clients that lost a room: {len(soak.bereft)}; cuts: {sum(proxy.cuts for proxy in soak.proxies)}")
    for wrong in soak.wrong:
        print(f"WRONG: {wrong}")
    return bool(soak.wrong)


if __name__ == "__main__":
    sys.exit(main())
