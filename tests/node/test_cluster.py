"""The door for rooms on a cluster; what is behind it is in test_cluster_tls.py and test_ray.py."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace

import pytest

from syft import limits
from syft.node.cluster import Cluster

from ..helpers import until

pytestmark = pytest.mark.in_process


def test_the_door_for_rooms_stays_open_where_a_thread_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "ACCEPT_PAUSE", 0.01)
    let_in = threading.Event()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "a room's arrival":
            raise RuntimeError("can't start new thread")
        start(thread)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        engine = SimpleNamespace(
            _listener=listener,
            _doors=threading.BoundedSemaphore(1),
            _gone=False,
            _let_in=lambda connection: (connection.close(), let_in.set()),
            _pause=lambda error: Cluster._pause(engine, error),
        )
        accepting = threading.Thread(target=Cluster._accept, args=(engine,))
        accepting.start()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(3):
                with socket.create_connection(listener.getsockname(), 20) as refused:
                    assert refused.recv(1) == b""
            until(lambda: len(caplog.messages) == 3)
        with socket.create_connection(listener.getsockname(), 20):
            assert let_in.wait(20)
        engine._gone = True
        engine._doors.release()
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(20)
    assert set(caplog.messages) == {"a room cannot arrive: can't start new thread"}
