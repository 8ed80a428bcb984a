"""The processes that rooms are forked into."""

from __future__ import annotations

import os
import subprocess
import sys

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


ENGINE = """
import os, resource, select, socket, sys
import msgspec
from syft import limits
from syft.errors import WorkerShut
from syft.node.engines import Order
from syft.node.forkserver import ForkServer
order = Order("bob", 8 << 30, 60, 10, 1 << 30)
engine = ForkServer()

def children():
    return open(f"/proc/{engine._pid}/task/{engine._pid}/children").read().split()

def allow(free, pid):
    '''Let a process open so many files more.'''
    used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
    number = [fd for fd in range(1024) if fd not in used][free]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, 4096))
"""


def run(script):
    done = subprocess.run([sys.executable, "-c", ENGINE + script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "_run" not in done.stderr  # whatever becomes of a room
    return done.stdout.splitlines()


def test_a_room_that_takes_its_time_to_end_is_reaped():
    script = """
limits.CONNECT_SECONDS = 0
late = engine.open_room(order)
print(late.death().details)
late.kill()
end = select.poll()
end.register(late._descriptor)
end.poll()
late.close()
engine.open_room(order).close()
print(str(late.pid) in children())
engine.close()
"""
    assert run(script) == ["it was killed and does not end", "False"]


def test_without_file_descriptors_no_room_opens_and_nothing_is_left():
    script = """
def end(room):
    room.kill()
    room.death()
    room.close()

def refusals(pid):
    '''Let it have one more file each time, until there is a room.'''
    for free in range(20):
        allow(free, pid)
        try:
            end(engine.open_room(order))
        except WorkerShut:
            continue
        finally:
            allow(100, pid)
        return free

end(engine.open_room(order))
before = len(os.listdir("/proc/self/fd"))
print(refusals(engine._pid), refusals(os.getpid()) > 3, len(os.listdir("/proc/self/fd")) - before)
for _ in range(100):
    if children():
        end(engine.open_room(order))
print(children())
engine.close()
"""
    assert run(script) == ["2 True 0", "[]"]


def test_a_gate_that_does_not_wait_for_an_answer_is_gone_and_no_error():
    script = """
engine._orders.send(msgspec.msgpack.encode(order))
select.select([engine._orders], [], [])
engine.close()
"""
    assert run(script) == []
